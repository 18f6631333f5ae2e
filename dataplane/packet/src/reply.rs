//! Answers to a packet, written over it: TCP reset, ICMP error, echo reply.
//!
//! The answer goes back where the packet came from, with both MACs swapped. Functions take the
//! whole buffer in which the frame lies at the start, and return the answer's length; `None` means
//! that this packet must not be answered so, and that nothing was written.

use crate::addr::{Addr, Mac};
use crate::build::{DEFAULT_TTL, Path, Segment, emit_ip, emit_tcp};
use crate::checksum::{self, Delta};
use crate::headers::{Fragment, Headers, IcmpKind};
use crate::protocol;
use crate::rewrite::{dst_mac, set_macs, src_mac};
use crate::wire::*;

/// Writes the reset that refuses a TCP segment (RFC 9293 section 3.10.7.1); a reset gets none.
pub fn write_tcp_reset(frame: &mut [u8], headers: &Headers) -> Option<usize> {
    let tcp = segment_to_end(frame, headers)?;
    let flags = tcp[13];
    let (sport, dport) = (u16_at(tcp, 0), u16_at(tcp, 2));
    let reset = if flags & tcp_flags::ACK != 0 {
        Segment { seq: u32_at(tcp, 8), flags: tcp_flags::RST, ..Segment::default() }
    } else {
        let data_at = usize::from(headers.l4) + usize::from(tcp[12] >> 4) * 4;
        // SYN and FIN each take a sequence number.
        let len = usize::from(headers.end).saturating_sub(data_at) as u32
            + u32::from(flags & tcp_flags::SYN != 0)
            + u32::from(flags & tcp_flags::FIN != 0);
        Segment {
            ack: u32_at(tcp, 4).wrapping_add(len),
            flags: tcp_flags::RST | tcp_flags::ACK,
            ..Segment::default()
        }
    };
    let path = Path { sport: dport, dport: sport, ..path_back(frame, headers)? };
    emit_tcp(frame, &path, &reset, &[])
}

/// Cuts a TCP segment down to a reset, as if its own sender ended the connection: for a receiver
/// that waits and may never send again. Nothing is written where it is a reset already.
pub fn write_tcp_abort(frame: &mut [u8], headers: &Headers) -> Option<usize> {
    let tcp = segment_to_end(frame, headers)?;
    let flags = tcp[13];
    let reset = Segment {
        seq: u32_at(tcp, 4),
        ack: u32_at(tcp, 8),
        flags: tcp_flags::RST | flags & tcp_flags::ACK,
        ..Segment::default()
    };
    let (sport, dport) = (u16_at(tcp, 0), u16_at(tcp, 2));
    let (src, dst) = addresses(frame, headers)?;
    let (dst_mac, src_mac) = (dst_mac(frame), src_mac(frame));
    let path = Path { dst_mac, src_mac, src, dst, sport, dport, ttl: headers.ttl };
    emit_tcp(frame, &path, &reset, &[])
}

/// The header of a segment whose connection a reset may end: whole, between two hosts, and no reset
/// itself.
fn segment_to_end<'a>(frame: &'a [u8], headers: &Headers) -> Option<&'a [u8; TCP_LEN]> {
    if headers.protocol != protocol::TCP || headers.fragment != Fragment::None {
        return None;
    }
    let tcp: &[u8; TCP_LEN] = header_at(frame, headers.l4.into())?;
    let is_reset = tcp[13] & tcp_flags::RST != 0;
    (!is_reset && is_unicast_between(frame, headers)).then_some(tcp)
}

/// Why a packet is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the destination.
    NoRoute,
    HostUnreachable,
    PortUnreachable,
    /// Refused by policy.
    Prohibited,
    /// The next link takes at most `mtu` bytes of IP packet.
    TooBig {
        mtu: u16,
    },
    /// The TTL or hop limit is used up.
    TimeExceeded,
}

