//! Translations against etherparse: rewriting a packet must equal building the translated packet.

mod common;

use common::*;
use proptest::prelude::*;
use weir_packet::checksum::{self, complete_l4, l3_is_valid, l4_is_valid};
use weir_packet::{Addr, FlowKey, Fragment, Mac, Translation, TtlExpired};
use weir_packet::{decrement_ttl, protocol, rewrite, set_macs};

type NewEnd = Option<(Addr, u16)>;

fn new_end(family: u8) -> impl Strategy<Value = NewEnd> {
    proptest::option::of((addr(family), any::<u16>()))
}

fn translated() -> impl Strategy<Value = (Spec, Translation)> {
    spec().prop_flat_map(|spec| {
        let ends = (new_end(spec.key.family), new_end(spec.key.family));
        ends.prop_map(move |(src, dst)| (spec.clone(), Translation::new(&spec.key, src, dst)))
    })
}

fn check_at(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    }
}

fn apply(translation: &Translation, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let headers = parse_ip(&frame).headers;
    translation.apply(&mut frame, &headers);
    frame
}

proptest! {
    #[test]
    fn equals_building_the_translated_packet((spec, translation) in translated()) {
        let after = apply(&translation, &spec.frame());
        let expected = Spec { key: translation.key_after(&spec.key), ..spec }.frame();
        prop_assert_eq!(&after, &expected);
        let packet = parse_ip(&after);
        prop_assert!(l3_is_valid(&after, &packet.headers));
        prop_assert!(l4_is_valid(&after, &packet.headers));
    }

    #[test]
    fn the_inverse_restores_every_byte((spec, translation) in translated()) {
        let before = spec.frame();
        let inverse = Translation::between(&translation.key_after(&spec.key), &spec.key);
        prop_assert_eq!(apply(&inverse, &apply(&translation, &before)), before);
    }

    #[test]
    fn replies_return_to_the_original_flow((spec, translation) in translated()) {
        let replies = translation.for_replies(&spec.key);
        let reply_key = translation.key_after(&spec.key).reversed();
        let reply = Spec { key: reply_key, is_reply: !spec.is_reply, ..spec.clone() };
        let after = apply(&replies, &reply.frame());
        prop_assert_eq!(parse_ip(&after).key, spec.key.reversed());
        prop_assert!(l4_is_valid(&after, &parse_ip(&after).headers));
    }

    /// The error, as a ones-complement difference, is the same before and after.
    #[test]
    fn a_wrong_checksum_stays_as_wrong(
        (spec, translation) in translated(),
        error in 1..0xffff_u16,
    ) {
        let mut frame = spec.frame();
        let headers = parse_ip(&frame).headers;
        let protocol = headers.protocol;
        for at in [usize::from(headers.l4) + check_at(protocol), 24] {
            if at == 24 && headers.family == 6 {
                continue;
            }
            let held = u16::from_be_bytes([frame[at], frame[at + 1]]);
            let wrong = checksum::apply(held, checksum::Delta(error));
            // No checksum at all, and the one value with two spellings, are other tests' matters.
            prop_assume!(wrong != 0 && wrong != 0xffff);
            frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        }
        let after = apply(&translation, &frame);
        prop_assert!(!l4_is_valid(&after, &headers));
        prop_assert!(headers.family == 6 || !l3_is_valid(&after, &headers));
        let inverse = Translation::between(&translation.key_after(&spec.key), &spec.key);
        prop_assert_eq!(apply(&inverse, &after), frame);
    }

    #[test]
    fn ttl_goes_down_by_one_and_the_checksum_with_it(spec in spec()) {
        let mut frame = spec.frame();
        let headers = parse_ip(&frame).headers;
        let result = decrement_ttl(&mut frame, &headers);
        if spec.ttl == 1 {
            prop_assert_eq!(result, Err(TtlExpired));
            prop_assert_eq!(frame, spec.frame());
        } else {
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(frame, Spec { ttl: spec.ttl - 1, ..spec }.frame());
        }
    }

    #[test]
    fn sctp_ports_change_its_crc(
        ends in (addr(4), addr(4), any::<u16>(), any::<u16>()),
        new_dst in new_end(4),
        error in any::<u32>(),
        payload in proptest::collection::vec(any::<u8>(), 8..1400),
    ) {
        let (src, dst, sport, dport) = ends;
        let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
        let mut frame = ip_frame(src, dst, protocol::SCTP, &[&ports, &payload[..]].concat());
        let packet = parse_ip(&frame);
        complete_l4(&mut frame, &packet.headers);
        prop_assert!(l4_is_valid(&frame, &packet.headers));
        let translation = Translation::new(&packet.key, None, new_dst);
        let after = apply(&translation, &frame);
        prop_assert_eq!(parse_ip(&after).key, translation.key_after(&packet.key));
        prop_assert!(l4_is_valid(&after, &packet.headers));
        let at = usize::from(packet.headers.l4) + 8;
        for i in 0..4 {
            frame[at + i] ^= error.to_le_bytes()[i];
        }
        prop_assert_eq!(l4_is_valid(&apply(&translation, &frame), &packet.headers), error == 0);
    }
}

