//! Direct server return: bytes written by hand, and there and back again.

mod common;

use common::*;
use proptest::prelude::*;
use weir_packet::build::Path;
use weir_packet::checksum::{l3_is_valid, l4_is_valid};
use weir_packet::dsr::*;
use weir_packet::{Addr, FlowKey, Headers, Mac, parse, protocol};

const V4: Addr = Addr::from_v4([192, 0, 2, 10]);
/// 2001:db8::10
const V6: Addr = Addr::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);

/// The outer packet's way, by its family.
fn outer(family: u8) -> Path {
    let (src, dst) = if family == 4 { ("10.1.0.1", "10.1.0.2") } else { ("fd01::1", "fd01::2") };
    let key = key(src, dst, 0xbeef, 9, protocol::UDP);
    Path { ttl: 33, ..Path::of(&key, Mac([6; 6]), Mac([4; 6])) }
}

fn with_room(room: usize, frame: &[u8]) -> Vec<u8> {
    [&vec![0xa5; room], frame].concat()
}

fn udp_packet(family: u8) -> Vec<u8> {
    let (src, dst) = if family == 4 { ("10.0.0.1", "10.0.0.2") } else { ("fd00::1", "fd00::2") };
    let key = key(src, dst, 40000, 53, protocol::UDP);
    Spec { key, ttl: 64, payload: b"query".to_vec(), ..Spec::default() }.frame()
}

