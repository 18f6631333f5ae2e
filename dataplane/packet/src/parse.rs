//! Bytes to meaning: where the headers of a frame lie, and the flow it belongs to.
//!
//! [`parse`] looks at each frame once. It trusts no length: all offsets in [`Headers`] lie inside
//! the frame it was given, `l3 < l4 <= end <= frame.len()`, and for a packet that is not a later
//! fragment the fixed part of its TCP, UDP, SCTP or ICMP header lies before `end`.
//!
//! Checksums are not verified here. The sending kernel or the NIC made them, the receiving kernel
//! checks them, and all rewriting is incremental, so that a wrong checksum stays wrong.

use crate::addr::Addr;
use crate::flow_key::FlowKey;
use crate::headers::{Fragment, Headers, IcmpKind, Packet, Parsed};
use crate::malformed::Malformed;
use crate::protocol;
use crate::wire::*;

/// Finds the headers and the flow of a frame.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Parsed, Malformed> {
    // Offsets are u16; a datagram that reaches further has a length that lies for us.
    let frame = &frame[..frame.len().min(usize::from(u16::MAX))];
    let Some((ethernet, datagram)) = frame.split_first_chunk::<ETHERNET_LEN>() else {
        return Err(Malformed::TruncatedEthernet);
    };
    match u16_at(ethernet, 12) {
        ETHERTYPE_IPV4 => parse_ipv4(datagram).map(Parsed::Ip),
        ETHERTYPE_IPV6 => parse_ipv6(datagram).map(Parsed::Ip),
        ETHERTYPE_ARP => Ok(Parsed::Arp),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Ok(Parsed::Vlan),
        other => Ok(Parsed::Other(other)),
    }
}

/// What the IP header says, whichever version it was.
struct Datagram<'a> {
    src: Addr,
    dst: Addr,
    family: u8,
    protocol: u8,
    ttl: u8,
    fragment: Fragment,
    fragment_id: u32,
    /// From the start of the IP header to the L4 header.
    header_len: usize,
    has_extensions: bool,
    payload: &'a [u8],
}

#[inline(always)]
fn parse_ipv4(bytes: &[u8]) -> Result<Packet, Malformed> {
    let Some(ip) = bytes.first_chunk::<IPV4_LEN>() else {
        return Err(Malformed::TruncatedIpv4);
    };
    if ip[0] >> 4 != 4 {
        return Err(Malformed::BadVersion);
    }
    let header_len = usize::from(ip[0] & 0xf) * 4;
    let total_len = usize::from(u16_at(ip, 2));
    if header_len < IPV4_LEN {
        return Err(Malformed::Ipv4HeaderLength);
    }
    if total_len < header_len || total_len > bytes.len() {
        return Err(Malformed::Ipv4TotalLength);
    }
    if header_len > IPV4_LEN {
        check_ipv4_options(&bytes[IPV4_LEN..header_len])?;
    }
    let payload = &bytes[header_len..total_len];
    let flags_and_offset = u16_at(ip, 6);
    let offset = usize::from(flags_and_offset & 0x1fff) * 8;
    let more = flags_and_offset & 0x2000 != 0;
    let fragment = fragment_kind(offset, more, ip[9], payload.len())?;
    finish(Datagram {
        src: Addr::from_v4(octets_at(ip, 12)),
        dst: Addr::from_v4(octets_at(ip, 16)),
        family: 4,
        protocol: ip[9],
        ttl: ip[8],
        fragment,
        fragment_id: if fragment == Fragment::None { 0 } else { u32::from(u16_at(ip, 4)) },
        header_len,
        has_extensions: header_len > IPV4_LEN,
        payload,
    })
}

