//! The service in the packet's own IP header: an IPv4 option, or an IPv6 Destination Options
//! header.
//!
//! Both lie directly behind the fixed IP header, and are looked for only there.

use super::Service;
use crate::addr::Addr;
use crate::checksum::{self, Delta};
use crate::headers::Headers;
use crate::parse::{DESTINATION_OPTIONS, HOP_BY_HOP};
use crate::wire::*;

/// The byte order of the IPv4 option. IPv6 is always in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    #[default]
    Network,
    /// Port and address each byte-reversed: what Cilium's little-endian nodes send and expect,
    /// which convert values that are in network order already.
    Reversed,
}

/// Copied into fragments, control class, number 26.
const V4_KIND: u8 = 0x9a;
const V4_LEN: usize = 8;
const IPV4_WORDS_MAX: u8 = 15;

const V6_LEN: usize = 24;
/// Header length in units of 8 bytes beyond the first; the option's type, which means "skip if
/// unknown" and "does not change on the way"; its length.
const V6_HEAD: [u8; 3] = [2, 0x1b, 20];

const V4_HEADERS: usize = ETHERNET_LEN + IPV4_LEN;
const V6_HEADERS: usize = ETHERNET_LEN + IPV6_LEN;

/// Bytes that the option takes in a packet of `family` (4 or 6).
pub const fn option_overhead(family: u8) -> usize {
    if family == 4 { V4_LEN } else { V6_LEN }
}

/// Inserts the service into a packet whose frame starts [`option_overhead`] bytes into `frame`: the
/// Ethernet header and the fixed IP header move to the front. `headers` are the packet's own, from
/// before there was room; `order` matters to IPv4 only.
///
/// Returns the new headers. `None`, and nothing written, where there is no room, the service is of
/// another family, IPv4 options would exceed 40 bytes, or an IPv6 hop-by-hop header would not be
/// the first any more (RFC 8200 section 4.1).
pub fn insert_option(
    frame: &mut [u8],
    headers: &Headers,
    service: Service,
    order: ByteOrder,
) -> Option<Headers> {
    let len = option_overhead(headers.family) as u16;
    let (l4, end) = (headers.l4.checked_add(len)?, headers.end.checked_add(len)?);
    let is_here = usize::from(end) <= frame.len() && usize::from(headers.l3) == ETHERNET_LEN;
    if !is_here || service.0.family() != headers.family {
        return None;
    }
    if headers.family == 4 {
        insert_v4(frame, service, order)?;
    } else {
        insert_v6(frame, service)?;
    }
    Some(Headers { l4, end, has_extensions: true, ..*headers })
}

fn insert_v4(frame: &mut [u8], service: Service, order: ByteOrder) -> Option<()> {
    let (ethernet, ip) = v4_headers(frame, V4_LEN)?;
    let mut new = ip;
    let total_len = u16_at(&ip, 2).checked_add(V4_LEN as u16)?;
    if ip[0] & 0xf > IPV4_WORDS_MAX - V4_LEN as u8 / 4 {
        return None;
    }
    new[0] += V4_LEN as u8 / 4;
    put_u16(&mut new, 2, total_len);
    let option = v4_option(service, order);
    let delta = Delta::of_bytes(&ip, &new).and(Delta::of_bytes(&[0; V4_LEN], &option));
    put_u16(&mut new, 10, checksum::apply(u16_at(&ip, 10), delta));
    let front = frame.first_chunk_mut::<{ V4_HEADERS + V4_LEN }>()?;
    front[..ETHERNET_LEN].copy_from_slice(&ethernet);
    front[ETHERNET_LEN..V4_HEADERS].copy_from_slice(&new);
    front[V4_HEADERS..].copy_from_slice(&option);
    Some(())
}

fn insert_v6(frame: &mut [u8], (addr, port): Service) -> Option<()> {
    let (ethernet, mut ip) = v6_headers(frame, V6_LEN)?;
    let payload_len = u16_at(&ip, 4).checked_add(V6_LEN as u16)?;
    let next = ip[6];
    if next == HOP_BY_HOP {
        return None;
    }
    put_u16(&mut ip, 4, payload_len);
    ip[6] = DESTINATION_OPTIONS;
    let mut option = [0; V6_LEN];
    option[0] = next;
    option[1..4].copy_from_slice(&V6_HEAD);
    option[4..20].copy_from_slice(&addr.octets());
    put_u16(&mut option, 20, port);
    let front = frame.first_chunk_mut::<{ V6_HEADERS + V6_LEN }>()?;
    front[..ETHERNET_LEN].copy_from_slice(&ethernet);
    front[ETHERNET_LEN..V6_HEADERS].copy_from_slice(&ip);
    front[V6_HEADERS..].copy_from_slice(&option);
    Some(())
}

