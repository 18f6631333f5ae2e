//! The parser against etherparse, against lying bytes, and one packet per reason of refusal.

mod common;

use common::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use weir_packet::parse::EXTENSIONS_MAX;
use weir_packet::{
    Addr, FlowKey, Fragment, IcmpKind, Malformed, Packet, Parsed, parse, protocol, tcp_flags,
};

/// One IPv6 extension header, by its protocol number, with what follows left open.
#[derive(Clone, Copy, Debug)]
enum Extension {
    DestinationOptions {
        units: u8,
    },
    /// No segments left.
    Routing {
        units: u8,
    },
    /// Whole in itself (RFC 6946).
    AtomicFragment,
    Authentication {
        words: u8,
    },
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Extension::DestinationOptions { .. } => 60,
            Extension::Routing { .. } => 43,
            Extension::AtomicFragment => 44,
            Extension::Authentication { .. } => 51,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        let (second, len) = match self {
            Extension::DestinationOptions { units } | Extension::Routing { units } => {
                (units, (usize::from(units) + 1) * 8)
            }
            Extension::AtomicFragment => (0, 8),
            Extension::Authentication { words } => (words + 1, (usize::from(words) + 3) * 4),
        };
        let mut bytes = vec![0; len];
        (bytes[0], bytes[1]) = (next, second);
        bytes
    }
}

fn extension() -> impl Strategy<Value = Extension> {
    prop_oneof![
        (0..4_u8).prop_map(|units| Extension::DestinationOptions { units }),
        (0..4_u8).prop_map(|units| Extension::Routing { units }),
        Just(Extension::AtomicFragment),
        (0..8_u8).prop_map(|words| Extension::Authentication { words }),
    ]
}

/// The chain's bytes and the number of its first header.
fn chain(extensions: &[Extension], last: u8) -> (u8, Vec<u8>) {
    extensions.iter().rev().fold((last, Vec::new()), |(next, after), extension| {
        (extension.number(), [extension.bytes(next), after].concat())
    })
}

/// What etherparse says, in our terms; `None` where it stops before the L4 header.
fn oracle(frame: &[u8]) -> Option<(FlowKey, u8, u8, &[u8])> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (src, dst, family, ttl, payload) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let (src, dst) = (Addr::from_v4(header.source()), Addr::from_v4(header.destination()));
            (src, dst, 4, header.ttl(), ip.payload())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (src, dst) = (Addr::from_v6(header.source()), Addr::from_v6(header.destination()));
            (src, dst, 6, header.hop_limit(), ip.payload())
        }
        NetSlice::Arp(_) => return None,
    };
    let echo = |request: bool, id: u16| if request { (id, 0) } else { (0, id) };
    use etherparse::{Icmpv4Type, Icmpv6Type};
    let ((sport, dport), flags) = match sliced.transport.as_ref()? {
        TransportSlice::Udp(udp) => ((udp.source_port(), udp.destination_port()), 0),
        TransportSlice::Tcp(tcp) => ((tcp.source_port(), tcp.destination_port()), tcp.slice()[13]),
        TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(header) => (echo(true, header.id), 0),
            Icmpv4Type::EchoReply(header) => (echo(false, header.id), 0),
            _ => ((0, 0), 0),
        },
        TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
            Icmpv6Type::EchoRequest(header) => (echo(true, header.id), 0),
            Icmpv6Type::EchoReply(header) => (echo(false, header.id), 0),
            _ => ((0, 0), 0),
        },
    };
    let protocol = payload.ip_number.0;
    let key = FlowKey { src, dst, sport, dport, protocol, family, zone: 0 };
    Some((key, ttl, flags, payload.payload))
}

fn assert_offsets(frame: &[u8], packet: &Packet) {
    let (l3, l4, end) = offsets(packet);
    assert!(l3 < l4 && l4 <= end && end <= frame.len(), "{packet:?}");
}

fn offsets(packet: &Packet) -> (usize, usize, usize) {
    let headers = packet.headers;
    (headers.l3.into(), headers.l4.into(), headers.end.into())
}

