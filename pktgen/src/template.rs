//! The frame that all packets of a run are copies of, and what differs from packet to packet.
//!
//! Checksums are not computed over the whole packet each time: the sum of what never changes is
//! kept, and the changing fields are added.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use weir_packet::build::{DEFAULT_TTL, Path, emit_udp};
use weir_packet::checksum::{fold, pseudo_header, sum};
use weir_packet::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN};
use weir_packet::{Addr, Mac, protocol};

use crate::message::{MESSAGE_LEN, Message, pattern};

/// Why a packet cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// Not room for the headers and the message.
    #[error("--size {size}: a frame of this family has at least {min} bytes with its message")]
    TooSmall { size: usize, min: usize },
    /// More than an Ethernet frame of this path may have.
    #[error("--size {size}: a frame has at most {max} bytes here")]
    TooLarge { size: usize, max: usize },
    /// IPv4 to IPv6 or the other way.
    #[error("--src {src} and --dst {dst} are of different families")]
    Families { src: IpAddr, dst: IpAddr },
    /// Flows are told apart by source address and port.
    #[error(
        "--flows {flows}: {sources} source addresses with ports from {port} on give only {max}"
    )]
    TooManyFlows { flows: u32, sources: u32, port: u16, max: u64 },
    /// Zero flows.
    #[error("--flows 0: there must be at least one")]
    NoFlows,
    /// Not an address or a range of addresses.
    #[error("{0}: not an address, nor FIRST-LAST of one family")]
    Range(String),
}

/// Consecutive addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    count: u32,
}

impl AddressRange {
    /// How many addresses.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The address at place `index`, from 0.
    pub fn at(&self, index: u32) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) + index).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(index)).into()),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        (0..self.count).map(|index| self.at(index))
    }
}

impl From<IpAddr> for AddressRange {
    fn from(first: IpAddr) -> Self {
        Self { first, count: 1 }
    }
}

impl FromStr for AddressRange {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let wrong = || TemplateError::Range(text.into());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let last_less_first = match (first.parse(), last.parse()) {
            (Ok(IpAddr::V4(first)), Ok(IpAddr::V4(last))) => {
                u32::from(last).checked_sub(first.into()).map(u128::from)
            }
            (Ok(IpAddr::V6(first)), Ok(IpAddr::V6(last))) => {
                u128::from(last).checked_sub(first.into())
            }
            _ => None,
        };
        let count = last_less_first.and_then(|span| u32::try_from(span + 1).ok());
        let first = first.parse().map_err(|_| wrong())?;
        Ok(Self { first, count: count.ok_or_else(wrong)? })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}", self.first),
            count => write!(f, "{}-{}", self.first, self.at(count - 1)),
        }
    }
}

/// What the packets of a run look like.
#[derive(Clone, Copy, Debug)]
pub struct PacketSpec {
    pub dst_mac: Mac,
    pub src_mac: Mac,
    /// Flow f has source address `f % count`, and source port `src_port + f / count`.
    pub src: AddressRange,
    pub src_port: u16,
    pub dst: SocketAddr,
    pub flows: u32,
    /// Bytes of a frame, from the Ethernet header on, without FCS.
    pub size: usize,
}

impl PacketSpec {
    /// The source ports in use, both ends included.
    pub fn src_ports(&self) -> (u16, u16) {
        let more = (self.flows.saturating_sub(1) / self.src.count()) as u16;
        (self.src_port, self.src_port.saturating_add(more))
    }
}

/// A frame with its changing fields at zero.
#[derive(Clone, Debug)]
pub struct PacketTemplate {
    spec: PacketSpec,
    frame: Vec<u8>,
    pattern: Vec<u8>,
    /// Of the IPv4 header without source address and checksum.
    l3_sum: u64,
    /// Of pseudo-header, UDP header and payload without the changing fields.
    l4_sum: u64,
}

