//! IP in IP of the same family (RFC 2003, RFC 2473): the backend itself owns the service's address.

use crate::build::{Path, emit_ip};
use crate::headers::{Fragment, Headers};
use crate::wire::*;

/// Protocol numbers of IPv4 and IPv6 as payload (IANA).
const IPV4_INSIDE: u8 = 4;
const IPV6_INSIDE: u8 = 41;

/// Bytes in front of the inner packet of `family` (4 or 6).
pub const fn ipip_overhead(family: u8) -> usize {
    if family == 4 { IPV4_LEN } else { IPV6_LEN }
}

/// Writes new Ethernet and IP headers in front of a packet whose frame starts [`ipip_overhead`]
/// bytes into `frame`; its Ethernet header is overwritten. `headers` are the packet's own, from
/// before there was room. `path` has the outer MACs, addresses and TTL; its ports are ignored.
///
/// "Don't fragment" is set; the DSCP and ECN fields are 0 (RFC 6040's compatibility mode).
///
/// Returns the headers of the outer packet; `None`, and nothing written, where there is no room or
/// the path is of another family.
pub fn encapsulate_ipip(frame: &mut [u8], headers: &Headers, path: &Path) -> Option<Headers> {
    let protocol = if headers.family == 4 { IPV4_INSIDE } else { IPV6_INSIDE };
    let inner_len = usize::from(headers.end).checked_sub(headers.l3.into())?;
    if path.dst.family() != headers.family || usize::from(headers.l3) != ETHERNET_LEN {
        return None;
    }
    emit_ip(frame, path, protocol, 0, inner_len)
}

/// A packet in a packet of the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipip {
    /// Where the inner IP header starts.
    pub inner_at: usize,
}

/// Finds the inner packet, whose fixed IP header at least is there; what is behind is for
/// [`crate::parse()`]. `None` for other packets, and for fragments of the outer one.
pub fn parse_ipip(frame: &[u8], headers: &Headers) -> Option<Ipip> {
    let (protocol, inner_len) =
        if headers.family == 4 { (IPV4_INSIDE, IPV4_LEN) } else { (IPV6_INSIDE, IPV6_LEN) };
    if headers.protocol != protocol || headers.fragment != Fragment::None {
        return None;
    }
    let inner_at = usize::from(headers.l4);
    let inner = frame.get(inner_at..headers.end.into())?;
    let is_whole = inner.len() >= inner_len && inner.first()? >> 4 == headers.family;
    is_whole.then_some(Ipip { inner_at })
}

/// Moves the Ethernet header in front of the inner packet, and returns how many bytes to cut in
/// front: 0 where there is no room, and nothing was moved.
pub fn decapsulate_ipip(frame: &mut [u8], ipip: &Ipip) -> usize {
    if frame.len() < ipip.inner_at {
        return 0;
    }
    let cut = ipip.inner_at.saturating_sub(ETHERNET_LEN);
    if cut > 0 {
        // The EtherType holds: both packets are of one family.
        frame.copy_within(..ETHERNET_LEN, cut);
    }
    cut
}