fn assert_agrees(frame: &[u8], packet: &Packet) {
    let (key, ttl, flags, payload) = oracle(frame).expect("a packet that etherparse reads");
    let (_, l4, end) = offsets(packet);
    assert_eq!(packet.key, key);
    assert_eq!(&frame[l4..end], payload);
    let headers = packet.headers;
    assert_eq!((headers.ttl, headers.tcp_flags), (ttl, flags));
    assert_eq!((headers.family, headers.protocol), (key.family, key.protocol));
}

/// Every function that takes a frame and headers, on headers that may not belong to the frame.
fn run_everything(frame: &[u8], packet: &Packet) {
    use weir_packet::{Translation, checksum, decrement_ttl, nd, reply};
    let Packet { headers, key } = packet;
    let other = key.reversed();
    let translation = Translation::new(key, Some((other.src, 1)), Some((other.dst, 2)));
    let run = |change: &dyn Fn(&mut [u8])| change(&mut frame.to_vec());
    run(&|frame| translation.apply(frame, headers));
    run(&|frame| checksum::complete_l4(frame, headers));
    run(&|frame| {
        let _ = decrement_ttl(frame, headers);
    });
    run(&|frame| {
        let _ = reply::write_tcp_reset(frame, headers);
    });
    run(&|frame| {
        let _ = reply::write_echo_reply(frame, headers);
    });
    let error = reply::IcmpError::TooBig { mtu: 1400 };
    run(&|frame| {
        let _ = reply::write_icmp_error(frame, headers, error, key.dst);
    });
    let _ = checksum::l4_is_partial(frame, headers);
    let _ = (checksum::l4_is_valid(frame, headers), checksum::l3_is_valid(frame, headers));
    let _ = nd::parse_solicitation(frame, headers);
    let _ = weir_packet::arp::parse_request(frame);
}

proptest! {
    #[test]
    fn agrees_with_etherparse(spec in spec(), padding in 0..50_usize) {
        let mut frame = spec.frame();
        let len = frame.len();
        frame.resize(len + padding, 0);
        let packet = parse_ip(&frame);
        prop_assert_eq!(packet.key, spec.key);
        prop_assert_eq!(usize::from(packet.headers.end), len);
        prop_assert_eq!(packet.headers.fragment, Fragment::None);
        prop_assert!(!packet.headers.has_extensions);
        assert_agrees(&frame, &packet);
        let is_tcp = packet.key.protocol == protocol::TCP;
        let flags = if is_tcp { tcp_flags::ACK | tcp_flags::PSH } else { 0 };
        prop_assert_eq!(packet.headers.tcp_flags, flags);
    }

    #[test]
    fn skips_ipv4_options(spec in spec_of(4, protocol::UDP), words in 1..=10_usize) {
        let plain = spec.frame();
        // NOPs, then a router alert (RFC 2113).
        let mut options = vec![1; words * 4 - 4];
        options.extend([148, 4, 0, 0]);
        let mut frame = [&plain[..34], &options, &plain[34..]].concat();
        frame[14] += words as u8;
        let len = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        let packet = parse_ip(&frame);
        prop_assert!(packet.headers.has_extensions);
        prop_assert_eq!(packet.key, spec.key);
        assert_agrees(&frame, &packet);
    }

    #[test]
    fn walks_ipv6_extensions(
        spec in spec_of(6, protocol::TCP),
        mut extensions in proptest::collection::vec(extension(), 1..=EXTENSIONS_MAX),
    ) {
        // One fragment header at most.
        let mut seen = false;
        extensions.retain(|extension| {
            !matches!(extension, Extension::AtomicFragment) || !std::mem::replace(&mut seen, true)
        });
        let (first, bytes) = chain(&extensions, protocol::TCP);
        let payload = [&bytes, &spec.frame()[54..]].concat();
        let frame = ip_frame(spec.key.src, spec.key.dst, first, &payload);
        let packet = parse_ip(&frame);
        prop_assert_eq!(packet.key, spec.key);
        prop_assert!(packet.headers.has_extensions);
        prop_assert_eq!(usize::from(packet.headers.l4), 54 + bytes.len());
        prop_assert!(weir_packet::checksum::l4_is_valid(&frame, &packet.headers));
        // etherparse takes each kind at most once and in the recommended order only.
        if oracle(&frame).is_some() {
            assert_agrees(&frame, &packet);
        }
    }

    #[test]
    fn cut_at_every_length(spec in spec()) {
        let frame = spec.frame();
        for len in 0..frame.len() {
            prop_assert!(!matches!(parse(&frame[..len]), Ok(Parsed::Ip(_))), "{} bytes", len);
            // The headers of the whole, on a part.
            run_everything(&frame[..len], &parse_ip(&frame));
        }
    }

    #[test]
    fn random_bytes_never_panic(
        mut frame in proptest::collection::vec(any::<u8>(), 0..300),
        kind in 0..4,
    ) {
        if frame.len() > 20 {
            // Most random frames would end at the EtherType or the version.
            match kind {
                0 => frame[12..15].copy_from_slice(&[8, 0, 0x45]),
                1 => frame[12..15].copy_from_slice(&[8, 0, 0x4a]),
                2 => {
                    frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
                    frame[18] = 0;
                    frame[20] = [0, 43, 44, 51, 60, 6, 17, 58][usize::from(frame[20]) % 8];
                }
                _ => {}
            }
        }
        if let Ok(Parsed::Ip(packet)) = parse(&frame) {
            assert_offsets(&frame, &packet);
            run_everything(&frame, &packet);
        }
    }

    /// A few bytes of a good packet changed: the deep paths. Where both accept, both agree.
    #[test]
    fn damaged_packets_agree_where_both_accept(
        spec in spec(),
        damage in proptest::collection::vec((12..60_usize, any::<u8>()), 1..4),
    ) {
        let mut frame = spec.frame();
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let Ok(Parsed::Ip(packet)) = parse(&frame) else { return Ok(()) };
        assert_offsets(&frame, &packet);
        run_everything(&frame, &packet);
        if let Some((key, ..)) = oracle(&frame) {
            // etherparse skips authentication headers over IPv4 too, and takes an echo for one only
            // if its code is 0; for Linux, and here, the code is no matter.
            let is_same = packet.key.protocol == key.protocol;
            let has_code = packet.headers.icmp != IcmpKind::None
                && frame[usize::from(packet.headers.l4) + 1] != 0;
            if packet.headers.fragment == Fragment::None && is_same && !has_code {
                assert_agrees(&frame, &packet);
            }
        }
    }
}