impl IcmpError {
    /// Type, code and the four bytes behind the checksum.
    const fn message(self, is_v4: bool) -> (u8, u8, u32) {
        match (self, is_v4) {
            (IcmpError::NoRoute, true) => (icmpv4::UNREACHABLE, 0, 0),
            (IcmpError::HostUnreachable, true) => (icmpv4::UNREACHABLE, 1, 0),
            (IcmpError::PortUnreachable, true) => (icmpv4::UNREACHABLE, 3, 0),
            // RFC 1191 section 4: the next hop's MTU in the low half.
            (IcmpError::TooBig { mtu }, true) => (icmpv4::UNREACHABLE, 4, mtu as u32),
            (IcmpError::Prohibited, true) => (icmpv4::UNREACHABLE, 13, 0),
            (IcmpError::TimeExceeded, true) => (icmpv4::TIME_EXCEEDED, 0, 0),
            (IcmpError::NoRoute, false) => (icmpv6::UNREACHABLE, 0, 0),
            (IcmpError::Prohibited, false) => (icmpv6::UNREACHABLE, 1, 0),
            (IcmpError::HostUnreachable, false) => (icmpv6::UNREACHABLE, 3, 0),
            (IcmpError::PortUnreachable, false) => (icmpv6::UNREACHABLE, 4, 0),
            (IcmpError::TooBig { mtu }, false) => (icmpv6::PACKET_TOO_BIG, 0, mtu as u32),
            (IcmpError::TimeExceeded, false) => (icmpv6::TIME_EXCEEDED, 0, 0),
        }
    }
}

/// The longest ICMP error with its IP header: RFC 1812 section 4.3.2.3.
const ICMPV4_ERROR_MAX: usize = 576;
/// The IPv6 minimum MTU: RFC 4443 section 2.4(c).
const ICMPV6_ERROR_MAX: usize = 1280;
/// Of the datagram's payload, the least that identifies its flow (RFC 792).
const QUOTE_MIN: usize = 8;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5), as Linux sends.
const ICMPV4_ERROR_TOS: u8 = 0xc0;

/// Writes the ICMP or ICMPv6 error about a packet, from `source`, quoting as much of the packet as
/// the RFCs and the buffer allow. `None` too where RFC 1122 section 3.2.2 or RFC 4443 section
/// 2.4(e) forbids an error, and where `source` is of another family.
pub fn write_icmp_error(
    buf: &mut [u8],
    headers: &Headers,
    error: IcmpError,
    source: Addr,
) -> Option<usize> {
    let is_error = matches!(headers.icmp, IcmpKind::Error | IcmpKind::Redirect);
    if is_error || headers.fragment == Fragment::Later {
        return None;
    }
    let is_v4 = headers.family == 4;
    // Path MTU discovery of multicast over IPv6 lives from errors about multicast.
    let may_be_multicast = !is_v4 && matches!(error, IcmpError::TooBig { .. });
    if !is_host(buf, headers) || !(may_be_multicast || is_unicast_between(buf, headers)) {
        return None;
    }
    let (error_max, protocol, ip_len, traffic_class) = if is_v4 {
        (ICMPV4_ERROR_MAX, protocol::ICMP, IPV4_LEN, ICMPV4_ERROR_TOS)
    } else {
        (ICMPV6_ERROR_MAX, protocol::ICMPV6, IPV6_LEN, 0)
    };
    let l3 = usize::from(headers.l3);
    let quote_at = ETHERNET_LEN + ip_len + ICMP_LEN;
    let room = buf.len().checked_sub(quote_at)?.min(error_max - ip_len - ICMP_LEN);
    let datagram_len = usize::from(headers.end).min(buf.len()).checked_sub(l3)?;
    let quote_len = datagram_len.min(room);
    let header_len = usize::from(headers.l4).saturating_sub(l3);
    let quote_min = datagram_len.min(header_len + QUOTE_MIN);
    let path = Path { src: source, ..path_back(buf, headers)? };
    if quote_len < quote_min || source.is_v4() != is_v4 {
        return None;
    }
    // Nothing below fails: the room is measured. The quote moves before its place is written to.
    buf.copy_within(l3..l3 + quote_len, quote_at);
    let headers = emit_ip(buf, &path, protocol, traffic_class, ICMP_LEN + quote_len)?;
    let (kind, code, rest) = error.message(is_v4);
    let icmp: &mut [u8; ICMP_LEN] = header_at_mut(buf, headers.l4.into())?;
    *icmp = [kind, code, 0, 0, 0, 0, 0, 0];
    put_u32(icmp, 4, rest);
    checksum::fill_l4(buf, &headers);
    Some(headers.end.into())
}

