//! IPv4 (RFC 791): as much of the header as the decision needs.

use aya_ebpf::programs::XdpContext;

use crate::{
    node::L4,
    packet::{ETH_LEN, len, read},
};

/// More fragments follow, or this is not the first.
const FRAGMENT_MASK: u16 = 0x3fff;

/// The header's fields that tell where L4 is.
#[derive(Clone, Copy)]
pub struct Header {
    protocol: u8,
    fragment: bool,
    l4_offset: usize,
    end: usize,
}

/// The destination in mapped form, if the fixed header is there.
#[inline(always)]
pub fn destination(ctx: &XdpContext) -> Option<[u8; 16]> {
    let [a, b, c, d] = read::<4>(ctx, ETH_LEN + 16)?;
    Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
}

/// The header, if its version and lengths are possible in this frame.
#[inline(always)]
pub fn header(ctx: &XdpContext) -> Option<Header> {
    let [version_ihl, _, total_hi, total_lo, _, _, fragment_hi, fragment_lo, _, protocol] =
        read::<10>(ctx, ETH_LEN)?;
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([total_hi, total_lo]));
    let end = ETH_LEN + total_len;
    if version_ihl >> 4 != 4 || header_len < 20 || total_len < header_len || end > len(ctx) {
        return None;
    }
    let fragment = u16::from_be_bytes([fragment_hi, fragment_lo]) & FRAGMENT_MASK != 0;
    Some(Header { protocol, fragment, l4_offset: ETH_LEN + header_len, end })
}

/// What follows the header.
#[inline(always)]
pub fn l4(header: Header) -> L4 {
    if header.fragment {
        return L4::Fragment;
    }
    L4::At { protocol: header.protocol, offset: header.l4_offset, end: header.end }
}
