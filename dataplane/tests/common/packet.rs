//! Packets as text, in both directions.
//!
//! ```text
//!  udp blue:4000 > web:53             tcp/S client:4000 > lb:80 ttl 9 len 100
//!  ping blue > green id 7             unreachable 3/3 web > blue
//! ```
//! TTL 64 is not written, nor the usual payload: 4 bytes of UDP and pings, none of TCP. Bytes of a
//! payload count up. What is wrong with a packet follows in words: `bad checksum`, `damaged`,
//! `macs`.

use std::fmt::Write as _;

use weir_packet::build::{DEFAULT_TTL, Path, Segment, emit_echo, emit_tcp, emit_udp};
use weir_packet::{
    Addr, Fragment, IcmpKind, Mac, Packet, Parsed, checksum, parse, protocol, rewrite, tcp_flags,
};
use weir_tables::PortId;

use super::node::{self, name_of};

const FLAGS: [(char, u8); 5] = [
    ('S', tcp_flags::SYN),
    ('A', tcp_flags::ACK),
    ('F', tcp_flags::FIN),
    ('R', tcp_flags::RST),
    ('P', tcp_flags::PSH),
];

/// A packet in the terms of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub protocol: u8,
    pub flags: u8,
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
    pub ttl: u8,
    pub len: usize,
}

impl Text {
    /// Reads a packet of a family, 4 or 6.
    pub fn parse(text: &str, family: u8) -> Text {
        let mut words = text.split_whitespace();
        let mut next = || words.next().unwrap_or_else(|| panic!("too short: {text}"));
        let (kind, flags) = match next().split_once('/') {
            Some((kind, flags)) => (kind, read_flags(flags)),
            None => (text.split_whitespace().next().expect("a word"), 0),
        };
        let (src, sport) = end(next(), family);
        assert_eq!(next(), ">", "{text}");
        let (dst, dport) = end(next(), family);
        let protocol = match (kind, family) {
            ("udp", _) => protocol::UDP,
            ("tcp", _) => protocol::TCP,
            ("ping" | "pong", 4) => protocol::ICMP,
            ("ping" | "pong", _) => protocol::ICMPV6,
            _ => panic!("no such packet: {text}"),
        };
        let len = if kind == "tcp" { 0 } else { 4 };
        let mut packet = Text { protocol, flags, src, dst, sport, dport, ttl: DEFAULT_TTL, len };
        while let Some(word) = words.next() {
            let value: u16 = words.next().and_then(|word| word.parse().ok()).expect("a number");
            match (word, kind) {
                ("ttl", _) => packet.ttl = value as u8,
                ("len", _) => packet.len = value.into(),
                ("id", "ping") => packet.sport = value,
                ("id", _) => packet.dport = value,
                _ => panic!("{word} in {text}"),
            }
        }
        packet
    }

    /// The frame, from one MAC to another.
    pub fn frame(&self, (src_mac, dst_mac): (Mac, Mac)) -> Vec<u8> {
        let Text { src, dst, sport, dport, ttl, .. } = *self;
        let path = Path { dst_mac, src_mac, src, dst, sport, dport, ttl };
        let payload: Vec<u8> = (0..self.len).map(|at| at as u8).collect();
        let mut buffer = vec![0; 128 + self.len];
        let len = match self.protocol {
            protocol::UDP => emit_udp(&mut buffer, &path, &payload),
            protocol::TCP => {
                let segment = Segment { seq: 1000, ack: 2000, flags: self.flags, window: 64 };
                emit_tcp(&mut buffer, &path, &segment, &payload)
            }
            _ => emit_echo(&mut buffer, &path, 1, &payload),
        };
        buffer.truncate(len.expect("the buffer is long enough"));
        buffer
    }
}

/// The frame of a text as it comes in by a port.
pub fn arriving(port: PortId, text: &str, family: u8) -> Vec<u8> {
    Text::parse(text, family).frame(node::arriving_macs(port))
}

/// A frame that was sent to a port, as text.
pub fn show(port: PortId, frame: &[u8]) -> String {
    let mut text = match parse(frame) {
        Ok(Parsed::Ip(packet)) => show_ip(frame, &packet),
        other => format!("{other:?} {:02x?}", &frame[frame.len().min(14)..]),
    };
    if let Ok(Parsed::Ip(packet)) = parse(frame) {
        let macs = (rewrite::src_mac(frame), rewrite::dst_mac(frame));
        if macs != node::leaving_macs(port, &packet.key.dst) {
            write!(text, " macs {} > {}", macs.0, macs.1).expect("a string");
        }
    }
    text
}

fn show_ip(frame: &[u8], packet: &Packet) -> String {
    let headers = &packet.headers;
    let l4 = &frame[headers.l4.into()..headers.end.into()];
    let (mut text, payload, usual) = headline(l4, packet);
    let payload = l4.get(payload..).unwrap_or_default();
    let mut note = |note: String| text.push_str(&note);
    if headers.ttl != DEFAULT_TTL {
        note(format!(" ttl {}", headers.ttl));
    }
    if payload.len() != usual {
        note(format!(" len {}", payload.len()));
    }
    if headers.fragment != Fragment::None {
        note(format!(" fragment {:?}", headers.fragment));
    } else if !checksum::l4_is_valid(frame, headers) {
        note(" bad checksum".into());
    }
    if payload.iter().enumerate().any(|(at, byte)| *byte != at as u8) {
        note(" damaged".into());
    }
    if !checksum::l3_is_valid(frame, headers) {
        note(" bad IPv4 checksum".into());
    }
    text
}

