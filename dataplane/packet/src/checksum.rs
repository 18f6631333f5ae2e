//! Internet checksums (RFC 1071): from scratch, by difference (RFC 1624), and partial ones.
//!
//! Sums are kept in the machine's own byte order until [`fold`], because a ones-complement sum does
//! not care (RFC 1071 section 2B) and swapping every word would.
//!
//! A *partial* checksum is what a Linux sender with checksum offload leaves behind: the field holds
//! the folded sum of the pseudo-header, not complemented, and the device is to add the rest. Such
//! frames reach an AF_XDP socket from a veth. They must be completed ([`complete_l4`]) before
//! anything rewrites them, because a difference applied to a partial checksum is wrong.

use crate::addr::Addr;
use crate::crc32c;
use crate::headers::{Fragment, Headers};
use crate::protocol;
use crate::wire::*;

/// The ones-complement sum of `bytes` as 16-bit words, unfolded; an odd last byte is padded with 0.
///
/// Sums add up as plain integers as long as every part but the last has an even length. Four bytes
/// at a time into 64-bit lanes: no carry to look after, and LLVM makes vector code of it.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<4>();
    let mut total: u64 = lanes.iter().sum();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let tail = match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => [0; 4],
    };
    total + u64::from(u32::from_ne_bytes(tail))
}

/// Folds a sum to 16 bits, as the number that a big-endian read of the field gives. Only a sum of
/// nothing but zero bytes folds to 0.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    u16::from_be(sum as u16)
}

/// The word `value` of a header, as a sum.
#[inline]
const fn word(value: u16) -> u64 {
    value.to_be() as u64
}

/// The sum of the pseudo-header of TCP and UDP (RFC 9293, RFC 768) or of any protocol over IPv6
/// (RFC 8200 section 8.1). `len` is the length of the L4 header and its payload in bytes.
#[inline]
pub fn pseudo_header(src: &Addr, dst: &Addr, protocol: u8, len: u32) -> u64 {
    let addresses = if dst.is_v4() {
        sum(&src.last_octets()) + sum(&dst.last_octets())
    } else {
        sum(&src.octets()) + sum(&dst.octets())
    };
    addresses + pseudo_tail(protocol, len)
}

#[inline]
const fn pseudo_tail(protocol: u8, len: u32) -> u64 {
    word(protocol as u16) + word((len >> 16) as u16) + word(len as u16)
}

/// What changes in a checksum when bytes under it change (RFC 1624 equation 3): the ones-complement
/// sum of the new words and the complements of the old. 0 means that nothing changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(pub u16);

impl Delta {
    pub const NONE: Delta = Delta(0);

    /// The difference of replacing `old` by `new`, which must have the same length and lie at an
    /// even offset under the checksum.
    #[inline]
    pub fn of_bytes(old: &[u8], new: &[u8]) -> Delta {
        debug_assert_eq!(old.len(), new.len());
        Delta::of_sums(sum(old), sum(new))
    }

    /// The difference between two unfolded sums of the same length.
    #[inline]
    pub(crate) const fn of_sums(old: u64, new: u64) -> Delta {
        Delta(fold(new + word(!fold(old))))
    }

    /// The difference of replacing one 16-bit word.
    #[inline]
    pub const fn of_word(old: u16, new: u16) -> Delta {
        Delta(fold(word(!old) + word(new)))
    }

    /// Both differences together.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Delta) -> Delta {
        Delta(fold(word(self.0) + word(other.0)))
    }
}

/// The checksum field after a change. A wrong checksum stays wrong by as much.
#[inline]
pub const fn apply(check: u16, delta: Delta) -> u16 {
    !fold(word(!check) + word(delta.0))
}

/// As [`apply`] for UDP (RFC 768): 0 means that there is no checksum and stays; a result of 0 is
/// written as 0xffff.
#[inline]
pub const fn apply_udp(check: u16, delta: Delta) -> u16 {
    if check == 0 {
        return 0;
    }
    match apply(check, delta) {
        0 => 0xffff,
        check => check,
    }
}

/// The header checksum of an IPv4 header (with its options), whatever its field holds now.
#[inline]
pub(crate) fn ipv4_header(header: &[u8]) -> u16 {
    let held = header.get(10..12).map_or(0, sum);
    !fold(sum(header) + (0xffff ^ held))
}

/// Whether the IPv4 header checksum is right. Always true for IPv6, which has none.
pub fn l3_is_valid(frame: &[u8], headers: &Headers) -> bool {
    if headers.family != 4 {
        return true;
    }
    let len = header_at::<IPV4_LEN>(frame, headers.l3.into()).map_or(0, |ip| ip[0] & 0xf) * 4;
    let start = usize::from(headers.l3);
    frame.get(start..start + usize::from(len)).is_some_and(|header| fold(sum(header)) == 0xffff)
}