/// Two hosts that ping with the same identifier, masqueraded as one.
#[test]
fn echo_identifiers_are_translated() {
    for (src, dst, node, protocol) in [
        ("10.0.0.1", "192.0.2.1", "10.0.0.254", protocol::ICMP),
        ("fd00::1", "2001:db8::1", "fd00::fe", protocol::ICMPV6),
    ] {
        for (old, new) in [(7, 40_000), (0, 40_000), (7, 0)] {
            let request = key(src, dst, old, 0, protocol);
            let node = node.parse().expect("an address");
            let translation = Translation::new(&request, Some((node, new)), None);
            let spec = Spec { key: request, is_reply: false, ttl: 9, ..Spec::default() };
            let outside = FlowKey { src: node, sport: new, ..request };
            assert_eq!(translation.key_after(&request), outside);
            let after = apply(&translation, &spec.frame());
            assert_eq!(after, Spec { key: outside, ..spec.clone() }.frame());
            assert_eq!(parse_ip(&after).key, outside);

            let reply = Spec { key: outside.reversed(), is_reply: true, ..spec };
            let back = apply(&translation.for_replies(&request), &reply.frame());
            assert_eq!(back, Spec { key: request.reversed(), ..reply }.frame());
            assert_eq!(parse_ip(&back).key, request.reversed());
        }
    }
}

/// Type 13 is a timestamp: bytes 4 to 6 are its own identifier, which no key holds.
#[test]
fn only_echoes_have_identifiers() {
    let echo = key("10.0.0.1", "192.0.2.1", 7, 0, protocol::ICMP);
    let mut frame = ip_frame(echo.src, echo.dst, protocol::ICMP, &[13, 0, 0, 0, 0, 7, 0, 1]);
    let headers = parse_ip(&frame).headers;
    complete_l4(&mut frame, &headers);
    let translation = Translation::new(&echo, Some((Addr::from_v4([10, 0, 0, 9]), 8)), None);
    let after = apply(&translation, &frame);
    assert_eq!(after[34..], frame[34..]);
    assert!(l3_is_valid(&after, &headers) && l4_is_valid(&after, &headers));
}

#[test]
fn udp_without_checksum_stays_without() {
    let key = key("10.0.0.1", "10.96.0.1", 40000, 53, protocol::UDP);
    let spec =
        Spec { key, is_reply: false, ttl: 64, seq: 0, window: 0, payload: b"query".to_vec() };
    let mut frame = spec.frame();
    let headers = parse_ip(&frame).headers;
    let at = usize::from(headers.l4) + 6;
    frame[at..at + 2].fill(0);
    let backend = (Addr::from_v4([10, 244, 1, 7]), 5353);
    let after = apply(&Translation::new(&key, None, Some(backend)), &frame);
    assert_eq!(after[at..at + 2], [0, 0]);
    assert!(l3_is_valid(&after, &headers) && l4_is_valid(&after, &headers));
}

/// Over all destination ports the checksum takes all values, among them the one written as 0xffff.
#[test]
fn a_udp_checksum_never_becomes_zero() {
    for (src, dst) in [("10.0.0.1", "10.96.0.1"), ("fd00::1", "fd00::2")] {
        let key = key(src, dst, 40000, 53, protocol::UDP);
        let spec = Spec { key, is_reply: false, ttl: 64, seq: 0, window: 0, payload: vec![1, 2] };
        let before = spec.frame();
        let mut ones_seen = 0;
        for dport in 0..=u16::MAX {
            let translation = Translation::new(&key, None, Some((key.dst, dport)));
            let after = apply(&translation, &before);
            assert_eq!(after, Spec { key: FlowKey { dport, ..key }, ..spec.clone() }.frame());
            let at = usize::from(parse_ip(&after).headers.l4) + 6;
            assert_ne!(after[at..at + 2], [0, 0]);
            if after[at..at + 2] == [0xff, 0xff] {
                ones_seen += 1;
                // And back from 0xffff.
                let inverse = Translation::between(&translation.key_after(&key), &key);
                assert_eq!(apply(&inverse, &after), before);
            }
        }
        assert!(ones_seen >= 1, "the case never came up");
    }
}

