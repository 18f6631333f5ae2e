//! Geneve (RFC 8926): an Ethernet frame in UDP, with the service in an option.

use super::Service;
use crate::addr::Addr;
use crate::build::{Path, emit_ip};
use crate::checksum;
use crate::headers::{Fragment, Headers};
use crate::protocol;
use crate::wire::*;

/// UDP destination port (IANA).
pub const GENEVE_PORT: u16 = 6081;

const GENEVE_LEN: usize = 8;
/// Transparent Ethernet bridging: an Ethernet frame follows.
const ETHERTYPE_ETHERNET: u16 = 0x6558;
/// First octet: the version in the upper two bits, the length of the options in words below.
const VERSION: u8 = 0xc0;
/// Second octet: a control message, and critical options present.
const CONTROL: u8 = 0x80;
const HAS_CRITICAL: u8 = 0x40;

const OPTION_LEN: usize = 4;
/// Cilium's option class (IANA registry "Geneve Option Class").
const CLASS: u16 = 0x014b;
/// The service: critical, number 1.
const SERVICE: u8 = 0x81;
/// Of an option's type: who does not know it must drop the packet.
const CRITICAL: u8 = 0x80;
/// The option's data: an address, a port and two bytes of padding.
const DATA_V4_LEN: usize = 8;
const DATA_V6_LEN: usize = 20;

/// Bytes in front of the inner frame, by the families (4 or 6) of the outer packet and of the
/// service, if one is carried. The IP packet grows by as much: the outer Ethernet header stands in
/// for the inner.
pub const fn geneve_overhead(outer_family: u8, service_family: Option<u8>) -> usize {
    let ip_len = if outer_family == 4 { IPV4_LEN } else { IPV6_LEN };
    ETHERNET_LEN + ip_len + UDP_LEN + GENEVE_LEN + option_len(service_family)
}

const fn option_len(service_family: Option<u8>) -> usize {
    match service_family {
        None => 0,
        Some(4) => OPTION_LEN + DATA_V4_LEN,
        Some(_) => OPTION_LEN + DATA_V6_LEN,
    }
}

/// Writes the outer headers in front of an Ethernet frame that starts [`geneve_overhead`] bytes
/// into `frame` and fills the rest of it. `path` has the MACs, addresses and TTL of the outer
/// packet and in `sport` the entropy for ECMP and RSS; its `dport` is ignored.
///
/// "Don't fragment" is set. The UDP checksum is 0 over IPv4 and computed over IPv6. The DSCP and
/// ECN fields are 0, which is RFC 6040's compatibility mode.
///
/// Returns the headers of the outer packet; `None`, and nothing written, where there is no room,
/// the packet would be too long, the path mixes families or `vni` has more than 24 bits.
pub fn encapsulate_geneve(
    frame: &mut [u8],
    path: &Path,
    vni: u32,
    service: Option<Service>,
) -> Option<Headers> {
    let service_family = service.map(|(addr, _)| addr.family());
    let option_len = option_len(service_family);
    let inner_at = geneve_overhead(path.dst.family(), service_family);
    let inner_len = frame.len().checked_sub(inner_at)?;
    if vni >> 24 != 0 {
        return None;
    }
    let udp_len = UDP_LEN + GENEVE_LEN + option_len + inner_len;
    let headers = emit_ip(frame, path, protocol::UDP, 0, udp_len)?;
    let l4 = usize::from(headers.l4);
    let udp: &mut [u8; UDP_LEN] = header_at_mut(frame, l4)?;
    put_u16(udp, 0, path.sport);
    put_u16(udp, 2, GENEVE_PORT);
    put_u16(udp, 4, udp_len as u16);
    put_u16(udp, 6, 0);
    let geneve: &mut [u8; GENEVE_LEN] = header_at_mut(frame, l4 + UDP_LEN)?;
    geneve[0] = (option_len / 4) as u8;
    geneve[1] = if service.is_some() { HAS_CRITICAL } else { 0 };
    put_u16(geneve, 2, ETHERTYPE_ETHERNET);
    put_u32(geneve, 4, vni << 8);
    if let Some((addr, port)) = service {
        write_option(frame.get_mut(l4 + UDP_LEN + GENEVE_LEN..inner_at)?, addr, port);
    }
    if headers.family == 6 {
        checksum::fill_l4(frame, &headers);
    }
    Some(headers)
}