/// Who says what to whom, where the payload starts, and its usual length.
fn headline(l4: &[u8], packet: &Packet) -> (String, usize, usize) {
    let (headers, key) = (&packet.headers, &packet.key);
    let (src, dst) = (name_of(&key.src), name_of(&key.dst));
    match (key.protocol, headers.icmp) {
        _ if headers.fragment == Fragment::Later => {
            (format!("{} {src} > {dst}", protocol::Name(key.protocol)), 0, 0)
        }
        (protocol::UDP, _) => (format!("udp {src}:{} > {dst}:{}", key.sport, key.dport), 8, 4),
        (protocol::TCP, _) => {
            let flags = FLAGS.iter().filter(|flag| headers.tcp_flags & flag.1 != 0);
            let flags: String = flags.map(|flag| flag.0).collect();
            let flags = if flags.is_empty() { flags } else { format!("/{flags}") };
            (format!("tcp{flags} {src}:{} > {dst}:{}", key.sport, key.dport), 20, 0)
        }
        (_, IcmpKind::EchoRequest) => (format!("ping {src} > {dst} id {}", key.sport), 8, 4),
        (_, IcmpKind::EchoReply) => (format!("pong {src} > {dst} id {}", key.dport), 8, 4),
        (_, IcmpKind::Error) => {
            let about = quoted(&l4[8..], headers.family);
            (format!("unreachable {}/{} {src} > {dst} about {about}", l4[0], l4[1]), l4.len(), 0)
        }
        (number, icmp) => (format!("protocol {number} {icmp:?} {src} > {dst}"), l4.len(), 0),
    }
}

/// The packet that an ICMP error quotes.
fn quoted(datagram: &[u8], family: u8) -> String {
    let frame = quoted_frame(datagram, family);
    match parse(&frame) {
        Ok(Parsed::Ip(packet)) => headline(&frame[packet.headers.l4.into()..], &packet).0,
        other => format!("{other:?}"),
    }
}

/// An IP datagram as a frame, with zero MACs.
pub fn as_frame(datagram: &[u8], family: u8) -> Vec<u8> {
    let ethertype: [u8; 2] = if family == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[0; 12], &ethertype[..], datagram].concat()
}

/// A quoted datagram as a frame. Its end may be cut off: its lengths say how much is there.
pub fn quoted_frame(datagram: &[u8], family: u8) -> Vec<u8> {
    let mut frame = as_frame(datagram, family);
    let (length_at, counted, l4) = if family == 4 { (16, 0, 34) } else { (18, 40, 54) };
    let mut cut = |at: usize, length: usize| {
        frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    };
    cut(length_at, datagram.len() - counted);
    if datagram[if family == 4 { 9 } else { 6 }] == protocol::UDP {
        cut(l4 + 4, 14 + datagram.len() - l4);
    }
    frame
}

/// The ones' complement sum of RFC 1071.
pub fn ones_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Cuts the middle out of a frame's IP datagram: the first fragment, or one behind it.
pub fn fragment(frame: &[u8], is_first: bool) -> Vec<u8> {
    let Ok(Parsed::Ip(packet)) = parse(frame) else { panic!("not an IP packet") };
    let (l3, l4): (usize, usize) = (packet.headers.l3.into(), packet.headers.l4.into());
    let payload = &frame[l4..usize::from(packet.headers.end)];
    let split = payload.len() / 16 * 8;
    let part = if is_first { &payload[..split] } else { &payload[split..] };
    let field = if is_first { 0 } else { split as u16 };
    let mut out = frame[..l4].to_vec();
    if packet.headers.family == 4 {
        out[l3 + 2..l3 + 4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
        let flags = if is_first { 0x2000 } else { field / 8 };
        out[l3 + 4..l3 + 8].copy_from_slice(&[0, 9, (flags >> 8) as u8, flags as u8]);
        out[l3 + 10..l3 + 12].fill(0);
        let sum = !ones_sum(&out[l3..l3 + 20]);
        out[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let next = std::mem::replace(&mut out[l3 + 6], 44);
        out[l3 + 4..l3 + 6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        let [high, low] = (field | u16::from(is_first)).to_be_bytes();
        out.extend([next, 0, high, low, 0, 0, 0, 9]);
    }
    out.extend(part);
    out
}

fn read_flags(text: &str) -> u8 {
    let bit = |letter| FLAGS.iter().find(|flag| flag.0 == letter).expect("a TCP flag").1;
    text.chars().map(bit).sum()
}

fn end(text: &str, family: u8) -> (Addr, u16) {
    match text.split_once(':') {
        Some((name, port)) => (node::addr(name, family), port.parse().expect("a port")),
        None => (node::addr(text, family), 0),
    }
}
