//! Sums against the definition, and partial checksums.

mod common;

use common::*;
use proptest::prelude::*;
use weir_packet::checksum::*;
use weir_packet::{Packet, protocol};

/// RFC 1071, word by word.
fn sum_by_definition(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn check_field(packet: &Packet) -> usize {
    let at = match packet.headers.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    };
    usize::from(packet.headers.l4) + at
}

/// What a Linux sender with offload leaves in the field: computed here from the key.
fn make_partial(frame: &mut [u8], packet: &Packet) {
    let (key, headers) = (packet.key, packet.headers);
    let len = u32::from(headers.end - headers.l4);
    let partial = fold(pseudo_header(&key.src, &key.dst, key.protocol, len));
    let at = check_field(packet);
    frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
}

proptest! {
    #[test]
    fn sum_is_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(fold(sum(&bytes)), sum_by_definition(&bytes));
    }

    #[test]
    fn sums_of_parts_add_up(
        bytes in proptest::collection::vec(any::<u8>(), 2..200),
        cut in 0..100_usize,
    ) {
        let cut = (cut * 2).min(bytes.len() & !1);
        prop_assert_eq!(fold(sum(&bytes[..cut]) + sum(&bytes[cut..])), fold(sum(&bytes)));
    }

    #[test]
    fn a_delta_is_the_difference(
        header in any::<[u8; 40]>(),
        new in any::<[u8; 16]>(),
        at in 0..=12_usize,
    ) {
        let check = !fold(sum(&header));
        let mut changed = header;
        changed[at * 2..at * 2 + 16].copy_from_slice(&new);
        let delta = Delta::of_bytes(&header[at * 2..at * 2 + 16], &new);
        prop_assert_eq!(apply(check, delta), !fold(sum(&changed)));
    }

    #[test]
    fn a_partial_checksum_is_seen_and_completed(
        (protocol, spec) in prop_oneof![
            Just((4, protocol::TCP)), Just((4, protocol::UDP)),
            Just((6, protocol::TCP)), Just((6, protocol::UDP)), Just((6, protocol::ICMPV6)),
        ].prop_flat_map(|(family, protocol)| (Just(protocol), spec_of(family, protocol))),
        padding in 0..9_usize,
    ) {
        let mut whole = spec.frame();
        // Ethernet padding, not zero, is not covered.
        let len = whole.len();
        whole.resize(len + padding, 0xa5);
        let packet = parse_ip(&whole);
        prop_assert_eq!(packet.key.protocol, protocol);
        let mut frame = whole.clone();
        make_partial(&mut frame, &packet);
        prop_assert!(l4_is_partial(&frame, &packet.headers));
        complete_l4(&mut frame, &packet.headers);
        prop_assert_eq!(&frame, &whole);
        complete_l4(&mut frame, &packet.headers);
        prop_assert_eq!(&frame, &whole);
    }

    #[test]
    fn a_damaged_packet_is_not_valid(
        spec in spec(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut frame = spec.frame();
        let headers = parse_ip(&frame).headers;
        prop_assert!(l4_is_valid(&frame, &headers));
        let range = usize::from(headers.l4)..frame.len();
        let at = range.start + at.index(range.len());
        // A UDP length changes what is covered; a UDP checksum bit may make it 0, "none".
        let is_udp = headers.protocol == protocol::UDP;
        prop_assume!(!is_udp || !(4..8).contains(&(at - range.start)));
        frame[at] ^= 1_u8 << bit;
        prop_assert!(!l4_is_valid(&frame, &headers));
    }
}

/// Over all values of the field exactly one is taken for partial.
#[test]
fn one_value_of_the_field_is_partial() {
    let key = key("10.0.0.1", "10.0.0.2", 40000, 80, protocol::TCP);
    let spec = Spec { key, is_reply: false, ttl: 64, seq: 9, window: 9, payload: vec![1, 2, 3] };
    let mut frame = spec.frame();
    let packet = parse_ip(&frame);
    let at = check_field(&packet);
    let mut is_partial = |value: u16| {
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
        l4_is_partial(&frame, &packet.headers)
    };
    assert_eq!((0..=u16::MAX).filter(|value| is_partial(*value)).count(), 1);
}

#[test]
fn udp_without_checksum_is_neither_partial_nor_completed() {
    let key = key("10.0.0.1", "10.0.0.2", 40000, 53, protocol::UDP);
    let spec = Spec { key, is_reply: false, ttl: 64, seq: 0, window: 0, payload: vec![1, 2, 3] };
    let mut frame = spec.frame();
    let packet = parse_ip(&frame);
    let at = check_field(&packet);
    frame[at..at + 2].fill(0);
    let before = frame.clone();
    assert!(!l4_is_partial(&frame, &packet.headers) && l4_is_valid(&frame, &packet.headers));
    complete_l4(&mut frame, &packet.headers);
    assert_eq!(frame, before);
}

/// Over all source ports the checksum takes all values, among them the one written as 0xffff.
#[test]
fn a_completed_udp_checksum_is_never_zero() {
    for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let mut ones_seen = 0;
        for sport in 0..=u16::MAX {
            let key = key(src, dst, sport, 53, protocol::UDP);
            let spec = Spec { key, is_reply: false, ttl: 64, seq: 0, window: 0, payload: vec![5] };
            let whole = spec.frame();
            let packet = parse_ip(&whole);
            let mut frame = whole.clone();
            make_partial(&mut frame, &packet);
            complete_l4(&mut frame, &packet.headers);
            assert_eq!(frame, whole);
            let at = check_field(&packet);
            ones_seen += u32::from(frame[at..at + 2] == [0xff, 0xff]);
        }
        assert!(ones_seen >= 1, "the case never came up");
    }
}

/// Bytes of the IP datagram behind the UDP length are not UDP's.
#[test]
fn a_udp_checksum_ends_with_the_udp_length() {
    let key = key("10.0.0.1", "10.0.0.2", 40000, 53, protocol::UDP);
    let spec = Spec { key, is_reply: false, ttl: 64, seq: 0, window: 0, payload: vec![1, 2, 3] };
    let datagram = [&spec.frame()[34..], &[0xa5; 5][..]].concat();
    let mut frame = ip_frame(key.src, key.dst, protocol::UDP, &datagram);
    let before = frame.clone();
    let headers = parse_ip(&frame).headers;
    assert!(l4_is_valid(&frame, &headers));
    complete_l4(&mut frame, &headers);
    assert_eq!(frame, before);
}

#[test]
fn an_empty_sctp_checksum_is_partial() {
    let key = key("10.0.0.1", "10.0.0.2", 40000, 9, protocol::SCTP);
    let mut frame = ip_frame(key.src, key.dst, protocol::SCTP, &[[7; 8], [0; 8], [1; 8]].concat());
    frame[42..46].fill(0);
    let headers = parse_ip(&frame).headers;
    assert!(l4_is_partial(&frame, &headers) && !l4_is_valid(&frame, &headers));
    complete_l4(&mut frame, &headers);
    assert!(!l4_is_partial(&frame, &headers) && l4_is_valid(&frame, &headers));
}
