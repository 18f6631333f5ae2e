//! What pods ask their gateway.

use weir_dataplane::pipeline::{GATEWAY_MAC, gateway_addr};
use weir_packet::{Addr, Mac, arp, checksum, nd, parse};

use crate::common::node::{addr, pod_mac, port_of};
use crate::common::packet::ones_sum;
use crate::common::variants::{Stage, in_every_world};

/// "Who has `target`?", as `sender` of the pod blue asks.
fn arp_request(sender: Addr, target: Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(pod_mac(port_of("blue")).0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(pod_mac(port_of("blue")).0);
    frame.extend(sender.v4_octets().expect("IPv4"));
    frame.extend([0; 6]);
    frame.extend(target.v4_octets().expect("IPv4"));
    frame.resize(60, 0);
    frame
}

/// A neighbour solicitation of the pod blue to the solicited-node group.
fn solicitation(source: Addr, target: Addr) -> Vec<u8> {
    let last = &target.octets()[13..];
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(last);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !source.is_unspecified() {
        message.extend([1, 1]);
        message.extend(pod_mac(port_of("blue")).0);
    }
    let mut frame = vec![0x33, 0x33, 0xff];
    frame.extend(last);
    frame.extend(pod_mac(port_of("blue")).0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(source.octets());
    frame.extend(group);
    frame.extend(message);
    let Ok(weir_packet::Parsed::Ip(packet)) = parse(&frame) else { panic!("a packet") };
    let mut covered = frame[22..].to_vec();
    covered.extend(((frame.len() - 54) as u32).to_be_bytes());
    covered.extend([0, 0, 0, 58]);
    let sum = !ones_sum(&covered);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    assert!(checksum::l4_is_valid(&frame, &packet.headers), "the test builds it right");
    frame
}

/// The only answer to a frame from the pod blue.
fn answer_to(s: &mut Stage, frame: &[u8]) -> Vec<u8> {
    s.world.inject(port_of("blue"), frame);
    s.world.settle();
    let mut sent = s.world.take_sent();
    assert_eq!(sent.len(), 1);
    s.recount();
    let (port, frame) = sent.remove(0);
    assert_eq!(port, port_of("blue"));
    frame
}

#[test]
fn arp_of_a_pod_is_answered_with_the_gateways_mac() {
    in_every_world(|s| {
        let blue = addr("blue", 4);
        for target in [gateway_addr(true), addr("green", 4), addr("client", 4), addr("web", 4)] {
            let frame = answer_to(s, &arp_request(blue, target));
            assert_eq!(frame.len(), arp::FRAME_LEN);
            assert_eq!(Mac(frame[..6].try_into().expect("six")), pod_mac(port_of("blue")));
            assert_eq!(Mac(frame[6..12].try_into().expect("six")), GATEWAY_MAC);
            assert_eq!(frame[20..22], [0, 2], "a reply");
            assert_eq!(Mac(frame[22..28].try_into().expect("six")), GATEWAY_MAC);
            assert_eq!(frame[28..32], target.v4_octets().expect("IPv4"));
            assert_eq!(frame[38..42], blue.v4_octets().expect("IPv4"));
        }
        let ends = "received 1, link_local 1";
        s.raw("blue", &arp_request(blue, blue), &[], ends);
        s.raw("blue", &arp_request(Addr::from_v4([0; 4]), blue), &[], ends);
        s.raw("out", &arp_request(blue, addr("green", 4)), &[], "received 1, not_ip 1");
    });
}

#[test]
fn neighbour_discovery_of_a_pod_is_answered_with_the_gateways_mac() {
    in_every_world(|s| {
        let link_local: Addr = "fe80::b".parse().expect("an address");
        for source in [addr("blue", 6), link_local] {
            for target in [gateway_addr(false), addr("green", 6), addr("client", 6)] {
                let frame = answer_to(s, &solicitation(source, target));
                let Ok(weir_packet::Parsed::Ip(packet)) = parse(&frame) else { panic!("a packet") };
                assert_eq!((packet.key.src, packet.key.dst), (target, source));
                assert_eq!(packet.headers.ttl, 255);
                assert!(checksum::l4_is_valid(&frame, &packet.headers));
                assert_eq!(Mac(frame[..6].try_into().expect("six")), pod_mac(port_of("blue")));
                assert_eq!(Mac(frame[6..12].try_into().expect("six")), GATEWAY_MAC);
                assert_eq!((frame[54], frame[58] & 0x60), (136, 0x60), "solicited, override");
                assert_eq!(frame[62..78], target.octets());
                assert_eq!(frame[78..86], [&[2, 1][..], &GATEWAY_MAC.0].concat());
                assert!(nd::parse_solicitation(&frame, &packet.headers).is_none());
            }
        }
        let ends = "received 1, link_local 1";
        let blue = addr("blue", 6);
        s.raw("blue", &solicitation(blue, blue), &[], ends);
        s.raw("blue", &solicitation(Addr::UNSPECIFIED, blue), &[], ends);
        s.raw("blue", &solicitation(Addr::UNSPECIFIED, link_local), &[], ends);
    });
}