/// Options must fill their space exactly (RFC 791), and none may route the packet elsewhere.
#[cold]
pub(crate) fn check_ipv4_options(mut options: &[u8]) -> Result<(), Malformed> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    // At most 40 bytes, and each round takes at least one.
    while let Some((&kind, after)) = options.split_first() {
        match kind {
            END => return Ok(()),
            NOP => options = after,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(Malformed::SourceRoute),
            _ => {
                let len = usize::from(*after.first().ok_or(Malformed::Ipv4Options)?);
                if len < 2 {
                    return Err(Malformed::Ipv4Options);
                }
                options = options.get(len..).ok_or(Malformed::Ipv4Options)?;
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn parse_ipv6(bytes: &[u8]) -> Result<Packet, Malformed> {
    let Some((ip, after)) = bytes.split_first_chunk::<IPV6_LEN>() else {
        return Err(Malformed::TruncatedIpv6);
    };
    if ip[0] >> 4 != 6 {
        return Err(Malformed::BadVersion);
    }
    // Length 0 with a jumbo option (RFC 2675) cannot fit a frame: its hop-by-hop header is cut off.
    let Some(payload) = after.get(..usize::from(u16_at(ip, 4))) else {
        return Err(Malformed::Ipv6PayloadLength);
    };
    let (src, dst) = (Addr::from_v6(octets_at(ip, 8)), Addr::from_v6(octets_at(ip, 24)));
    if src.is_v4() || dst.is_v4() {
        return Err(Malformed::MappedAddress);
    }
    let found = if is_extension(ip[6]) {
        walk_extensions(ip[6], payload, false)?
    } else {
        Behind { protocol: ip[6], len: 0, fragment: Fragment::None, fragment_id: 0 }
    };
    finish(Datagram {
        src,
        dst,
        family: 6,
        protocol: found.protocol,
        ttl: ip[7],
        fragment: found.fragment,
        fragment_id: found.fragment_id,
        header_len: IPV6_LEN + found.len,
        has_extensions: found.len > 0,
        // The walk ended inside the payload.
        payload: payload.get(found.len..).unwrap_or_default(),
    })
}

/// The most IPv6 extension headers that are walked. Real packets have one or two.
pub const EXTENSIONS_MAX: usize = 8;

pub(crate) const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

#[inline]
pub(crate) fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// What is behind a chain of extension headers.
pub(crate) struct Behind {
    pub protocol: u8,
    /// Of the chain, in bytes.
    pub len: usize,
    pub fragment: Fragment,
    fragment_id: u32,
}

/// Steps over extension headers to the L4 header, or to the rest of a later fragment. A payload
/// that `is_cut` goes on beyond what is there, so that its length says nothing about a fragment.
#[cold]
pub(crate) fn walk_extensions(
    first: u8,
    payload: &[u8],
    is_cut: bool,
) -> Result<Behind, Malformed> {
    let mut found = Behind { protocol: first, len: 0, fragment: Fragment::None, fragment_id: 0 };
    let mut fragment_seen = false;
    for position in 0..=EXTENSIONS_MAX {
        let kind = found.protocol;
        if !is_extension(kind) || found.fragment == Fragment::Later {
            return Ok(found);
        }
        let Some(head) = header_at::<8>(payload, found.len) else {
            return Err(Malformed::TruncatedIpv6);
        };
        let len = match kind {
            FRAGMENT => 8,
            // RFC 4302: in words, minus two.
            AUTHENTICATION => (usize::from(head[1]) + 2) * 4,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        let rest = payload.get(found.len + len..).ok_or(Malformed::TruncatedIpv6)?;
        match kind {
            // RFC 8200 section 4.1: only directly behind the IPv6 header.
            HOP_BY_HOP if position != 0 => return Err(Malformed::Ipv6Extensions),
            // With segments left the destination is not the final one, so neither policy nor the
            // pseudo-header can use it. RFC 5095 forbids type 0 outright.
            ROUTING if head[3] != 0 => return Err(Malformed::SourceRoute),
            FRAGMENT if fragment_seen => return Err(Malformed::Ipv6Extensions),
            FRAGMENT => {
                fragment_seen = true;
                let field = u16_at(head, 2);
                let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
                let len = if is_cut { 8 } else { rest.len() };
                found.fragment = fragment_kind(offset, more, head[0], len)?;
                if found.fragment != Fragment::None {
                    found.fragment_id = u32_at(head, 4);
                }
            }
            _ => {}
        }
        found.protocol = head[0];
        found.len += len;
    }
    Err(Malformed::Ipv6Extensions)
}

/// Judges a fragment: `offset` and `payload_len` in bytes, `more` fragments follow.
#[inline(always)]
fn fragment_kind(
    offset: usize,
    more: bool,
    protocol: u8,
    payload_len: usize,
) -> Result<Fragment, Malformed> {
    if offset == 0 && !more {
        return Ok(Fragment::None);
    }
    // A later TCP fragment inside the first 20 bytes would overwrite ports or flags that were
    // already judged (RFC 1858, RFC 3128); all but the last hold a multiple of 8 bytes.
    let overlaps_tcp = protocol == protocol::TCP && offset > 0 && offset < TCP_LEN;
    let is_ragged = more && !payload_len.is_multiple_of(8);
    let is_too_long = offset + payload_len > usize::from(u16::MAX);
    if overlaps_tcp || is_ragged || is_too_long || payload_len == 0 {
        return Err(Malformed::BadFragment);
    }
    Ok(if offset == 0 { Fragment::First } else { Fragment::Later })
}

/// Adds what the L4 header says.
///
/// In one function with early returns, because a `Result` of a few small fields goes through
/// memory: stored narrow, loaded wide, and the processor waits for it.
#[inline(always)]
fn finish(datagram: Datagram<'_>) -> Result<Packet, Malformed> {
    let Datagram { protocol, family, fragment, payload, .. } = datagram;
    let (mut sport, mut dport, mut tcp_flags, mut icmp) = (0, 0, 0, IcmpKind::None);
    match (protocol, family) {
        _ if fragment == Fragment::Later => {}
        (protocol::TCP, _) => {
            let tcp = payload.first_chunk::<TCP_LEN>().ok_or(Malformed::TruncatedL4)?;
            let header_len = usize::from(tcp[12] >> 4) * 4;
            if header_len < TCP_LEN || header_len > payload.len() {
                return Err(Malformed::TcpHeaderLength);
            }
            (sport, dport, tcp_flags) = (u16_at(tcp, 0), u16_at(tcp, 2), tcp[13]);
        }
        (protocol::UDP, _) => {
            let udp = payload.first_chunk::<UDP_LEN>().ok_or(Malformed::TruncatedL4)?;
            let len = usize::from(u16_at(udp, 4));
            // A first fragment carries the length of the whole datagram.
            if len < UDP_LEN || (len > payload.len() && fragment == Fragment::None) {
                return Err(Malformed::UdpLength);
            }
            (sport, dport) = (u16_at(udp, 0), u16_at(udp, 2));
        }
        (protocol::SCTP, _) => {
            let sctp = payload.first_chunk::<SCTP_LEN>().ok_or(Malformed::TruncatedL4)?;
            (sport, dport) = (u16_at(sctp, 0), u16_at(sctp, 2));
        }
        (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => {
            let message = payload.first_chunk::<ICMP_LEN>().ok_or(Malformed::TruncatedL4)?;
            icmp = icmp_kind(family, message[0], fragment);
            match icmp {
                IcmpKind::EchoRequest => sport = u16_at(message, 4),
                IcmpKind::EchoReply => dport = u16_at(message, 4),
                _ => {}
            }
        }
        _ => {}
    }
    let l4 = ETHERNET_LEN + datagram.header_len;
    Ok(Packet {
        // The casts hold: `parse` cut the frame to u16::MAX bytes.
        headers: Headers {
            l3: ETHERNET_LEN as u16,
            l4: l4 as u16,
            end: (l4 + payload.len()) as u16,
            family,
            protocol,
            tcp_flags,
            fragment,
            ttl: datagram.ttl,
            icmp,
            has_extensions: datagram.has_extensions,
            fragment_id: datagram.fragment_id,
        },
        key: FlowKey {
            src: datagram.src,
            dst: datagram.dst,
            sport,
            dport,
            protocol,
            family,
            zone: 0,
        },
    })
}

pub(crate) fn icmp_kind(family: u8, kind: u8, fragment: Fragment) -> IcmpKind {
    let kind = if family == 4 { icmpv4_kind(kind) } else { icmpv6_kind(kind) };
    match kind {
        // RFC 6980: fragmented neighbour discovery is to be ignored.
        IcmpKind::NeighbourSolicitation
        | IcmpKind::NeighbourAdvertisement
        | IcmpKind::RouterSolicitation
            if fragment != Fragment::None =>
        {
            IcmpKind::Other
        }
        kind => kind,
    }
}

fn icmpv4_kind(kind: u8) -> IcmpKind {
    match kind {
        icmpv4::ECHO_REQUEST => IcmpKind::EchoRequest,
        icmpv4::ECHO_REPLY => IcmpKind::EchoReply,
        icmpv4::REDIRECT => IcmpKind::Redirect,
        icmpv4::UNREACHABLE
        | icmpv4::SOURCE_QUENCH
        | icmpv4::TIME_EXCEEDED
        | icmpv4::PARAMETER_PROBLEM => IcmpKind::Error,
        _ => IcmpKind::Other,
    }
}

fn icmpv6_kind(kind: u8) -> IcmpKind {
    match kind {
        icmpv6::ECHO_REQUEST => IcmpKind::EchoRequest,
        icmpv6::ECHO_REPLY => IcmpKind::EchoReply,
        icmpv6::ROUTER_SOLICITATION => IcmpKind::RouterSolicitation,
        icmpv6::NEIGHBOUR_SOLICITATION => IcmpKind::NeighbourSolicitation,
        icmpv6::NEIGHBOUR_ADVERTISEMENT => IcmpKind::NeighbourAdvertisement,
        icmpv6::REDIRECT => IcmpKind::Redirect,
        kind if kind < icmpv6::INFORMATIONAL => IcmpKind::Error,
        _ => IcmpKind::Other,
    }
}