/// Turns an echo request into its reply. Options and payload stay; a wrong checksum stays wrong.
pub fn write_echo_reply(frame: &mut [u8], headers: &Headers) -> Option<usize> {
    let is_whole_request =
        headers.icmp == IcmpKind::EchoRequest && headers.fragment == Fragment::None;
    if !is_whole_request || !is_unicast_between(frame, headers) {
        return None;
    }
    let path = path_back(frame, headers)?;
    let l3 = usize::from(headers.l3);
    // Swapped addresses change no sum; the new type and TTL do.
    let kind = if headers.family == 4 {
        let ip: &mut [u8; IPV4_LEN] = header_at_mut(frame, l3)?;
        ip[12..16].copy_from_slice(&path.src.last_octets());
        ip[16..20].copy_from_slice(&path.dst.last_octets());
        let old = u16_at(ip, 8);
        ip[8] = DEFAULT_TTL;
        let delta = Delta::of_word(old, u16_at(ip, 8));
        put_u16(ip, 10, checksum::apply(u16_at(ip, 10), delta));
        icmpv4::ECHO_REPLY
    } else {
        let ip: &mut [u8; IPV6_LEN] = header_at_mut(frame, l3)?;
        ip[7] = DEFAULT_TTL;
        ip[8..24].copy_from_slice(&path.src.octets());
        ip[24..40].copy_from_slice(&path.dst.octets());
        icmpv6::ECHO_REPLY
    };
    let icmp: &mut [u8; ICMP_LEN] = header_at_mut(frame, headers.l4.into())?;
    let old = u16_at(icmp, 0);
    icmp[0] = kind;
    let delta = Delta::of_word(old, u16_at(icmp, 0));
    put_u16(icmp, 2, checksum::apply(u16_at(icmp, 2), delta));
    set_macs(frame, path.dst_mac, path.src_mac);
    Some(headers.end.into())
}

/// From the packet's destination to its source, ports 0.
fn path_back(frame: &[u8], headers: &Headers) -> Option<Path> {
    let (src, dst) = addresses(frame, headers)?;
    Some(Path {
        dst_mac: src_mac(frame),
        src_mac: dst_mac(frame),
        src: dst,
        dst: src,
        sport: 0,
        dport: 0,
        ttl: DEFAULT_TTL,
    })
}

fn addresses(frame: &[u8], headers: &Headers) -> Option<(Addr, Addr)> {
    let l3 = usize::from(headers.l3);
    Some(if headers.family == 4 {
        let ip: &[u8; IPV4_LEN] = header_at(frame, l3)?;
        (Addr::from_v4(octets_at(ip, 12)), Addr::from_v4(octets_at(ip, 16)))
    } else {
        let ip: &[u8; IPV6_LEN] = header_at(frame, l3)?;
        (Addr::from_v6(octets_at(ip, 8)), Addr::from_v6(octets_at(ip, 24)))
    })
}

/// Whether the source is an address that one host can have.
fn is_host(frame: &[u8], headers: &Headers) -> bool {
    addresses(frame, headers).is_some_and(|(src, _)| {
        let is_group = src.is_multicast() || src.is_broadcast() || src_mac(frame).is_multicast();
        !is_group && !src.is_unspecified() && !src.is_loopback()
    })
}

/// Whether the packet goes from one host to one host, on both layers: only then may it be answered.
fn is_unicast_between(frame: &[u8], headers: &Headers) -> bool {
    let is_group = |mac: Mac, addr: Addr| mac.is_multicast() || addr.is_multicast();
    is_host(frame, headers)
        && addresses(frame, headers).is_some_and(|(_, dst)| {
            !is_group(dst_mac(frame), dst) && !dst.is_broadcast() && !dst.is_unspecified()
        })
}