fn v4_option((addr, port): Service, order: ByteOrder) -> [u8; V4_LEN] {
    let ([p, q], [a, b, c, d]) = (port.to_be_bytes(), addr.last_octets());
    match order {
        ByteOrder::Network => [V4_KIND, V4_LEN as u8, p, q, a, b, c, d],
        ByteOrder::Reversed => [V4_KIND, V4_LEN as u8, q, p, d, c, b, a],
    }
}

/// The service that a packet carries in its IP header.
pub fn parse_option(frame: &[u8], headers: &Headers, order: ByteOrder) -> Option<Service> {
    if headers.family == 4 {
        let [_, _, p, q, a, b, c, d] = *find_v4(frame, headers)?;
        Some(match order {
            ByteOrder::Network => (Addr::from_v4([a, b, c, d]), u16::from_be_bytes([p, q])),
            ByteOrder::Reversed => (Addr::from_v4([d, c, b, a]), u16::from_be_bytes([q, p])),
        })
    } else {
        let option = find_v6(frame, headers)?;
        let addr = Addr::from_v6(octets_at(option, 4));
        (!addr.is_v4()).then_some((addr, u16_at(option, 20)))
    }
}

fn find_v4<'a>(frame: &'a [u8], headers: &Headers) -> Option<&'a [u8; V4_LEN]> {
    let option = header_at::<V4_LEN>(frame, V4_HEADERS)?;
    let is_in_header = usize::from(headers.l4) >= V4_HEADERS + V4_LEN;
    let is_ours = option[0] == V4_KIND && usize::from(option[1]) == V4_LEN;
    (is_in_header && is_ours).then_some(option)
}

fn find_v6<'a>(frame: &'a [u8], headers: &Headers) -> Option<&'a [u8; V6_LEN]> {
    let option = header_at::<V6_LEN>(frame, V6_HEADERS)?;
    let is_in_header = usize::from(headers.l4) >= V6_HEADERS + V6_LEN;
    let is_ours = frame[ETHERNET_LEN + 6] == DESTINATION_OPTIONS && option[1..4] == V6_HEAD;
    (is_in_header && is_ours).then_some(option)
}

/// Takes the service out again, and returns how many bytes to cut in front: 0 where the packet
/// carries none, and nothing was moved.
pub fn remove_option(frame: &mut [u8], headers: &Headers) -> usize {
    let removed =
        if headers.family == 4 { remove_v4(frame, headers) } else { remove_v6(frame, headers) };
    removed.map_or(0, |()| option_overhead(headers.family))
}

fn remove_v4(frame: &mut [u8], headers: &Headers) -> Option<()> {
    let option = *find_v4(frame, headers)?;
    let (ethernet, ip) = v4_headers(frame, 0)?;
    let mut new = ip;
    // With the option in it the header has at least 7 words.
    new[0] = ip[0].checked_sub(V4_LEN as u8 / 4)?;
    put_u16(&mut new, 2, u16_at(&ip, 2).checked_sub(V4_LEN as u16)?);
    let delta = Delta::of_bytes(&ip, &new).and(Delta::of_bytes(&option, &[0; V4_LEN]));
    put_u16(&mut new, 10, checksum::apply(u16_at(&ip, 10), delta));
    let place = header_at_mut::<V4_HEADERS>(frame, V4_LEN)?;
    place[..ETHERNET_LEN].copy_from_slice(&ethernet);
    place[ETHERNET_LEN..].copy_from_slice(&new);
    Some(())
}

fn remove_v6(frame: &mut [u8], headers: &Headers) -> Option<()> {
    let next = find_v6(frame, headers)?[0];
    let (ethernet, mut ip) = v6_headers(frame, 0)?;
    let payload_len = u16_at(&ip, 4).checked_sub(V6_LEN as u16)?;
    put_u16(&mut ip, 4, payload_len);
    ip[6] = next;
    let place = header_at_mut::<V6_HEADERS>(frame, V6_LEN)?;
    place[..ETHERNET_LEN].copy_from_slice(&ethernet);
    place[ETHERNET_LEN..].copy_from_slice(&ip);
    Some(())
}

/// Copies of the Ethernet and the fixed IPv4 header of the frame at `at`.
fn v4_headers(frame: &[u8], at: usize) -> Option<([u8; ETHERNET_LEN], [u8; IPV4_LEN])> {
    Some((*header_at(frame, at)?, *header_at(frame, at + ETHERNET_LEN)?))
}

fn v6_headers(frame: &[u8], at: usize) -> Option<([u8; ETHERNET_LEN], [u8; IPV6_LEN])> {
    Some((*header_at(frame, at)?, *header_at(frame, at + ETHERNET_LEN)?))
}
