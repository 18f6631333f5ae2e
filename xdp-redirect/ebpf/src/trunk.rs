//! `weir_trunk_in` and `weir_trunk_out`: both directions of a worker's trunk.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action::XDP_DROP},
    helpers::{bpf_redirect, bpf_redirect_peer},
    programs::{TcContext, XdpContext},
};
use weir_xdp_redirect::{Counter, PortHeader, TRUNK_FLAG_TO_HOST, TRUNK_MARK};

use crate::{
    maps::{self, SLOT_BASE, XSKS, count},
    packet::read,
};

/// `PACKET_HOST` of linux/if_packet.h: addressed to this host.
const PACKET_HOST: u32 = 0;
/// Where the source MAC starts.
const SOURCE_MAC_OFFSET: usize = 6;

/// From a port to the worker. Never to the kernel: what it forwarded would come back here.
#[inline(always)]
pub fn receive(ctx: &XdpContext) -> u32 {
    // The kernel may speak on the outer end by itself (router solicitations): no port, no packet.
    if !matches!(read::<14>(ctx, 0), Some([TRUNK_MARK, ..])) {
        count(Counter::TrunkDroppedUnmarked);
        return XDP_DROP;
    }
    match XSKS.redirect(SLOT_BASE.load(), 0) {
        Ok(action) => {
            count(Counter::TrunkRedirected);
            action
        }
        Err(_) => {
            count(Counter::TrunkDroppedNoSocket);
            XDP_DROP
        }
    }
}

/// From the worker to a port. The destination MAC is the port's own, and not this interface's.
#[inline(always)]
pub fn send(ctx: &TcContext) -> i32 {
    let header = match ctx.load::<[u8; 6]>(SOURCE_MAC_OFFSET) {
        Ok(mac) => PortHeader::from_mac(mac),
        Err(_) => None,
    };
    let (Some(header), Some(settings)) = (header, maps::settings()) else {
        count(Counter::WorkerDroppedUnmarked);
        return TC_ACT_SHOT as i32;
    };
    if ctx.store(SOURCE_MAC_OFFSET, &settings.gateway_mac, 0).is_err() {
        count(Counter::PortDroppedUnwritable);
        return TC_ACT_SHOT as i32;
    }
    if header.flags & TRUNK_FLAG_TO_HOST != 0 {
        count(Counter::WorkerToHost);
        // SAFETY: the helper has no precondition; an interface that is gone makes a drop.
        return unsafe { bpf_redirect(header.ifindex, 0) as i32 };
    }
    // Entering the other namespace, the frame is judged by its type: it is not this trunk's.
    if ctx.change_type(PACKET_HOST).is_err() {
        count(Counter::PortDroppedUnwritable);
        return TC_ACT_SHOT as i32;
    }
    count(Counter::WorkerToPod);
    // SAFETY: as above.
    unsafe { bpf_redirect_peer(header.ifindex, 0) as i32 }
}
