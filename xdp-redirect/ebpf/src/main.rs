//! weir's eBPF programs. They decide only whether a packet is weir's; everything else is decided
//! by the workers behind the AF_XDP sockets.
//!
//! `uplink` and `trunk_in` are XDP, loaded once per device with their own `SLOT_BASE`; `port` and
//! `trunk_out` are tcx (clsact below kernel 6.6). All share the pinned maps.

#![no_std]
#![no_main]

mod ipv4;
mod ipv6;
mod maps;
mod node;
mod packet;
mod port;
mod steer;
mod trunk;
mod uplink;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// XDP on an uplink: packets that are ours go to the socket of their queue.
#[xdp]
pub fn weir_uplink(ctx: XdpContext) -> u32 {
    uplink::decide(&ctx)
}

/// XDP on the inner end of a trunk: everything goes to its socket, nothing to the kernel.
#[xdp]
pub fn weir_trunk_in(ctx: XdpContext) -> u32 {
    trunk::receive(&ctx)
}

/// tcx ingress on a port's outer interface: what the pod (or host) sent goes into a trunk.
#[classifier]
pub fn weir_port_in(ctx: TcContext) -> i32 {
    port::from_port(&ctx)
}

/// tcx egress on a pod's host-side veth: what this host's kernel routed to the pod goes into a
/// trunk.
#[classifier]
pub fn weir_port_out(ctx: TcContext) -> i32 {
    port::from_host(&ctx)
}

/// tcx ingress on the outer end of a trunk: what a worker sent goes to its port.
#[classifier]
pub fn weir_trunk_out(ctx: TcContext) -> i32 {
    trunk::send(&ctx)
}

/// The verifier proves that no program can panic: this is never reached.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