impl PacketTemplate {
    /// Prepares packets.
    ///
    /// # Errors
    /// If size, families or the number of flows do not go together.
    pub fn new(spec: PacketSpec) -> Result<PacketTemplate, TemplateError> {
        let (src, dst) = (spec.src.at(0), spec.dst.ip());
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(TemplateError::Families { src, dst });
        }
        check_flows(&spec)?;
        let l3_len = if dst.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
        let min = ETHERNET_LEN + l3_len + UDP_LEN + MESSAGE_LEN;
        let size = spec.size;
        let pattern = pattern(size.checked_sub(min).ok_or(TemplateError::TooSmall { size, min })?);
        let path = Path {
            dst_mac: spec.dst_mac,
            src_mac: spec.src_mac,
            src: if dst.is_ipv4() { Addr::from_v4([0; 4]) } else { Addr::UNSPECIFIED },
            dst: dst.into(),
            sport: 0,
            dport: spec.dst.port(),
            ttl: DEFAULT_TTL,
        };
        let payload = [&[0; MESSAGE_LEN][..], &pattern].concat();
        let mut frame = vec![0; size];
        let max = ETHERNET_LEN + usize::from(u16::MAX);
        emit_udp(&mut frame, &path, &payload).ok_or(TemplateError::TooLarge { size, max })?;
        let l4 = ETHERNET_LEN + l3_len;
        frame[l4 + 6..l4 + 8].fill(0);
        let mut l3_sum = 0;
        if dst.is_ipv4() {
            frame[ETHERNET_LEN + 10..ETHERNET_LEN + 12].fill(0);
            l3_sum = sum(&frame[ETHERNET_LEN..l4]);
        }
        let pseudo = pseudo_header(&path.src, &path.dst, protocol::UDP, (size - l4) as u32);
        let l4_sum = pseudo + sum(&frame[l4..]);
        Ok(PacketTemplate { spec, frame, pattern, l3_sum, l4_sum })
    }

    /// What the packets look like.
    pub fn spec(&self) -> &PacketSpec {
        &self.spec
    }

    /// What stands behind each message.
    pub fn pattern(&self) -> &[u8] {
        &self.pattern
    }

    /// The packet without its changing fields: what [`PacketTemplate::write`] expects in its
    /// buffer.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Makes a copy of [`PacketTemplate::frame`] into the packet of `message`.
    ///
    /// # Panics
    /// If `frame` is shorter than the template.
    pub fn write(&self, frame: &mut [u8], message: &Message) {
        let PacketSpec { src, src_port, .. } = self.spec;
        let port = src_port + (message.flow / src.count()) as u16;
        let (src_sum, l4) = match src.at(message.flow % src.count()) {
            IpAddr::V4(src) => {
                let src_sum = sum(&src.octets());
                let check = !fold(self.l3_sum + src_sum);
                let header = &mut frame[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN];
                header[10..12].copy_from_slice(&check.to_be_bytes());
                header[12..16].copy_from_slice(&src.octets());
                (src_sum, ETHERNET_LEN + IPV4_LEN)
            }
            IpAddr::V6(src) => {
                let header = &mut frame[ETHERNET_LEN..ETHERNET_LEN + IPV6_LEN];
                header[8..24].copy_from_slice(&src.octets());
                (sum(&src.octets()), ETHERNET_LEN + IPV6_LEN)
            }
        };
        let (bytes, port) = (message.to_bytes(), port.to_be_bytes());
        // RFC 768: a sum of zero is sent as all ones.
        let check = match !fold(self.l4_sum + src_sum + sum(&port) + sum(&bytes)) {
            0 => u16::MAX,
            check => check,
        };
        let (header, payload) = frame[l4..].split_at_mut(UDP_LEN);
        header[..2].copy_from_slice(&port);
        header[6..].copy_from_slice(&check.to_be_bytes());
        payload[..MESSAGE_LEN].copy_from_slice(&bytes);
    }
}