/// `option` has the length that the address' family needs.
fn write_option(option: &mut [u8], addr: Addr, port: u16) {
    let len = option.len();
    let Some((head, data)) = option.split_first_chunk_mut::<OPTION_LEN>() else { return };
    put_u16(head, 0, CLASS);
    head[2] = SERVICE;
    head[3] = ((len - OPTION_LEN) / 4) as u8;
    match (data.len(), addr.v4_octets()) {
        (DATA_V4_LEN, Some(octets)) => data[..4].copy_from_slice(&octets),
        (DATA_V6_LEN, None) => data[..16].copy_from_slice(&addr.octets()),
        _ => return,
    }
    if let Some(tail) = data.last_chunk_mut::<4>() {
        put_u32(tail, 0, u32::from(port) << 16);
    }
}

/// A packet in Geneve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geneve {
    /// Where the inner Ethernet frame starts: cut so many bytes in front, and it is the frame.
    pub inner_at: usize,
    pub service: Option<Service>,
    /// 24 bits.
    pub vni: u32,
}

/// Reads the headers in front of an Ethernet frame in Geneve.
///
/// `None` for other packets, fragments, control messages and unknown critical options, and where
/// anything overruns the packet. The inner frame has an Ethernet header at least; what is behind is
/// for [`crate::parse()`]. The outer UDP checksum is not looked at: the inner packet has its own.
pub fn parse_geneve(frame: &[u8], headers: &Headers) -> Option<Geneve> {
    if headers.protocol != protocol::UDP || headers.fragment != Fragment::None {
        return None;
    }
    let l4 = usize::from(headers.l4);
    let udp: &[u8; UDP_LEN] = header_at(frame, l4)?;
    if u16_at(udp, 2) != GENEVE_PORT {
        return None;
    }
    let end = usize::from(headers.end).min(l4 + usize::from(u16_at(udp, 4)));
    let (geneve, rest) = frame.get(l4 + UDP_LEN..end)?.split_first_chunk::<GENEVE_LEN>()?;
    let is_plain = geneve[0] & VERSION == 0 && geneve[1] & CONTROL == 0;
    if !is_plain || u16_at(geneve, 2) != ETHERTYPE_ETHERNET {
        return None;
    }
    let options_len = usize::from(geneve[0] & !VERSION) * 4;
    let (options, inner) = rest.split_at_checked(options_len)?;
    if inner.len() < ETHERNET_LEN {
        return None;
    }
    Some(Geneve {
        inner_at: l4 + UDP_LEN + GENEVE_LEN + options_len,
        service: parse_options(options)?,
        vni: u32_at(geneve, 4) >> 8,
    })
}

/// The service, if there is one among the options; `None` if they make no sense.
fn parse_options(mut options: &[u8]) -> Option<Option<Service>> {
    let mut service = None;
    // At most 63 words, and each round takes at least one.
    while !options.is_empty() {
        let (head, rest) = options.split_first_chunk::<OPTION_LEN>()?;
        let (data, rest) = rest.split_at_checked(usize::from(head[3] & 0x1f) * 4)?;
        match (u16_at(head, 0), head[2]) {
            (CLASS, SERVICE) if service.is_none() => service = Some(parse_service(data)?),
            (_, kind) if kind & CRITICAL != 0 => return None,
            _ => {}
        }
        options = rest;
    }
    Some(service)
}

fn parse_service(data: &[u8]) -> Option<Service> {
    let addr = match data.len() {
        DATA_V4_LEN => Addr::from_v4(*data.first_chunk()?),
        DATA_V6_LEN => {
            let addr = Addr::from_v6(*data.first_chunk()?);
            (!addr.is_v4()).then_some(addr)?
        }
        _ => return None,
    };
    Some((addr, u16_at(data.last_chunk::<4>()?, 0)))
}
