//! Random packets, written by etherparse: an implementation that shares no code with ours.
#![allow(dead_code, reason = "every test binary uses a part")]

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};
use proptest::prelude::*;
use weir_packet::{Addr, FlowKey, Mac, Packet, Parsed, parse, protocol};

pub const SRC_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
pub const DST_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

/// A packet to build: a flow and the fields that are not part of it.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    pub key: FlowKey,
    pub is_reply: bool,
    pub ttl: u8,
    pub seq: u32,
    pub window: u16,
    pub payload: Vec<u8>,
}

pub fn addr(family: u8) -> impl Strategy<Value = Addr> {
    any::<[u8; 16]>().prop_map(move |mut octets| {
        if family == 4 {
            // 1 to 126: neither loopback, multicast nor unspecified.
            return Addr::from_v4([octets[0] % 126 + 1, octets[1], octets[2], octets[3]]);
        }
        octets[0] = 0xfd;
        Addr::from_v6(octets)
    })
}

pub fn spec() -> impl Strategy<Value = Spec> {
    (any::<bool>(), 0..3_usize).prop_flat_map(|(is_v4, which)| {
        let family = if is_v4 { 4 } else { 6 };
        let icmp = if is_v4 { protocol::ICMP } else { protocol::ICMPV6 };
        spec_of(family, [protocol::TCP, protocol::UDP, icmp][which])
    })
}

pub fn spec_of(family: u8, protocol: u8) -> impl Strategy<Value = Spec> {
    let ends = (addr(family), addr(family), any::<u16>(), any::<u16>(), any::<bool>());
    let rest = (1..=255_u8, any::<u32>(), any::<u16>());
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    (ends, rest, payload).prop_map(move |(ends, (ttl, seq, window), payload)| {
        let (src, dst, mut sport, mut dport, is_reply) = ends;
        if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
            (sport, dport) = if is_reply { (0, dport) } else { (sport, 0) };
        }
        let key = FlowKey { src, dst, sport, dport, protocol, family, zone: 0 };
        Spec { key, is_reply, ttl, seq, window, payload }
    })
}

impl Spec {
    /// The packet by etherparse, as a frame with right checksums.
    pub fn frame(&self) -> Vec<u8> {
        let FlowKey { src, dst, sport, dport, protocol, .. } = self.key;
        let ethernet = PacketBuilder::ethernet2(SRC_MAC.0, DST_MAC.0);
        let ip = match (src.v4_octets(), dst.v4_octets()) {
            // Not `.ipv4()`: that leaves the flags to its default.
            (Some(src), Some(dst)) => ethernet.ip(etherparse::IpHeaders::Ipv4(
                Ipv4Header { dont_fragment: true, ..ipv4(src, dst, self.ttl) },
                etherparse::Ipv4Extensions::default(),
            )),
            _ => ethernet.ipv6(src.octets(), dst.octets(), self.ttl),
        };
        let mut frame = Vec::new();
        let (payload, seq) = (&self.payload[..], self.seq as u16);
        match (protocol, self.is_reply) {
            (protocol::TCP, _) => ip
                .tcp(sport, dport, self.seq, self.window)
                .ack(!self.seq)
                .psh()
                .write(&mut frame, payload),
            (protocol::UDP, _) => ip.udp(sport, dport).write(&mut frame, payload),
            (protocol::ICMP, false) => {
                ip.icmpv4_echo_request(sport, seq).write(&mut frame, payload)
            }
            (protocol::ICMP, true) => ip.icmpv4_echo_reply(dport, seq).write(&mut frame, payload),
            (protocol::ICMPV6, false) => {
                ip.icmpv6_echo_request(sport, seq).write(&mut frame, payload)
            }
            (_, _) => ip.icmpv6_echo_reply(dport, seq).write(&mut frame, payload),
        }
        .expect("a writable packet");
        frame
    }
}

pub fn ipv4(source: [u8; 4], destination: [u8; 4], time_to_live: u8) -> Ipv4Header {
    Ipv4Header {
        source,
        destination,
        time_to_live,
        fragment_offset: IpFragOffset::ZERO,
        protocol: IpNumber::UDP,
        ..Ipv4Header::default()
    }
}

/// A frame with any IP payload, its protocol number as given: for what etherparse cannot write.
pub fn ip_frame(src: Addr, dst: Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&DST_MAC.0[..], &SRC_MAC.0].concat();
    match (src.v4_octets(), dst.v4_octets()) {
        (Some(src), Some(dst)) => {
            frame.extend([8, 0]);
            let mut ip = ipv4(src, dst, 64);
            ip.protocol = IpNumber(protocol);
            ip.set_payload_len(payload.len()).expect("a short payload");
            ip.header_checksum = ip.calc_header_checksum();
            frame.extend(ip.to_bytes());
        }
        _ => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((payload.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
    }
    frame.extend(payload);
    frame
}

pub fn parse_ip(frame: &[u8]) -> Packet {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("not an IP packet: {other:?}"),
    }
}

pub fn key(text_src: &str, text_dst: &str, sport: u16, dport: u16, protocol: u8) -> FlowKey {
    let src: Addr = text_src.parse().expect("an address");
    let dst = text_dst.parse().expect("an address");
    FlowKey { src, dst, sport, dport, protocol, family: src.family(), zone: 0 }
}
