//! Answers and built frames, read back by etherparse.

mod common;

use common::*;
use etherparse::{
    ArpOperation, Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4, icmpv6,
};
use proptest::prelude::*;
use weir_packet::build::{Path, Segment, emit_echo, emit_tcp, emit_udp};
use weir_packet::checksum::{l3_is_valid, l4_is_valid};
use weir_packet::reply::{
    IcmpError, write_echo_reply, write_icmp_error, write_tcp_abort, write_tcp_reset,
};
use weir_packet::{Addr, FlowKey, IcmpKind, Mac, arp, decrement_ttl, nd, parse_quote};
use weir_packet::{protocol, rewrite, tcp_flags};

const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xff]);

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn assert_valid(frame: &[u8]) {
    let headers = parse_ip(frame).headers;
    assert_eq!(usize::from(headers.end), frame.len());
    assert!(l3_is_valid(frame, &headers), "IPv4 checksum");
    assert!(l4_is_valid(frame, &headers), "L4 checksum");
    SlicedPacket::from_ethernet(frame).expect("a frame that etherparse reads");
}

/// A buffer as a worker has it: the frame at the start, garbage behind.
fn in_chunk(frame: &[u8]) -> Vec<u8> {
    let mut chunk = frame.to_vec();
    chunk.resize(2048, 0xa5);
    chunk
}