fn ones_complement(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[test]
fn geneve_over_ipv4_byte_by_byte() {
    let inner = udp_packet(4);
    let room = geneve_overhead(4, Some(4));
    let mut frame = with_room(room, &inner);
    let written = encapsulate_geneve(&mut frame, &outer(4), 0x01_0203, Some((V4, 80)));
    assert_eq!(room, 50 + 12);
    let mut expected = [&[6; 6][..], &[4; 6], &[8, 0]].concat();
    let ip_len = (room - 14 + inner.len()) as u8;
    expected.extend([0x45, 0, 0, ip_len, 0, 0, 0x40, 0, 33, 17, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    let check = !ones_complement(&expected[14..34]);
    expected[24..26].copy_from_slice(&check.to_be_bytes());
    expected.extend([0xbe, 0xef, 0x17, 0xc1, 0, ip_len - 20, 0, 0]);
    expected.extend([3, 0x40, 0x65, 0x58, 1, 2, 3, 0]);
    expected.extend([0x01, 0x4b, 0x81, 2, 192, 0, 2, 10, 0, 80, 0, 0]);
    expected.extend(&inner);
    assert_eq!(frame, expected);
    assert_eq!(written, Some(parse_ip(&frame).headers));
    let read = parse_geneve(&frame, &parse_ip(&frame).headers);
    assert_eq!(read, Some(Geneve { inner_at: room, service: Some((V4, 80)), vni: 0x01_0203 }));
}

#[test]
fn geneve_with_an_ipv6_service_byte_by_byte() {
    let inner = udp_packet(6);
    for (family, room) in [(4, 50 + 24), (6, 70 + 24)] {
        let mut frame = with_room(room, &inner);
        encapsulate_geneve(&mut frame, &outer(family), 7, Some((V6, 443))).expect("room");
        assert_eq!(room, geneve_overhead(family, Some(6)));
        let mut expected = vec![6, 0x40, 0x65, 0x58, 0, 0, 7, 0, 0x01, 0x4b, 0x81, 5];
        expected.extend(V6.octets());
        expected.extend([1, 0xbb, 0, 0]);
        expected.extend(&inner);
        assert_eq!(frame[room - 32..], expected);
        let headers = parse_ip(&frame).headers;
        assert!(l3_is_valid(&frame, &headers) && l4_is_valid(&frame, &headers));
        let check_at = usize::from(headers.l4) + 6;
        assert_eq!(frame[check_at..check_at + 2] == [0, 0], family == 4, "the UDP checksum");
    }
}

#[test]
fn ipip_byte_by_byte() {
    let inner = udp_packet(4);
    let headers = parse_ip(&inner).headers;
    let mut frame = with_room(20, &inner);
    let written = encapsulate_ipip(&mut frame, &headers, &outer(4));
    let mut expected = [&[6; 6][..], &[4; 6], &[8, 0]].concat();
    let len = (20 + inner.len() - 14) as u8;
    expected.extend([0x45, 0, 0, len, 0, 0, 0x40, 0, 33, 4, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    let check = !ones_complement(&expected[14..34]);
    expected[24..26].copy_from_slice(&check.to_be_bytes());
    expected.extend(&inner[14..]);
    assert_eq!(frame, expected);
    assert_eq!(written, Some(parse_ip(&frame).headers));

    let inner = udp_packet(6);
    let headers = parse_ip(&inner).headers;
    let mut frame = with_room(40, &inner);
    let written = encapsulate_ipip(&mut frame, &headers, &outer(6));
    let mut expected = [&[6; 6][..], &[4; 6], &[0x86, 0xdd]].concat();
    expected.extend([0x60, 0, 0, 0, 0, (inner.len() - 14) as u8, 41, 33]);
    expected.extend(outer(6).src.octets());
    expected.extend(outer(6).dst.octets());
    expected.extend(&inner[14..]);
    assert_eq!(frame, expected);
    assert_eq!(written, Some(parse_ip(&frame).headers));
}

#[test]
fn ipv4_options_byte_by_byte() {
    let before = udp_packet(4);
    let headers = parse_ip(&before).headers;
    for (order, option) in [
        (ByteOrder::Network, [0x9a, 8, 0, 80, 192, 0, 2, 10]),
        (ByteOrder::Reversed, [0x9a, 8, 80, 0, 10, 2, 0, 192]),
    ] {
        let mut frame = with_room(8, &before);
        let written = insert_option(&mut frame, &headers, (V4, 80), order);
        let mut expected = before.clone();
        expected.splice(34..34, option);
        (expected[14], expected[17]) = (0x47, before[17] + 8);
        expected[24..26].fill(0);
        let check = !ones_complement(&expected[14..42]);
        expected[24..26].copy_from_slice(&check.to_be_bytes());
        assert_eq!(frame, expected);
        assert_eq!(written, Some(parse_ip(&frame).headers));
        assert_eq!(parse_option(&frame, &parse_ip(&frame).headers, order), Some((V4, 80)));
    }
}

#[test]
fn ipv6_options_byte_by_byte() {
    let before = udp_packet(6);
    let headers = parse_ip(&before).headers;
    let mut frame = with_room(24, &before);
    let written = insert_option(&mut frame, &headers, (V6, 443), ByteOrder::Network);
    let mut option = vec![17, 2, 0x1b, 20];
    option.extend(V6.octets());
    option.extend([1, 0xbb, 0, 0]);
    let mut expected = before.clone();
    expected.splice(54..54, option);
    (expected[19], expected[20]) = (before[19] + 24, 60);
    assert_eq!(frame, expected);
    assert_eq!(written, Some(parse_ip(&frame).headers));
    assert!(l4_is_valid(&frame, &parse_ip(&frame).headers));
}

#[test]
fn what_a_dispatch_takes_from_the_mtu() {
    let rows = [
        (Dispatch::Option, 8, 24),
        (Dispatch::Ipip, 20, 40),
        (Dispatch::Geneve { outer_family: 4 }, 62, 74),
        (Dispatch::Geneve { outer_family: 6 }, 82, 94),
    ];
    for (dispatch, v4, v6) in rows {
        assert_eq!((dispatch.overhead_max(4), dispatch.overhead_max(6)), (v4, v6), "{dispatch:?}");
    }
    assert_eq!((geneve_overhead(4, None), geneve_overhead(6, None)), (50, 70));
}

/// Geneve as another implementation might send it, and as nobody should.
#[test]
fn unknown_geneve_options() {
    let inner = udp_packet(4);
    let read = |options: &[u8], change: &dyn Fn(&mut [u8])| {
        let mut payload = vec![options.len() as u8 / 4, 0, 0x65, 0x58, 0, 0, 9, 0];
        payload.extend(options);
        payload.extend(&inner);
        change(&mut payload);
        let key = key("10.1.0.1", "10.1.0.2", 1, GENEVE_PORT, protocol::UDP);
        let frame = Spec { key, ttl: 64, payload, ..Spec::default() }.frame();
        parse_geneve(&frame, &parse_ip(&frame).headers)
    };
    let plain = |options: &[u8]| read(options, &|_| {}).map(|geneve| geneve.service);
    let ours = [0x01, 0x4b, 0x81, 2, 192, 0, 2, 10, 0, 80, 0, 0];
    let harmless = [0x01, 0x02, 0x01, 1, 0xde, 0xad, 0xbe, 0xef];
    assert_eq!(plain(&[]), Some(None));
    assert_eq!(plain(&harmless), Some(None));
    assert_eq!(plain(&[&harmless[..], &ours, &harmless].concat()), Some(Some((V4, 80))));
    assert_eq!(plain(&[&ours[..], &ours].concat()), None, "twice");
    assert_eq!(plain(&[0x01, 0x02, 0x81, 0]), None, "unknown and critical");
    assert_eq!(plain(&[0x01, 0x4b, 0x82, 0]), None, "unknown of Cilium's, and critical");
    assert_eq!(plain(&[0x01, 0x4b, 0x81, 1, 0, 0, 0, 0]), None, "of a wrong length");
    assert_eq!(plain(&[0x01, 0x02, 0x01, 2, 0, 0, 0, 0]), None, "beyond the options");
    assert_eq!(read(&[], &|payload| payload[0] = 0x40), None, "version 1");
    assert_eq!(read(&[], &|payload| payload[1] = 0x80), None, "a control message");
    assert_eq!(read(&[], &|payload| payload[2] = 0x08), None, "not Ethernet inside");
    assert_eq!(read(&[], &|payload| payload[0] = 0x3f), None, "options beyond the packet");
    let mapped = [&[0x01, 0x4b, 0x81, 5][..], &V4.octets(), &[0, 80, 0, 0]].concat();
    assert_eq!(plain(&mapped), None, "an IPv4-mapped address");
}

#[test]
fn what_is_refused_is_not_written() {
    let before = udp_packet(4);
    let headers = parse_ip(&before).headers;
    let mut frame = with_room(62, &before);
    let untouched = frame.clone();
    let network = ByteOrder::Network;
    assert_eq!(encapsulate_geneve(&mut frame, &outer(4), 1 << 24, Some((V4, 80))), None);
    let mixed = Path { src: V6, ..outer(4) };
    assert_eq!(encapsulate_geneve(&mut frame, &mixed, 1, None), None);
    assert_eq!(encapsulate_ipip(&mut frame, &headers, &outer(6)), None);
    assert_eq!(insert_option(&mut frame, &headers, (V6, 80), network), None);
    assert_eq!(frame, untouched);
    let mut long = vec![0; 65_500];
    assert_eq!(encapsulate_geneve(&mut long, &outer(4), 1, None).map(|it| it.end), Some(65_500));
    let mut long = vec![0; 65_536];
    assert_eq!(encapsulate_geneve(&mut long, &outer(4), 1, None), None);
    assert!(long.iter().all(|byte| *byte == 0));
}

/// 40 bytes of options are the most; the service goes in front of those that are there.
#[test]
fn ipv4_options_are_at_most_40_bytes() {
    for words in 0..=10_usize {
        let mut before = udp_packet(4);
        before.splice(34..34, vec![1; words * 4]);
        before[14] += words as u8;
        before[17] += words as u8 * 4;
        before[24..26].fill(0);
        let check = !ones_complement(&before[14..34 + words * 4]);
        before[24..26].copy_from_slice(&check.to_be_bytes());
        let headers = parse_ip(&before).headers;
        let mut frame = with_room(8, &before);
        let untouched = frame.clone();
        let written = insert_option(&mut frame, &headers, (V4, 80), ByteOrder::Network);
        if words > 8 {
            assert_eq!((written, frame), (None, untouched));
            continue;
        }
        assert_eq!(written, Some(parse_ip(&frame).headers), "{words} words");
        assert!(l3_is_valid(&frame, &parse_ip(&frame).headers));
        assert_eq!(frame[34..44], [0x9a, 8, 0, 80, 192, 0, 2, 10, before[34], before[35]]);
        let headers = parse_ip(&frame).headers;
        assert_eq!(remove_option(&mut frame, &headers), 8);
        assert_eq!(frame[8..], before);
    }
}

#[test]
fn a_hop_by_hop_header_stays_the_first() {
    let mut before = udp_packet(6);
    before.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    before[19] += 8;
    for (next, may) in [(0, false), (60, true)] {
        before[20] = next;
        let headers = parse_ip(&before).headers;
        let mut frame = with_room(24, &before);
        let written = insert_option(&mut frame, &headers, (V6, 80), ByteOrder::Network);
        assert_eq!(written.is_some(), may);
        assert_eq!(parse_option(&before, &headers, ByteOrder::Network), None, "an other option");
        if may {
            assert_eq!(written, Some(parse_ip(&frame).headers));
        }
    }
}

/// A packet, its room in front filled by `write`, which must equal what `parse` then says.
fn encapsulated(
    room: usize,
    inner: &[u8],
    write: impl Fn(&mut [u8], &Headers) -> Option<Headers>,
) -> (Vec<u8>, Headers) {
    let headers = parse_ip(inner).headers;
    let mut frame = with_room(room, inner);
    let written = write(&mut frame, &headers).expect("room");
    assert_eq!(written, parse_ip(&frame).headers);
    assert!(l3_is_valid(&frame, &written) && l4_is_valid(&frame, &written));
    assert_eq!(usize::from(written.end), frame.len());
    for len in 0..frame.len() {
        let untouched = frame[..len].to_vec();
        let mut cut = untouched.clone();
        let is_written = write(&mut cut, &headers).is_some();
        assert!(is_written || cut == untouched, "{len} bytes");
    }
    (frame, written)
}

proptest! {
    #[test]
    fn geneve_there_and_back(
        spec in spec(),
        outer_family in prop_oneof![Just(4), Just(6)],
        vni in 0..1_u32 << 24,
        service in proptest::option::of((prop_oneof![addr(4), addr(6)], any::<u16>())),
    ) {
        let inner = spec.frame();
        let room = geneve_overhead(outer_family, service.map(|(addr, _)| addr.family()));
        let (frame, headers) = encapsulated(room, &inner, |frame, _| {
            encapsulate_geneve(frame, &outer(outer_family), vni, service)
        });
        let path = outer(outer_family);
        let key = parse_ip(&frame).key;
        let expected = FlowKey { dport: 6081, ..key };
        prop_assert_eq!(key, expected);
        prop_assert_eq!((key.src, key.dst, key.sport), (path.src, path.dst, 0xbeef));
        let read = parse_geneve(&frame, &headers);
        prop_assert_eq!(read, Some(Geneve { inner_at: room, service, vni }));
        prop_assert_eq!(&frame[room..], &inner[..]);
        for len in 0..frame.len() {
            prop_assert!(parse_geneve(&frame[..len], &headers).is_none());
        }
    }

    #[test]
    fn ipip_there_and_back(spec in spec()) {
        let inner = spec.frame();
        let family = spec.key.family;
        let (mut frame, headers) = encapsulated(ipip_overhead(family), &inner, |frame, headers| {
            encapsulate_ipip(frame, headers, &outer(family))
        });
        let ipip = parse_ipip(&frame, &headers).expect("IP in IP");
        for len in 0..frame.len() {
            prop_assert!(parse_ipip(&frame[..len], &headers).is_none());
            decapsulate_ipip(&mut frame[..len].to_vec(), &ipip);
        }
        let cut = decapsulate_ipip(&mut frame, &ipip);
        prop_assert_eq!(cut, ipip_overhead(family));
        prop_assert_eq!(frame[cut..cut + 6].to_vec(), vec![6; 6]);
        prop_assert_eq!(&frame[cut + 12..], &inner[12..]);
        prop_assert_eq!(parse_ip(&frame[cut..]).key, spec.key);
        prop_assert_eq!(parse_ipip(&inner, &parse_ip(&inner).headers), None);
    }

    #[test]
    fn options_there_and_back(
        spec in spec(),
        (v4, v6) in (addr(4), addr(6)),
        port in any::<u16>(),
        order in prop_oneof![Just(ByteOrder::Network), Just(ByteOrder::Reversed)],
    ) {
        let inner = spec.frame();
        let family = spec.key.family;
        let service = (if family == 4 { v4 } else { v6 }, port);
        let room = option_overhead(family);
        let (frame, headers) = encapsulated(room, &inner, |frame, headers| {
            insert_option(frame, headers, service, order)
        });
        prop_assert_eq!(parse_ip(&frame).key, spec.key);
        prop_assert_eq!(parse_option(&frame, &headers, order), Some(service));
        for len in 0..frame.len() {
            let mut cut = frame[..len].to_vec();
            let found = parse_option(&cut, &headers, order);
            prop_assert_eq!(found.is_some(), remove_option(&mut cut, &headers) > 0);
        }
        let mut back = frame.clone();
        prop_assert_eq!(remove_option(&mut back, &headers), room);
        prop_assert_eq!(&back[room..], &inner[..]);
        let headers = parse_ip(&inner).headers;
        prop_assert_eq!(remove_option(&mut inner.clone(), &headers), 0);
        prop_assert_eq!(parse_option(&inner, &headers, order), None);
    }

    /// A wrong header checksum comes back as wrong as it was; 0xffff has a second spelling.
    #[test]
    fn a_wrong_header_checksum_stays_as_wrong(
        spec in spec_of(4, protocol::UDP),
        service in (addr(4), any::<u16>()),
        held in 0..0xffff_u16,
    ) {
        let mut before = spec.frame();
        before[24..26].copy_from_slice(&held.to_be_bytes());
        let headers = parse_ip(&before).headers;
        let is_right = l3_is_valid(&before, &headers);
        let mut frame = with_room(8, &before);
        let headers = insert_option(&mut frame, &headers, service, ByteOrder::Network);
        let headers = headers.expect("room");
        prop_assert_eq!(l3_is_valid(&frame, &headers), is_right);
        prop_assert_eq!(remove_option(&mut frame, &headers), 8);
        prop_assert_eq!(&frame[8..], &before[..]);
    }

    /// Frames of noise with the lengths of nobody.
    #[test]
    fn nothing_panics(
        mut frame in proptest::collection::vec(any::<u8>(), 0..160),
        (l3, l4, end) in (0..80_u16, 0..120_u16, any::<u16>()),
        (family, protocol) in (prop_oneof![Just(4), Just(6)], any::<u8>()),
        mut kinds in any::<[u8; 4]>(),
    ) {
        kinds[0] %= 80;
        let headers = Headers { l3, l4, end, family, protocol, ..Headers::default() };
        for protocol in [protocol, 4, 17, 41] {
            let headers = Headers { protocol, ..headers };
            if let Some(udp) = frame.get_mut(usize::from(l4)..).and_then(|it| it.get_mut(2..4)) {
                udp.copy_from_slice(&GENEVE_PORT.to_be_bytes());
            }
            let _ = parse(&frame);
            let _ = parse_geneve(&frame, &headers);
            if let Some(ipip) = parse_ipip(&frame, &headers) {
                decapsulate_ipip(&mut frame.clone(), &ipip);
            }
            decapsulate_ipip(&mut frame.clone(), &Ipip { inner_at: kinds[0].into() });
            for at in [34, 54] {
                if let Some(place) = frame.get_mut(at..at + 4) {
                    let [_, a, b, _] = kinds;
                    let kinds = if at == 34 { [0x9a, 8, a, b] } else { [a, 2, 27, 20] };
                    place.copy_from_slice(&kinds);
                }
            }
            let _ = parse_option(&frame, &headers, ByteOrder::Network);
            remove_option(&mut frame.clone(), &headers);
            for service in [(V4, 80), (V6, 80)] {
                let _ = insert_option(&mut frame.clone(), &headers, service, ByteOrder::Reversed);
                let _ = encapsulate_geneve(&mut frame.clone(), &outer(family), 1, Some(service));
            }
            let _ = encapsulate_ipip(&mut frame.clone(), &headers, &outer(family));
        }
    }
}