#[test]
fn frames_that_are_not_ip_are_named() {
    let frame = |ethertype: u16| [&[2; 12], &ethertype.to_be_bytes()[..], &[0; 46]].concat();
    assert_eq!(parse(&frame(0x0806)), Ok(Parsed::Arp));
    assert_eq!(parse(&frame(0x8100)), Ok(Parsed::Vlan));
    assert_eq!(parse(&frame(0x88a8)), Ok(Parsed::Vlan));
    assert_eq!(parse(&frame(0x88cc)), Ok(Parsed::Other(0x88cc)));
    assert_eq!(parse(&frame(0x002e)), Ok(Parsed::Other(0x2e)));
}

#[test]
fn icmp_is_told_apart() {
    let kinds = |family: u8| {
        let (src, dst, protocol) = match family {
            4 => ("10.0.0.1", "10.0.0.2", protocol::ICMP),
            _ => ("fd00::1", "fd00::2", protocol::ICMPV6),
        };
        let key = key(src, dst, 0, 0, protocol);
        move |kind: u8| {
            let frame = ip_frame(key.src, key.dst, protocol, &[kind, 0, 0, 0, 0x12, 0x34, 0, 0]);
            let packet = parse_ip(&frame);
            (packet.headers.icmp, packet.key.sport, packet.key.dport)
        }
    };
    let (v4, v6) = (kinds(4), kinds(6));
    assert_eq!(v4(8), (IcmpKind::EchoRequest, 0x1234, 0));
    assert_eq!(v4(0), (IcmpKind::EchoReply, 0, 0x1234));
    assert_eq!([3, 4, 11, 12].map(v4), [(IcmpKind::Error, 0, 0); 4]);
    assert_eq!((v4(5), v4(13)), ((IcmpKind::Redirect, 0, 0), (IcmpKind::Other, 0, 0)));
    assert_eq!(v6(128), (IcmpKind::EchoRequest, 0x1234, 0));
    assert_eq!(v6(129), (IcmpKind::EchoReply, 0, 0x1234));
    assert_eq!([1, 2, 3, 4, 127].map(v6), [(IcmpKind::Error, 0, 0); 5]);
    assert_eq!(v6(133).0, IcmpKind::RouterSolicitation);
    assert_eq!(v6(135).0, IcmpKind::NeighbourSolicitation);
    assert_eq!(v6(136).0, IcmpKind::NeighbourAdvertisement);
    assert_eq!((v6(137).0, v6(134).0), (IcmpKind::Redirect, IcmpKind::Other));
    // ICMPv6 over IPv4 is just a protocol.
    let frame = ip_frame(Addr::from_v4([1; 4]), Addr::from_v4([2; 4]), 58, &[128; 8]);
    assert_eq!(parse_ip(&frame).headers.icmp, IcmpKind::None);
}