fn check_flows(spec: &PacketSpec) -> Result<(), TemplateError> {
    let (flows, sources, port) = (spec.flows, spec.src.count(), spec.src_port);
    let max = u64::from(sources) * (u64::from(u16::MAX - port) + 1);
    match flows {
        0 => Err(TemplateError::NoFlows),
        _ if u64::from(flows) > max => {
            Err(TemplateError::TooManyFlows { flows, sources, port, max })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use weir_packet::{Parsed, checksum, parse};

    use super::*;
    use crate::message::Received;

    fn spec(src: &str, dst: &str, flows: u32, size: usize) -> PacketSpec {
        PacketSpec {
            dst_mac: Mac([2, 0, 0, 0, 0, 1]),
            src_mac: Mac([2, 0, 0, 0, 0, 2]),
            src: src.parse().unwrap(),
            src_port: 10_000,
            dst: dst.parse().unwrap(),
            flows,
            size,
        }
    }

    #[test]
    fn packets_are_valid_and_flows_differ() {
        let families =
            [("10.0.0.9-10.0.0.11", "10.1.0.1:80"), ("fd00::fffe-fd00::1:0", "[fd01::1]:80")];
        for (src, dst) in families {
            for size in [102, 103, 1514] {
                let template = PacketTemplate::new(spec(src, dst, 10, size)).unwrap();
                let mut keys = HashSet::new();
                for seq in 0..200_u64 {
                    let flow = (seq % 10) as u32;
                    let sent_ns = seq.wrapping_mul(0x1234_5678_9abc_def1);
                    let message = Message { run: 5, flow, seq, intended_ns: seq << 50, sent_ns };
                    let mut frame = template.frame().to_vec();
                    template.write(&mut frame, &message);
                    let Ok(Parsed::Ip(packet)) = parse(&frame) else { panic!("not a packet") };
                    assert!(checksum::l3_is_valid(&frame, &packet.headers));
                    assert!(checksum::l4_is_valid(&frame, &packet.headers), "{seq}");
                    assert_eq!(usize::from(packet.headers.end), size);
                    let payload = &frame[usize::from(packet.headers.l4) + UDP_LEN..];
                    let read = Message::read(payload, template.pattern());
                    assert_eq!(read, Received::Whole(message));
                    keys.insert((packet.key.src.octets(), packet.key.sport));
                }
                assert_eq!(keys.len(), 10);
                assert_eq!(template.spec().src_ports(), (10_000, 10_003));
            }
        }
    }

    #[test]
    fn impossible_packets_are_refused_by_name() {
        let error = |spec| PacketTemplate::new(spec).map(drop).unwrap_err().to_string();
        assert!(error(spec("10.0.0.1", "10.1.0.1:80", 1, 64)).contains("at least 82 bytes"));
        assert!(error(spec("fd00::1", "[fd00::2]:80", 1, 64)).contains("at least 102 bytes"));
        assert!(error(spec("fd00::1", "10.1.0.1:80", 1, 128)).contains("different families"));
        assert!(error(spec("10.0.0.1", "10.1.0.1:80", 0, 128)).contains("at least one"));
        assert!(error(spec("10.0.0.1", "10.1.0.1:80", 55_537, 128)).contains("only 55536"));
        assert!(error(spec("10.0.0.1", "10.1.0.1:80", 1, 70_000)).contains("at most"));
    }

    #[test]
    fn ranges_parse_and_print() {
        let range: AddressRange = "10.0.0.254-10.0.1.1".parse().unwrap();
        assert_eq!((range.count(), range.at(3).to_string()), (4, "10.0.1.1".into()));
        for text in ["10.0.0.254-10.0.1.1", "fd00::1", "fd00::1-fd00::ff"] {
            assert_eq!(text.parse::<AddressRange>().unwrap().to_string(), text);
        }
        for text in ["", "10.0.0.2-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.0/24"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
