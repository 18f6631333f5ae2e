//! IPv6 (RFC 8200): the fixed header, and extension headers as far as a decision needs them.

use aya_ebpf::programs::XdpContext;

use crate::{
    node::{ICMPV6, L4},
    packet::{ETH_LEN, len, read},
};

const HEADER_LEN: usize = 40;
/// Extension headers followed at most, as in the userspace parser; real packets have two or three.
const EXTENSIONS_MAX: u32 = 8;
/// Offset and M flag of a fragment header.
const FRAGMENT_MASK: u16 = 0xfff9;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The fixed header's fields that tell where the rest is.
#[derive(Clone, Copy)]
pub struct Header {
    next_header: u8,
    end: usize,
}

/// The destination, if the fixed header is there.
#[inline(always)]
pub fn destination(ctx: &XdpContext) -> Option<[u8; 16]> {
    read::<16>(ctx, ETH_LEN + 24)
}

/// Whether an address is an IPv4-mapped one.
#[inline(always)]
pub fn is_mapped_ipv4(address: &[u8; 16]) -> bool {
    matches!(address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
}

/// The header, if its version and length are possible in this frame.
#[inline(always)]
pub fn header(ctx: &XdpContext) -> Option<Header> {
    let [version, _, _, _, payload_hi, payload_lo, next_header] = read::<7>(ctx, ETH_LEN)?;
    let payload_len = usize::from(u16::from_be_bytes([payload_hi, payload_lo]));
    let end = ETH_LEN + HEADER_LEN + payload_len;
    if version >> 4 != 6 || end > len(ctx) {
        return None;
    }
    Some(Header { next_header, end })
}

/// Neighbour discovery (RFC 4861: ICMPv6 types 133 to 137) belongs to the kernel, whoever it is
/// addressed to. It carries no extension headers.
#[inline(always)]
pub fn is_neighbour_discovery(ctx: &XdpContext, header: Header) -> bool {
    header.next_header == ICMPV6
        && matches!(read::<1>(ctx, ETH_LEN + HEADER_LEN), Some([133..=137]))
}

/// What follows the extension headers.
#[inline(always)]
pub fn l4(ctx: &XdpContext, header: Header) -> L4 {
    let mut protocol = header.next_header;
    let mut offset = ETH_LEN + HEADER_LEN;
    for _ in 0..=EXTENSIONS_MAX {
        let unit_len = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            _ => return L4::At { protocol, offset, end: header.end },
        };
        let Some([next_header, units, rest @ ..]) = read::<4>(ctx, offset) else {
            return L4::Malformed;
        };
        // RFC 8200 counts 8-byte units after the first, RFC 4302 4-byte units after the first two;
        // a fragment header has no length.
        offset += usize::from(units) * unit_len + 8;
        if offset > header.end {
            return L4::Malformed;
        }
        // RFC 6946: offset 0 and no more fragments is a whole packet.
        if protocol == FRAGMENT && u16::from_be_bytes(rest) & FRAGMENT_MASK != 0 {
            return L4::Fragment;
        }
        protocol = next_header;
    }
    L4::TooDeep
}