proptest! {
    #[test]
    fn built_frames_are_etherparses(spec in spec()) {
        let path = Path { ttl: spec.ttl, ..Path::of(&spec.key, DST_MAC, SRC_MAC) };
        // An echo with identifier 0 has two ports 0: taken for a request.
        let is_ambiguous = spec.is_reply && spec.key.dport == 0;
        let mut buf = vec![0xa5; 400];
        let len = match spec.key.protocol {
            protocol::UDP => emit_udp(&mut buf, &path, &spec.payload),
            protocol::TCP => {
                let flags = tcp_flags::ACK | tcp_flags::PSH;
                let segment = Segment { seq: spec.seq, ack: !spec.seq, flags, window: spec.window };
                emit_tcp(&mut buf, &path, &segment, &spec.payload)
            }
            _ => {
                prop_assume!(!is_ambiguous);
                emit_echo(&mut buf, &path, spec.seq as u16, &spec.payload)
            }
        };
        let expected = spec.frame();
        prop_assert_eq!(len, Some(expected.len()));
        prop_assert_eq!(&buf[..expected.len()], &expected[..]);
        prop_assert!(emit_udp(&mut buf[..41], &path, &spec.payload).is_none());
    }

    #[test]
    fn an_echo_is_answered(spec in prop_oneof![
        spec_of(4, protocol::ICMP), spec_of(6, protocol::ICMPV6)
    ]) {
        let key = FlowKey { sport: spec.seq as u16 | 1, dport: 0, ..spec.key };
        let spec = Spec { is_reply: false, key, ..spec };
        let mut frame = in_chunk(&spec.frame());
        let headers = parse_ip(&spec.frame()).headers;
        let len = write_echo_reply(&mut frame, &headers).expect("a reply");
        frame.truncate(len);
        let reply = Spec { key: spec.key.reversed(), is_reply: true, ttl: 64, ..spec };
        let mut expected = reply.frame();
        rewrite::set_macs(&mut expected, SRC_MAC, DST_MAC);
        prop_assert_eq!(frame.clone(), expected);
        let headers = parse_ip(&frame).headers;
        prop_assert_eq!(write_echo_reply(&mut frame, &headers), None);
    }

    #[test]
    fn a_reset_acknowledges_what_it_refuses(
        spec in prop_oneof![spec_of(4, protocol::TCP), spec_of(6, protocol::TCP)],
        flags in 0..64_u8,
    ) {
        let path = Path::of(&spec.key, DST_MAC, SRC_MAC);
        let segment = Segment { seq: spec.seq, ack: 77, flags, window: 1 };
        let mut frame = vec![0; 500];
        let len = emit_tcp(&mut frame, &path, &segment, &spec.payload).expect("room");
        frame.truncate(len);
        let headers = parse_ip(&frame).headers;
        let written = write_tcp_reset(&mut frame, &headers);
        if flags & tcp_flags::RST != 0 {
            prop_assert_eq!(written, None);
            return Ok(());
        }
        frame.truncate(written.expect("a reset"));
        assert_valid(&frame);
        prop_assert_eq!(parse_ip(&frame).key, spec.key.reversed());
        prop_assert_eq!(rewrite::dst_mac(&frame), SRC_MAC);
        let sliced = SlicedPacket::from_ethernet(&frame).expect("a frame");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
        prop_assert!(tcp.rst() && !tcp.syn() && !tcp.fin());
        if flags & tcp_flags::ACK != 0 {
            prop_assert_eq!((tcp.sequence_number(), tcp.ack()), (77, false));
        } else {
            let len = spec.payload.len() as u32
                + u32::from(flags & tcp_flags::SYN != 0)
                + u32::from(flags & tcp_flags::FIN != 0);
            prop_assert_eq!((tcp.sequence_number(), tcp.ack()), (0, true));
            prop_assert_eq!(tcp.acknowledgment_number(), spec.seq.wrapping_add(len));
        }
    }

    /// The receiver sees a reset from its own peer: same ends, same place in the stream.
    #[test]
    fn an_abort_is_a_reset_by_the_sender(
        spec in prop_oneof![spec_of(4, protocol::TCP), spec_of(6, protocol::TCP)],
        flags in 0..64_u8,
    ) {
        let path = Path { ttl: spec.ttl, ..Path::of(&spec.key, DST_MAC, SRC_MAC) };
        let segment = Segment { seq: spec.seq, ack: 77, flags, window: 1 };
        let mut frame = vec![0; 500];
        let len = emit_tcp(&mut frame, &path, &segment, &spec.payload).expect("room");
        frame.truncate(len);
        let (before, headers) = (frame.clone(), parse_ip(&frame).headers);
        let written = write_tcp_abort(&mut frame, &headers);
        if flags & tcp_flags::RST != 0 {
            prop_assert_eq!((written, frame), (None, before));
            return Ok(());
        }
        frame.truncate(written.expect("a reset"));
        assert_valid(&frame);
        let reset = Segment {
            flags: tcp_flags::RST | flags & tcp_flags::ACK,
            window: 0,
            ..segment
        };
        let mut expected = vec![0; 100];
        let len = emit_tcp(&mut expected, &path, &reset, &[]).expect("room");
        prop_assert_eq!(&frame, &expected[..len]);
        let headers = parse_ip(&frame).headers;
        prop_assert_eq!(write_tcp_abort(&mut frame, &headers), None);
    }

    #[test]
    fn an_icmp_error_quotes_its_packet(
        mut spec in spec(),
        payload_len in 0..1600_usize,
        room in 90..2048_usize,
    ) {
        spec.payload.resize(payload_len, 7);
        let original = spec.frame();
        let headers = parse_ip(&original).headers;
        let mut frame = in_chunk(&original);
        frame.truncate(room.max(original.len()));
        let is_v4 = spec.key.family == 4;
        let source = addr(if is_v4 { "10.0.0.254" } else { "fd00::fe" });
        let len = write_icmp_error(&mut frame, &headers, IcmpError::TooBig { mtu: 1400 }, source);
        // Only a buffer without room for the outer headers and 8 bytes beyond the quoted IP header.
        let Some(len) = len else {
            let least = if is_v4 { 42 + 28 } else { 62 + 48 };
            prop_assert!(frame.len() < least);
            return Ok(());
        };
        frame.truncate(len);
        assert_valid(&frame);
        let (quote_at, max) = if is_v4 { (42, 14 + 576) } else { (62, 14 + 1280) };
        let quote = &frame[quote_at..];
        prop_assert!(frame.len() <= max);
        prop_assert_eq!(quote, &original[14..14 + quote.len()]);
        let room = room.max(original.len());
        prop_assert_eq!(quote.len(), (original.len() - 14).min(max.min(room) - quote_at));
        let packet = parse_ip(&frame);
        prop_assert_eq!((packet.key.src, packet.key.dst), (source, spec.key.src));
        prop_assert_eq!(packet.headers.icmp, IcmpKind::Error);
        let mut again = frame.clone();
        prop_assert_eq!(
            write_icmp_error(&mut again, &packet.headers, IcmpError::NoRoute, source),
            None
        );
        prop_assert_eq!(again, frame);
    }
}