#[test]
fn ipv6_fragments_keep_their_identification() {
    let key = key("fd00::1", "fd00::2", 40000, 53, protocol::UDP);
    let udp = [&40000_u16.to_be_bytes()[..], &[0, 53, 1, 0, 0, 0], &[7; 8]].concat();
    let fragment = |offset_and_more: u16| {
        let head = [&[17, 0], &offset_and_more.to_be_bytes()[..], &[1, 2, 3, 4]].concat();
        ip_frame(key.src, key.dst, 44, &[head, udp.clone()].concat())
    };
    let (first, later) = (parse_ip(&fragment(1)), parse_ip(&fragment(0x40)));
    assert_eq!((first.headers.fragment, first.key), (Fragment::First, key));
    let portless = FlowKey { sport: 0, dport: 0, ..key };
    assert_eq!((later.headers.fragment, later.key), (Fragment::Later, portless));
    assert_eq!([first, later].map(|p| p.headers.fragment_id), [0x0102_0304; 2]);
}

/// RFC 6980.
#[test]
fn fragmented_neighbour_discovery_is_nothing_special() {
    for kind in [133, 135, 136] {
        let message = [&[58, 0, 0, 1, 0, 0, 0, 9], &[kind, 0, 0, 0][..], &[0; 20]].concat();
        let key = key("fe80::1", "fe80::2", 0, 0, protocol::ICMPV6);
        let headers = parse_ip(&ip_frame(key.src, key.dst, 44, &message)).headers;
        assert_eq!((headers.icmp, headers.fragment), (IcmpKind::Other, Fragment::First));
    }
}

/// RFC 8200 section 4.5: a second fragment header has no meaning.
#[test]
fn one_fragment_header_is_enough() {
    let (first, bytes) = chain(&[Extension::AtomicFragment; 2], 17);
    let key = key("fd00::1", "fd00::2", 1, 2, protocol::UDP);
    let udp = [0, 1, 0, 2, 0, 8, 0, 0];
    let frame = ip_frame(key.src, key.dst, first, &[&bytes, &udp[..]].concat());
    assert_eq!(parse(&frame), Err(Malformed::Ipv6Extensions));
}

#[test]
fn extension_chains_are_bounded() {
    let key = key("fd00::1", "fd00::2", 40000, 53, protocol::UDP);
    let parse_chain = |count: usize| {
        let (first, bytes) = chain(&vec![Extension::DestinationOptions { units: 0 }; count], 17);
        let udp = [&40000_u16.to_be_bytes()[..], &[0, 53, 0, 8, 0, 0]].concat();
        parse(&ip_frame(key.src, key.dst, first, &[bytes, udp].concat()))
    };
    assert!(matches!(parse_chain(EXTENSIONS_MAX), Ok(Parsed::Ip(packet)) if packet.key == key));
    assert_eq!(parse_chain(EXTENSIONS_MAX + 1), Err(Malformed::Ipv6Extensions));
    assert_eq!(parse_chain(4000), Err(Malformed::Ipv6Extensions));
}