#[test]
fn translated_fragments_reassemble_to_a_valid_datagram() {
    let key = key("10.0.0.1", "10.96.0.1", 40000, 53, protocol::UDP);
    let payload: Vec<u8> = (0..100).collect();
    let whole = Spec { key, is_reply: false, ttl: 64, seq: 0, window: 0, payload }.frame();
    let (datagram, cut) = (&whole[34..], 48);
    let fragment = |part: &[u8], field: u16| {
        let mut frame = ip_frame(key.src, key.dst, protocol::UDP, part);
        frame[18..20].copy_from_slice(&77_u16.to_be_bytes());
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame
    };
    let first = fragment(&datagram[..cut], 0x2000);
    let later = fragment(&datagram[cut..], cut as u16 / 8);
    assert_eq!(parse_ip(&first).headers.fragment, Fragment::First);
    assert_eq!(parse_ip(&later).headers.fragment, Fragment::Later);
    let translation = Translation::new(&key, None, Some((Addr::from_v4([10, 244, 1, 7]), 5353)));
    let (first, later) = (apply(&translation, &first), apply(&translation, &later));
    assert_eq!(later[34..], datagram[cut..], "a later fragment has no L4 header to rewrite");
    let after = translation.key_after(&key);
    assert_eq!(parse_ip(&later).key.dst, after.dst);
    let joined = [&first[34..], &later[34..]].concat();
    let joined = ip_frame(after.src, after.dst, protocol::UDP, &joined);
    assert_eq!(parse_ip(&joined).key, after);
    assert!(l4_is_valid(&joined, &parse_ip(&joined).headers));
}

#[test]
fn the_last_hop_is_not_taken() {
    for (src, dst) in [("10.0.0.1", "10.96.0.1"), ("fd00::1", "fd00::2")] {
        let key = key(src, dst, 1, 2, protocol::UDP);
        let spec = |ttl| Spec { key, is_reply: false, ttl, seq: 0, window: 0, payload: vec![] };
        for (ttl, expected) in [(0, None), (1, None), (2, Some(1)), (255, Some(254))] {
            let mut frame = spec(ttl).frame();
            let headers = parse_ip(&frame).headers;
            let result = decrement_ttl(&mut frame, &headers);
            assert_eq!(result.is_ok(), expected.is_some(), "TTL {ttl}");
            assert_eq!(frame, spec(expected.unwrap_or(ttl)).frame(), "TTL {ttl}");
        }
    }
}

#[test]
fn nothing_to_change_is_none() {
    let tcp = key("10.0.0.1", "10.96.0.1", 40000, 80, protocol::TCP);
    assert_eq!(Translation::new(&tcp, None, None), Translation::NONE);
    assert_eq!(Translation::new(&tcp, None, Some((tcp.dst, 80))), Translation::NONE);
    let echo = key("10.0.0.1", "10.96.0.1", 7, 0, protocol::ICMP);
    assert_eq!(Translation::new(&echo, None, Some((echo.dst, 99))), Translation::NONE);
    let reply = echo.reversed();
    assert_eq!(Translation::new(&reply, Some((reply.src, 99)), None), Translation::NONE);
    let gre = key("10.0.0.1", "10.96.0.1", 0, 0, 47);
    assert_eq!(Translation::new(&gre, Some((gre.src, 9)), Some((gre.dst, 9))), Translation::NONE);
    assert_eq!(Translation::NONE.key_after(&tcp), tcp);
}

#[test]
fn macs_are_written_in_wire_order() {
    let mut frame = [0xee; 14];
    set_macs(&mut frame, DST_MAC, SRC_MAC);
    assert_eq!((rewrite::dst_mac(&frame), rewrite::src_mac(&frame)), (DST_MAC, SRC_MAC));
    assert_eq!(frame[12..], [0xee, 0xee]);
    let mut short = [1; 11];
    set_macs(&mut short, Mac::BROADCAST, Mac::BROADCAST);
    assert_eq!(short, [1; 11]);
}