#[test]
fn icmp_errors_have_their_codes() {
    use icmpv4::{DestUnreachableHeader as V4, TimeExceededCode as V4Time};
    use icmpv6::{DestUnreachableCode as V6, TimeExceededCode as V6Time};
    let unreachable = Icmpv4Type::DestinationUnreachable;
    let next_hop_mtu = 1400;
    let rows = [
        (
            IcmpError::NoRoute,
            unreachable(V4::Network),
            Icmpv6Type::DestinationUnreachable(V6::NoRoute),
        ),
        (
            IcmpError::HostUnreachable,
            unreachable(V4::Host),
            Icmpv6Type::DestinationUnreachable(V6::Address),
        ),
        (
            IcmpError::PortUnreachable,
            unreachable(V4::Port),
            Icmpv6Type::DestinationUnreachable(V6::Port),
        ),
        (
            IcmpError::Prohibited,
            unreachable(V4::FilterProhibited),
            Icmpv6Type::DestinationUnreachable(V6::Prohibited),
        ),
        (
            IcmpError::TooBig { mtu: 1400 },
            unreachable(V4::FragmentationNeeded { next_hop_mtu }),
            Icmpv6Type::PacketTooBig { mtu: 1400 },
        ),
        (
            IcmpError::TimeExceeded,
            Icmpv4Type::TimeExceeded(V4Time::TtlExceededInTransit),
            Icmpv6Type::TimeExceeded(V6Time::HopLimitExceeded),
        ),
    ];
    for (error, v4, v6) in rows {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let path = Path::of(&key(src, dst, 1, 2, protocol::UDP), DST_MAC, SRC_MAC);
            let mut frame = vec![0; 200];
            let len = emit_udp(&mut frame, &path, b"hello").expect("room");
            let headers = parse_ip(&frame[..len]).headers;
            let len = write_icmp_error(&mut frame, &headers, error, path.dst).expect("room");
            match SlicedPacket::from_ethernet(&frame[..len]).expect("a frame").transport {
                Some(TransportSlice::Icmpv4(icmp)) => assert_eq!(icmp.icmp_type(), v4),
                Some(TransportSlice::Icmpv6(icmp)) => assert_eq!(icmp.icmp_type(), v6),
                other => panic!("not ICMP: {other:?}"),
            }
        }
    }
}