/// Where a packet's Internet checksum is and what it covers.
struct Covered {
    /// Of the checksum field in the frame.
    at: usize,
    held: u16,
    start: usize,
    end: usize,
    /// Sum of the pseudo-header; 0 where the protocol has none (ICMP).
    pseudo: u64,
}

impl Covered {
    /// `None` for fragments (the checksum covers the whole datagram) and protocols without one.
    #[inline]
    fn find(frame: &[u8], headers: &Headers) -> Option<Covered> {
        if headers.fragment != Fragment::None {
            return None;
        }
        let (start, mut end) = (usize::from(headers.l4), usize::from(headers.end));
        let at = start
            + match (headers.protocol, headers.family) {
                (protocol::TCP, _) => 16,
                (protocol::UDP, _) => 6,
                (protocol::ICMP, 4) | (protocol::ICMPV6, 6) => 2,
                _ => return None,
            };
        if headers.protocol == protocol::UDP {
            // UDP says its own length; bytes behind it are not covered.
            let len = usize::from(u16::from_be_bytes(*header_at(frame, start + 4)?));
            end = end.min(start + len);
        }
        let held = u16::from_be_bytes(*header_at(frame, at)?);
        let len = end.checked_sub(start)? as u32;
        let l3 = usize::from(headers.l3);
        let pseudo = match (headers.family, headers.protocol) {
            (4, protocol::ICMP) => 0,
            (4, protocol) => sum(header_at::<8>(frame, l3 + 12)?) + pseudo_tail(protocol, len),
            (_, protocol) => sum(header_at::<32>(frame, l3 + 8)?) + pseudo_tail(protocol, len),
        };
        Some(Covered { at, held, start, end, pseudo })
    }

    /// Sum of everything covered, with the field as it is.
    #[inline]
    fn total(&self, frame: &[u8]) -> u64 {
        frame.get(self.start..self.end).map_or(0, sum) + self.pseudo
    }
}

/// Whether the L4 checksum waits for completion: the field equals the folded pseudo-header.
///
/// A complete checksum matches by chance once in 65536; completing it again then changes nothing on
/// an intact packet. SCTP (a CRC) is partial where its field is 0. Fragments never are: Linux
/// completes before it fragments.
#[inline]
pub fn l4_is_partial(frame: &[u8], headers: &Headers) -> bool {
    if headers.protocol == protocol::SCTP {
        return crc32c::sctp_held(frame, headers) == Some(0);
    }
    // The folded pseudo-header is never 0, so UDP without a checksum is never taken for partial;
    // ICMP over IPv4 has none.
    match Covered::find(frame, headers) {
        Some(covered) => covered.pseudo != 0 && fold(covered.pseudo) == covered.held,
        None => false,
    }
}

/// Computes the L4 checksum (TCP, UDP, ICMP, ICMPv6, SCTP) from scratch and writes it.
///
/// Does nothing to fragments, other protocols, and UDP over IPv4 that says it has no checksum.
#[inline]
pub fn complete_l4(frame: &mut [u8], headers: &Headers) {
    if headers.protocol == protocol::SCTP {
        return crc32c::complete_sctp(frame, headers);
    }
    let Some(covered) = Covered::find(frame, headers) else { return };
    if covered.held == 0 && headers.protocol == protocol::UDP && headers.family == 4 {
        return;
    }
    write(frame, headers, &covered);
}

/// As [`complete_l4`], for packets under construction: a 0 in the field is no statement.
pub(crate) fn fill_l4(frame: &mut [u8], headers: &Headers) {
    if headers.protocol == protocol::SCTP {
        return crc32c::complete_sctp(frame, headers);
    }
    if let Some(covered) = Covered::find(frame, headers) {
        write(frame, headers, &covered);
    }
}

#[inline]
fn write(frame: &mut [u8], headers: &Headers, covered: &Covered) {
    // Adding the complement of a word takes it out of the sum.
    let check = !fold(covered.total(frame) + word(!covered.held));
    let check = if check == 0 && headers.protocol == protocol::UDP { 0xffff } else { check };
    if let Some(field) = header_at_mut(frame, covered.at) {
        *field = check.to_be_bytes();
    }
}

/// Whether the L4 checksum is right, for tests and for messages that must be verified (ND). True
/// for UDP over IPv4 without one, for fragments and for protocols that have none.
pub fn l4_is_valid(frame: &[u8], headers: &Headers) -> bool {
    if headers.protocol == protocol::SCTP {
        return crc32c::sctp_is_valid(frame, headers);
    }
    let Some(covered) = Covered::find(frame, headers) else { return true };
    if headers.protocol == protocol::UDP && covered.held == 0 {
        return headers.family == 4;
    }
    fold(covered.total(frame)) == 0xffff
}
