//! Frames from nothing: UDP, TCP and ICMP echo with right checksums, for replies, tests and
//! traffic.
//!
//! Every function writes into a given buffer and returns the frame's length; `None` if the buffer
//! is too small, the datagram too long, or source and destination are of different families.

use crate::addr::{Addr, Mac};
use crate::checksum;
use crate::flow_key::FlowKey;
use crate::headers::{Fragment, Headers, IcmpKind};
use crate::protocol;
use crate::wire::*;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub dst_mac: Mac,
    pub src_mac: Mac,
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
    /// Time to live or hop limit.
    pub ttl: u8,
}

/// Linux's default TTL, and RFC 1700's recommendation.
pub const DEFAULT_TTL: u8 = 64;

impl Path {
    /// A path for packets of `key`, with the default TTL. The protocol is the emit function's.
    pub fn of(key: &FlowKey, dst_mac: Mac, src_mac: Mac) -> Path {
        let FlowKey { src, dst, sport, dport, .. } = *key;
        Path { dst_mac, src_mac, src, dst, sport, dport, ttl: DEFAULT_TTL }
    }
}

/// The TCP fields that are not part of the path. No options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    /// [`tcp_flags`].
    pub flags: u8,
    pub window: u16,
}

/// Writes a UDP datagram.
pub fn emit_udp(buf: &mut [u8], path: &Path, payload: &[u8]) -> Option<usize> {
    let len = UDP_LEN + payload.len();
    let headers = emit_ip(buf, path, protocol::UDP, 0, len)?;
    let udp: &mut [u8; UDP_LEN] = header_at_mut(buf, headers.l4.into())?;
    put_u16(udp, 0, path.sport);
    put_u16(udp, 2, path.dport);
    put_u16(udp, 4, len as u16);
    put_u16(udp, 6, 0);
    finish(buf, &headers, UDP_LEN, payload)
}

/// Writes a TCP segment without options.
pub fn emit_tcp(buf: &mut [u8], path: &Path, segment: &Segment, payload: &[u8]) -> Option<usize> {
    let headers = emit_ip(buf, path, protocol::TCP, 0, TCP_LEN + payload.len())?;
    let tcp: &mut [u8; TCP_LEN] = header_at_mut(buf, headers.l4.into())?;
    *tcp = [0; TCP_LEN];
    put_u16(tcp, 0, path.sport);
    put_u16(tcp, 2, path.dport);
    put_u32(tcp, 4, segment.seq);
    put_u32(tcp, 8, segment.ack);
    tcp[12] = (TCP_LEN as u8 / 4) << 4;
    tcp[13] = segment.flags;
    put_u16(tcp, 14, segment.window);
    finish(buf, &headers, TCP_LEN, payload)
}

/// Writes an ICMP or ICMPv6 echo, by the family of the path. As in [`FlowKey`] the identifier is
/// the source port of a request (`dport` 0) and the destination port of a reply (`sport` 0); a path
/// with `sport` 0 and another `dport` therefore makes a reply.
pub fn emit_echo(buf: &mut [u8], path: &Path, sequence: u16, payload: &[u8]) -> Option<usize> {
    let is_reply = path.sport == 0 && path.dport != 0;
    let (protocol, kind) = match (path.dst.is_v4(), is_reply) {
        (true, false) => (protocol::ICMP, icmpv4::ECHO_REQUEST),
        (true, true) => (protocol::ICMP, icmpv4::ECHO_REPLY),
        (false, false) => (protocol::ICMPV6, icmpv6::ECHO_REQUEST),
        (false, true) => (protocol::ICMPV6, icmpv6::ECHO_REPLY),
    };
    let headers = emit_ip(buf, path, protocol, 0, ICMP_LEN + payload.len())?;
    let icmp: &mut [u8; ICMP_LEN] = header_at_mut(buf, headers.l4.into())?;
    *icmp = [kind, 0, 0, 0, 0, 0, 0, 0];
    put_u16(icmp, 4, path.sport | path.dport);
    put_u16(icmp, 6, sequence);
    finish(buf, &headers, ICMP_LEN, payload)
}

/// Copies the payload behind an L4 header of `header_len` bytes and fills the L4 checksum.
fn finish(buf: &mut [u8], headers: &Headers, header_len: usize, payload: &[u8]) -> Option<usize> {
    let end = usize::from(headers.end);
    buf.get_mut(usize::from(headers.l4) + header_len..end)?.copy_from_slice(payload);
    checksum::fill_l4(buf, headers);
    Some(end)
}

/// Writes the Ethernet and IP headers of a datagram with `l4_len` bytes behind them, and says where
/// everything is. IPv4 is marked "don't fragment" with identification 0 (RFC 6864 section 4.1).
pub(crate) fn emit_ip(
    buf: &mut [u8],
    path: &Path,
    protocol: u8,
    traffic_class: u8,
    l4_len: usize,
) -> Option<Headers> {
    let is_v4 = path.dst.is_v4();
    let l4 = ETHERNET_LEN + if is_v4 { IPV4_LEN } else { IPV6_LEN };
    let end = l4.checked_add(l4_len)?;
    if path.src.is_v4() != is_v4 || end > buf.len() || end > usize::from(u16::MAX) {
        return None;
    }
    let ethernet: &mut [u8; ETHERNET_LEN] = header_at_mut(buf, 0)?;
    ethernet[..6].copy_from_slice(&path.dst_mac.0);
    ethernet[6..12].copy_from_slice(&path.src_mac.0);
    put_u16(ethernet, 12, if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 });
    if is_v4 {
        let ip: &mut [u8; IPV4_LEN] = header_at_mut(buf, ETHERNET_LEN)?;
        *ip = [0; IPV4_LEN];
        ip[0] = 0x45;
        ip[1] = traffic_class;
        put_u16(ip, 2, (IPV4_LEN + l4_len) as u16);
        put_u16(ip, 6, 0x4000);
        ip[8] = path.ttl;
        ip[9] = protocol;
        ip[12..16].copy_from_slice(&path.src.last_octets());
        ip[16..20].copy_from_slice(&path.dst.last_octets());
        let check = checksum::ipv4_header(ip);
        put_u16(ip, 10, check);
    } else {
        let ip: &mut [u8; IPV6_LEN] = header_at_mut(buf, ETHERNET_LEN)?;
        put_u32(ip, 0, 6 << 28 | u32::from(traffic_class) << 20);
        put_u16(ip, 4, l4_len as u16);
        ip[6] = protocol;
        ip[7] = path.ttl;
        ip[8..24].copy_from_slice(&path.src.octets());
        ip[24..40].copy_from_slice(&path.dst.octets());
    }
    Some(Headers {
        l3: ETHERNET_LEN as u16,
        l4: l4 as u16,
        end: end as u16,
        family: if is_v4 { 4 } else { 6 },
        protocol,
        tcp_flags: 0,
        fragment: Fragment::None,
        ttl: path.ttl,
        icmp: IcmpKind::None,
        has_extensions: false,
        fragment_id: 0,
    })
}