/// A packet on its way through, with options, as a fragment, and padded to Ethernet's minimum: the
/// quote is the datagram as it arrived, and the error goes back where it came from.
#[test]
fn errors_on_the_way_quote_what_arrived() {
    let (src, dst) = (addr("10.0.0.1"), addr("192.0.2.1"));
    let udp = [0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    let mut v4 = ip_frame(src, dst, protocol::UDP, &[&[148, 4, 0, 0], &udp[..]].concat());
    (v4[14], v4[22]) = (0x46, 1);
    let mut fragment = ip_frame(src, dst, protocol::UDP, &[&udp[..], &[5, 6, 7, 8]].concat());
    (fragment[20], fragment[22], fragment[39]) = (0x20, 1, 99);
    let (src, dst) = (addr("fd00::1"), addr("2001:db8::1"));
    let options = [protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
    let mut v6 = ip_frame(src, dst, 60, &[&options, &udp[..]].concat());
    v6[21] = 1;
    for (datagram, router) in [(v4, "10.0.0.254"), (fragment, "10.0.0.254"), (v6, "fd00::fe")] {
        for error in [IcmpError::TimeExceeded, IcmpError::TooBig { mtu: 1442 }] {
            let mut frame = in_chunk(&datagram);
            let packet = parse_ip(&datagram);
            assert!(decrement_ttl(&mut frame, &packet.headers).is_err());
            let len = write_icmp_error(&mut frame, &packet.headers, error, addr(router));
            frame.truncate(len.expect("an error"));
            assert_valid(&frame);
            assert!(frame.ends_with(&datagram[14..]), "the whole datagram, and no padding");
            let answer = parse_ip(&frame);
            assert_eq!((answer.key.src, answer.key.dst), (addr(router), packet.key.src));
            assert_eq!((rewrite::dst_mac(&frame), rewrite::src_mac(&frame)), (SRC_MAC, DST_MAC));
            let quote = parse_quote(&frame, &answer.headers).expect("a quote");
            assert_eq!((quote.key, quote.fragment), (packet.key, packet.headers.fragment));
        }
    }
}

/// RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4(e).
#[test]
fn some_packets_must_not_be_answered() {
    let answer = |src: &str, dst: &str, dst_mac: Mac, error| {
        let path = Path::of(&key(src, dst, 1, 2, protocol::UDP), dst_mac, SRC_MAC);
        let mut frame = vec![0; 200];
        let len = emit_udp(&mut frame, &path, b"hello").expect("room");
        let headers = parse_ip(&frame[..len]).headers;
        let before = frame.clone();
        let source = if path.dst.is_v4() { "10.0.0.254" } else { "fd00::fe" };
        let answered = write_icmp_error(&mut frame, &headers, error, addr(source)).is_some();
        assert!(answered || frame == before, "{src} -> {dst}: written without an answer");
        answered
    };
    let no_route = IcmpError::NoRoute;
    let too_big = IcmpError::TooBig { mtu: 1400 };
    assert!(answer("10.0.0.1", "10.0.0.2", DST_MAC, no_route));
    for (src, dst) in [
        ("10.0.0.1", "224.0.0.1"),
        ("10.0.0.1", "255.255.255.255"),
        ("0.0.0.0", "10.0.0.2"),
        ("127.0.0.1", "10.0.0.2"),
        ("224.0.0.1", "10.0.0.2"),
        ("255.255.255.255", "10.0.0.2"),
        ("fd00::1", "ff02::1"),
        ("::", "fd00::2"),
        ("ff02::1", "fd00::2"),
    ] {
        assert!(!answer(src, dst, DST_MAC, no_route), "{src} -> {dst}");
    }
    assert!(!answer("10.0.0.1", "10.0.0.2", Mac::BROADCAST, no_route));
    assert!(answer("fd00::1", "ff02::1", Mac([0x33, 0x33, 0, 0, 0, 1]), too_big));
    assert!(!answer("10.0.0.1", "224.0.0.1", DST_MAC, too_big));
}

/// A first fragment gets an ICMP error (it has the ports) but no reset or echo reply.
#[test]
fn fragments_are_answered_by_errors_only() {
    for (protocol, l4) in [(protocol::TCP, [0x50; 24]), (protocol::ICMP, [8; 24])] {
        for (field, may_be_error) in [(0x2000_u16, true), (3, false)] {
            let (src, dst) = (addr("10.0.0.1"), addr("10.0.0.2"));
            let mut frame = ip_frame(src, dst, protocol, &l4);
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            let headers = parse_ip(&frame).headers;
            let mut frame = in_chunk(&frame);
            assert_eq!(write_tcp_reset(&mut frame, &headers), None);
            assert_eq!(write_tcp_abort(&mut frame, &headers), None);
            assert_eq!(write_echo_reply(&mut frame, &headers), None);
            let error = write_icmp_error(&mut frame, &headers, IcmpError::Prohibited, dst);
            assert_eq!(error.is_some(), may_be_error);
        }
    }
}

/// A request for 169.254.1.1, as a pod sends it.
fn arp_request() -> Vec<u8> {
    let mut frame = [&[0xff; 6], &SRC_MAC.0[..], &[8, 6]].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(SRC_MAC.0);
    frame.extend([10, 244, 1, 7]);
    frame.extend([0; 6]);
    frame.extend([169, 254, 1, 1]);
    frame
}

#[test]
fn an_arp_request_is_answered() {
    let mut frame = arp_request();
    let request = arp::parse_request(&frame).expect("a request");
    let (sender, target) = (addr("10.244.1.7"), addr("169.254.1.1"));
    assert_eq!(request, arp::ArpRequest { sender_mac: SRC_MAC, sender, target });
    assert_eq!(arp::emit_reply(&mut frame, &request, ROUTER_MAC), Some(42));
    assert_eq!(rewrite::dst_mac(&frame), SRC_MAC);
    assert_eq!(arp::parse_request(&frame), None, "a reply is not a request");
    let sliced = SlicedPacket::from_ethernet(&frame).expect("a frame");
    let Some(NetSlice::Arp(reply)) = sliced.net else { panic!("not ARP") };
    assert_eq!(reply.operation(), ArpOperation::REPLY);
    assert_eq!(
        (reply.sender_hw_addr(), reply.sender_protocol_addr()),
        (&ROUTER_MAC.0[..], &[169, 254, 1, 1][..])
    );
    assert_eq!(
        (reply.target_hw_addr(), reply.target_protocol_addr()),
        (&SRC_MAC.0[..], &[10, 244, 1, 7][..])
    );
}

/// The answer would be flooded.
#[test]
fn an_arp_request_from_a_group_is_none() {
    let mut frame = arp_request();
    frame[22] |= 1;
    assert_eq!(arp::parse_request(&frame), None);
}

#[test]
fn other_arp_is_not_a_request() {
    let good = arp_request();
    for len in 0..good.len() {
        assert_eq!(arp::parse_request(&good[..len]), None);
    }
    // EtherType, hardware type, protocol type, both lengths, operation.
    for at in [13, 15, 16, 18, 19, 21] {
        let mut frame = good.clone();
        frame[at] ^= 3;
        assert_eq!(arp::parse_request(&frame), None, "byte {at}");
    }
}

/// A solicitation for fe80::1 with a right checksum, after `change`.
fn solicitation(src: &str, dst: &str, options: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(addr("fe80::1").octets());
    message.extend(options);
    let mut frame = ip_frame(addr(src), addr(dst), protocol::ICMPV6, &message);
    frame[21] = 255;
    change(&mut frame);
    let headers = parse_ip(&frame).headers;
    weir_packet::checksum::complete_l4(&mut frame, &headers);
    frame
}

fn parse_solicitation(frame: &[u8]) -> Option<nd::Solicitation> {
    nd::parse_solicitation(frame, &parse_ip(frame).headers)
}

const SOLICITED_NODE: &str = "ff02::1:ff00:1";
const SOURCE_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 0x77];

#[test]
fn a_solicitation_is_answered() {
    let pod = "fe80::7";
    let frame = solicitation(pod, SOLICITED_NODE, &SOURCE_OPTION, |_| {});
    let asked = parse_solicitation(&frame).expect("a solicitation");
    let source_mac = Mac([2, 0, 0, 0, 0, 0x77]);
    assert_eq!(asked, nd::Solicitation { source: addr(pod), source_mac, target: addr("fe80::1") });
    let mut answer = in_chunk(&frame);
    let len = nd::emit_advertisement(&mut answer, &asked, ROUTER_MAC, true).expect("room");
    answer.truncate(len);
    assert_valid(&answer);
    let packet = parse_ip(&answer);
    assert_eq!((packet.headers.icmp, packet.headers.ttl), (IcmpKind::NeighbourAdvertisement, 255));
    assert_eq!((packet.key.src, packet.key.dst), (addr("fe80::1"), addr(pod)));
    assert_eq!(rewrite::dst_mac(&answer), source_mac);
    let Some(TransportSlice::Icmpv6(icmp)) =
        SlicedPacket::from_ethernet(&answer).expect("a frame").transport
    else {
        panic!("not ICMPv6")
    };
    let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else { panic!("not ND") };
    assert!(flags.router && flags.solicited && flags.r#override);
    let option = [&[2, 1], &ROUTER_MAC.0[..]].concat();
    assert_eq!(icmp.payload(), [&addr("fe80::1").octets()[..], &option].concat());
}

#[test]
fn a_probe_is_answered_to_all_nodes() {
    let frame = solicitation("::", SOLICITED_NODE, &[], |_| {});
    let asked = parse_solicitation(&frame).expect("a probe");
    let mut answer = in_chunk(&frame);
    let len = nd::emit_advertisement(&mut answer, &asked, ROUTER_MAC, false).expect("room");
    assert_valid(&answer[..len]);
    assert_eq!(parse_ip(&answer[..len]).key.dst, addr("ff02::1"));
    assert_eq!(rewrite::dst_mac(&answer), Mac([0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(answer[58], 0x20, "override only");
}

/// RFC 4861 section 7.1.1, point by point.
#[test]
fn invalid_solicitations_are_not_answered() {
    let (pod, node, option) = ("fe80::7", SOLICITED_NODE, &SOURCE_OPTION[..]);
    let good = solicitation(pod, node, option, |_| {});
    assert!(parse_solicitation(&good).is_some());
    assert!(parse_solicitation(&solicitation(pod, node, &[], |_| {})).is_some());
    let rows = [
        ("hop limit 254", solicitation(pod, node, option, |frame| frame[21] = 254)),
        ("code 1", solicitation(pod, node, option, |frame| frame[55] = 1)),
        ("multicast target", solicitation(pod, node, option, |frame| frame[62] = 0xff)),
        ("option of length 0", solicitation(pod, node, &[1, 0, 0, 0, 0, 0, 0, 0], |_| {})),
        ("option beyond the end", solicitation(pod, node, &[1, 2, 0, 0, 0, 0, 0, 0], |_| {})),
        ("half an option", solicitation(pod, node, &[14], |_| {})),
        ("probe with an option", solicitation("::", node, option, |_| {})),
        ("probe to one host", solicitation("::", "fe80::1", &[], |_| {})),
        ("group as source", solicitation("ff02::1", node, option, |_| {})),
        ("group as source MAC", solicitation(pod, node, &[1, 1, 3, 0, 0, 0, 0, 0], |_| {})),
        ("too short", solicitation(pod, node, &[], |frame| frame[19] = 23)),
        ("wrong checksum", {
            let mut frame = good;
            frame[57] ^= 1;
            frame
        }),
    ];
    for (description, frame) in rows {
        assert_eq!(parse_solicitation(&frame), None, "{description}");
    }
}
