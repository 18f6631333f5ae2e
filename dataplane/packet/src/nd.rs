//! Neighbour discovery (RFC 4861): reading a solicitation, writing the advertisement.

use crate::addr::{Addr, Mac};
use crate::build::{Path, emit_ip};
use crate::checksum;
use crate::headers::{Headers, IcmpKind};
use crate::protocol;
use crate::rewrite::src_mac;
use crate::wire::*;

/// "Who has `target`? Tell `source`."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Unspecified in a probe for duplicates (RFC 4862).
    pub source: Addr,
    /// From the source link-layer option, else from the Ethernet header.
    pub source_mac: Mac,
    pub target: Addr,
}

/// Neighbour discovery is valid from neighbours only: a router would have decremented this.
const HOP_LIMIT: u8 = 255;
/// ICMPv6 header and target address, of solicitations and advertisements alike.
const MESSAGE_LEN: usize = 24;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const ALL_NODES: Addr = Addr::from_v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// `ff02::1:ff00:0/104`, followed by the last three octets of the target.
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

/// Reads a solicitation that passes all checks of RFC 4861 section 7.1.1; `None` otherwise.
pub fn parse_solicitation(frame: &[u8], headers: &Headers) -> Option<Solicitation> {
    if headers.icmp != IcmpKind::NeighbourSolicitation || headers.ttl != HOP_LIMIT {
        return None;
    }
    let ip: &[u8; IPV6_LEN] = header_at(frame, headers.l3.into())?;
    let message = frame.get(usize::from(headers.l4)..usize::from(headers.end))?;
    let (fixed, options) = message.split_first_chunk::<MESSAGE_LEN>()?;
    let (source, dst) = (Addr::from_v6(octets_at(ip, 8)), Addr::from_v6(octets_at(ip, 24)));
    let target = Addr::from_v6(octets_at(fixed, 8));
    let option = source_option(options).ok()?;
    if fixed[1] != 0 || target.is_multicast() || source.is_multicast() {
        return None;
    }
    if source.is_unspecified() && (dst.octets()[..13] != SOLICITED_NODE || option.is_some()) {
        return None;
    }
    let source_mac = option.unwrap_or_else(|| src_mac(frame));
    if source_mac.is_multicast() || !checksum::l4_is_valid(frame, headers) {
        return None;
    }
    Some(Solicitation { source, source_mac, target })
}

/// An option of length 0 or beyond the message: the whole message is to be discarded.
struct BadOption;

/// The source link-layer address, if there is one. Each round takes at least 8 bytes.
fn source_option(mut options: &[u8]) -> Result<Option<Mac>, BadOption> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        let option = options.get(..len).ok_or(BadOption)?;
        let Some(mac) = header_at(option, 2) else { return Err(BadOption) };
        if kind == SOURCE_LINK_LAYER && found.is_none() {
            found = Some(Mac(*mac));
        }
        options = &options[len..];
    }
    if options.is_empty() { Ok(found) } else { Err(BadOption) }
}

/// Writes "`solicitation.target` is at `mac`" (RFC 4861 section 7.2.4) and returns the frame's
/// length. The buffer may be the one the solicitation lies in. `is_router` is set for gateway
/// addresses. A probe is answered to all nodes. `None` if the buffer has less than 86 bytes.
pub fn emit_advertisement(
    buf: &mut [u8],
    solicitation: &Solicitation,
    mac: Mac,
    is_router: bool,
) -> Option<usize> {
    let is_probe = solicitation.source.is_unspecified();
    let path = Path {
        dst_mac: if is_probe { ALL_NODES_MAC } else { solicitation.source_mac },
        src_mac: mac,
        src: solicitation.target,
        dst: if is_probe { ALL_NODES } else { solicitation.source },
        sport: 0,
        dport: 0,
        ttl: HOP_LIMIT,
    };
    const LEN: usize = MESSAGE_LEN + 8;
    let headers = emit_ip(buf, &path, protocol::ICMPV6, 0, LEN)?;
    let message: &mut [u8; LEN] = header_at_mut(buf, headers.l4.into())?;
    *message = [0; LEN];
    message[0] = icmpv6::NEIGHBOUR_ADVERTISEMENT;
    message[4] =
        OVERRIDE | if is_router { ROUTER } else { 0 } | if is_probe { 0 } else { SOLICITED };
    message[8..24].copy_from_slice(&solicitation.target.octets());
    message[24..26].copy_from_slice(&[TARGET_LINK_LAYER, 1]);
    message[26..].copy_from_slice(&mac.0);
    checksum::fill_l4(buf, &headers);
    Some(headers.end.into())
}
