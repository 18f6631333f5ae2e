//! ARP (RFC 826): reading a request, writing the reply.

use crate::addr::{Addr, Mac};
use crate::wire::*;

/// "Who has `target`? Tell `sender`."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpRequest {
    pub sender_mac: Mac,
    /// `0.0.0.0` in a probe for duplicates (RFC 5227).
    pub sender: Addr,
    pub target: Addr,
}

/// Length of an ARP frame for IPv4 over Ethernet.
pub const FRAME_LEN: usize = ETHERNET_LEN + 28;

/// Hardware type Ethernet, protocol type IPv4, their address lengths.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Reads a well-formed request for an IPv4 address; `None` for anything else.
pub fn parse_request(frame: &[u8]) -> Option<ArpRequest> {
    let arp: &[u8; FRAME_LEN] = frame.first_chunk()?;
    let sender_mac = Mac(octets_at(arp, 22));
    let is_request = u16_at(arp, 12) == ETHERTYPE_ARP
        && arp[14..20] == ETHERNET_IPV4
        && u16_at(arp, 20) == REQUEST;
    // A group address as sender would have the answer flooded.
    (is_request && !sender_mac.is_multicast()).then(|| ArpRequest {
        sender_mac,
        sender: Addr::from_v4(octets_at(arp, 28)),
        target: Addr::from_v4(octets_at(arp, 38)),
    })
}

/// Writes "`request.target` is at `mac`", to the asker alone, and returns the frame's length. The
/// buffer may be the one the request lies in. `None` if it is too small or the target is not IPv4.
pub fn emit_reply(buf: &mut [u8], request: &ArpRequest, mac: Mac) -> Option<usize> {
    let (sender, target) = (request.sender.v4_octets()?, request.target.v4_octets()?);
    let arp: &mut [u8; FRAME_LEN] = buf.first_chunk_mut()?;
    arp[..6].copy_from_slice(&request.sender_mac.0);
    arp[6..12].copy_from_slice(&mac.0);
    put_u16(arp, 12, ETHERTYPE_ARP);
    arp[14..20].copy_from_slice(&ETHERNET_IPV4);
    put_u16(arp, 20, REPLY);
    arp[22..28].copy_from_slice(&mac.0);
    arp[28..32].copy_from_slice(&target);
    arp[32..38].copy_from_slice(&request.sender_mac.0);
    arp[38..42].copy_from_slice(&sender);
    Some(FRAME_LEN)
}

/// Writes the announcement "`addr` is at `mac`" to everybody (RFC 5227 section 2.3: a request whose
/// sender and target are the same), and returns the frame's length. `None` if the buffer is too
/// small or the address is not IPv4.
pub fn emit_announcement(buf: &mut [u8], addr: Addr, mac: Mac) -> Option<usize> {
    let octets = addr.v4_octets()?;
    let arp: &mut [u8; FRAME_LEN] = buf.first_chunk_mut()?;
    *arp = [0; FRAME_LEN];
    arp[..6].copy_from_slice(&[0xff; 6]);
    arp[6..12].copy_from_slice(&mac.0);
    put_u16(arp, 12, ETHERTYPE_ARP);
    arp[14..20].copy_from_slice(&ETHERNET_IPV4);
    put_u16(arp, 20, REQUEST);
    arp[22..28].copy_from_slice(&mac.0);
    arp[28..32].copy_from_slice(&octets);
    arp[38..42].copy_from_slice(&octets);
    Some(FRAME_LEN)
}
