//! Bounded reads from a packet.

use aya_ebpf::programs::XdpContext;

/// The Ethernet header.
pub const ETH_LEN: usize = 14;

/// Largest offset that is ever read: keeps variable offsets bounded for the verifier.
const OFFSET_MASK: usize = 0x7ff;

/// Bytes of the packet. The read is volatile so that the compiler does not conclude from a length
/// that a pointer is in bounds: the verifier wants every pointer compared.
#[inline(always)]
pub fn len(ctx: &XdpContext) -> usize {
    // SAFETY: the kernel passes a valid context for the whole run.
    let end = unsafe { core::ptr::read_volatile(&raw const (*ctx.ctx).data_end) };
    end as usize - ctx.data()
}

/// `N` bytes at `offset`, or None beyond the end.
#[inline(always)]
pub fn read<const N: usize>(ctx: &XdpContext, offset: usize) -> Option<[u8; N]> {
    let start = ctx.data() + (offset & OFFSET_MASK);
    if offset > OFFSET_MASK || start + N > ctx.data_end() {
        return None;
    }
    // SAFETY: start..start + N lies inside the packet, as just compared; bytes need no alignment.
    Some(unsafe { *(start as *const [u8; N]) })
}