/// `{description, change to a good packet, reason}`, at least one row for each reason.
#[test]
fn each_reason_has_its_packet() {
    let v4 = |payload: &[u8], protocol| {
        ip_frame(Addr::from_v4([10, 0, 0, 1]), Addr::from_v4([10, 0, 0, 2]), protocol, payload)
    };
    let octets = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let (src, dst) = (Addr::from_v6(octets(1)), Addr::from_v6(octets(2)));
    let v6 = |payload: &[u8], protocol| ip_frame(src, dst, protocol, payload);
    let with = |mut frame: Vec<u8>, at: usize, bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let udp = [1, 2, 3, 4, 0, 8, 0, 0];
    let tcp = with(vec![0; 20], 12, &[0x50]);
    let options = |bytes: [u8; 4]| with(v4(&[&bytes[..], &udp].concat(), 17), 14, &[0x46]);
    let mapped = Addr::from_v4([10, 0, 0, 1]).octets();
    use Malformed::*;
    let rows = [
        ("no Ethernet header", vec![0; 13], TruncatedEthernet),
        ("IPv4 header cut", v4(&[], 17)[..33].to_vec(), TruncatedIpv4),
        ("IPv6 header cut", v6(&[], 17)[..53].to_vec(), TruncatedIpv6),
        ("extension header cut", v6(&[17, 0, 0, 0], 60), TruncatedIpv6),
        ("extension longer than the packet", v6(&[17, 1, 0, 0, 0, 0, 0, 0], 60), TruncatedIpv6),
        ("7 bytes of UDP", v4(&udp[..7], 17), TruncatedL4),
        ("19 bytes of TCP", v6(&tcp[..19], 6), TruncatedL4),
        ("7 bytes of ICMP", v4(&[8; 7], 1), TruncatedL4),
        ("11 bytes of SCTP", v4(&[8; 11], 132), TruncatedL4),
        ("version 6 in IPv4", with(v4(&udp, 17), 14, &[0x65]), BadVersion),
        ("version 4 in IPv6", with(v6(&udp, 17), 14, &[0x45]), BadVersion),
        ("IHL 4", with(v4(&udp, 17), 14, &[0x44]), Ipv4HeaderLength),
        ("total length 19", with(v4(&udp, 17), 16, &[0, 19]), Ipv4TotalLength),
        ("total length one beyond", with(v4(&udp, 17), 16, &[0, 29]), Ipv4TotalLength),
        ("header length beyond the total", with(v4(&udp, 17), 14, &[0x4f]), Ipv4TotalLength),
        ("option of length 1", options([7, 1, 0, 0]), Ipv4Options),
        ("option overruns the header", options([1, 7, 4, 0]), Ipv4Options),
        ("option without a length", options([1, 1, 1, 7]), Ipv4Options),
        ("payload one beyond", with(v6(&udp, 17), 18, &[0, 9]), Ipv6PayloadLength),
        (
            "late hop-by-hop",
            v6(&[&[0, 0, 0, 0, 0, 0, 0, 0, 17], &[0; 15][..]].concat(), 60),
            Ipv6Extensions,
        ),
        ("mapped source", with(v6(&udp, 17), 22, &mapped), MappedAddress),
        ("mapped destination", with(v6(&udp, 17), 38, &mapped), MappedAddress),
        ("loose source route", options([131, 3, 4, 0]), SourceRoute),
        (
            "routing header, 1 left",
            v6(&[&[17, 0, 0, 1, 0, 0, 0, 0], &udp[..]].concat(), 43),
            SourceRoute,
        ),
        ("over the TCP header", with(v4(&tcp, 6), 20, &[0, 2]), BadFragment),
        ("a first fragment of nothing", with(v4(&[], 17), 20, &[0x20, 0]), BadFragment),
        ("over the TCP flags", with(v4(&tcp, 6), 20, &[0, 1]), BadFragment),
        ("ragged", with(v4(&tcp, 6), 20, &[0x20, 0]), BadFragment),
        ("beyond 64 KiB", with(v4(&tcp, 17), 20, &[0x1f, 0xff]), BadFragment),
        ("data offset 4", v4(&with(tcp.clone(), 12, &[0x40]), 6), TcpHeaderLength),
        ("data offset beyond", v4(&with(tcp.clone(), 12, &[0x60]), 6), TcpHeaderLength),
        ("UDP length 7", v4(&with(udp.to_vec(), 5, &[7]), 17), UdpLength),
        ("UDP length beyond", v4(&with(udp.to_vec(), 5, &[9]), 17), UdpLength),
    ];
    for (description, frame, reason) in &rows {
        assert_eq!(parse(frame), Err(*reason), "{description}");
    }
    for (index, reason) in Malformed::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
        assert!(rows.iter().any(|row| row.2 == reason), "no packet for {reason}");
    }
}
