//! `weir_port_in` and `weir_port_out`: from a port's outer interface into its worker's trunk.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_redirect,
    programs::TcContext,
};
use weir_xdp_redirect::{Counter, PortEntry, PortHeader, Settings, TRUNK_FLAG_FROM_HOST};

use crate::maps::{self, count};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// What a pod or the host sent. ARP and neighbour discovery go to the worker too.
#[inline(always)]
pub fn from_port(ctx: &TcContext) -> i32 {
    let ifindex = ifindex(ctx);
    let (Some(entry), Some(settings)) = (maps::port_entry(ifindex), maps::settings()) else {
        return act(TC_ACT_UNSPEC, Counter::PortPassedUnknown);
    };
    // The tag is in the metadata: the worker would see an untagged frame.
    if is_vlan(ctx) {
        return act(TC_ACT_SHOT as i32, Counter::PortDroppedVlan);
    }
    if !is_worker_running(&entry, settings) {
        return if settings.failure_mode.is_closed(entry.fail_closed()) {
            act(TC_ACT_SHOT as i32, Counter::PortDroppedStale)
        } else {
            act(TC_ACT_UNSPEC, Counter::PortPassedStale)
        };
    }
    into_trunk(ctx, &entry, PortHeader { flags: 0, ifindex }, Counter::PortRedirected)
}

/// What this host's kernel routed to a pod. The kernel's own ARP, neighbour discovery and
/// multicast go on to the pod: no worker has a use for them.
#[inline(always)]
pub fn from_host(ctx: &TcContext) -> i32 {
    let ifindex = ifindex(ctx);
    let (Some(entry), Some(settings)) = (maps::port_entry(ifindex), maps::settings()) else {
        return act(TC_ACT_UNSPEC, Counter::PortPassedUnknown);
    };
    if is_vlan(ctx) || !is_unicast_ip(ctx) {
        return act(TC_ACT_UNSPEC, Counter::HostPassedNotIp);
    }
    if !is_worker_running(&entry, settings) {
        // What the host says itself (a probe) passes. What it forwards is somebody's who may be one
        // of those that the pod is closed for.
        let is_closed = settings.failure_mode.is_closed(entry.fail_closed());
        return if is_closed && is_forwarded(ctx) {
            act(TC_ACT_SHOT as i32, Counter::PortDroppedStale)
        } else {
            act(TC_ACT_UNSPEC, Counter::HostPassedStale)
        };
    }
    let header = PortHeader { flags: TRUNK_FLAG_FROM_HOST, ifindex };
    into_trunk(ctx, &entry, header, Counter::HostRedirected)
}

#[inline(always)]
fn into_trunk(ctx: &TcContext, entry: &PortEntry, header: PortHeader, counter: Counter) -> i32 {
    if ctx.store(0, &header.to_mac(), 0).is_err() {
        return act(TC_ACT_SHOT as i32, Counter::PortDroppedUnwritable);
    }
    count(counter);
    // SAFETY: the helper has no precondition; an interface that is gone makes a drop.
    unsafe { bpf_redirect(entry.trunk_ifindex, 0) as i32 }
}

/// By the heartbeat alone: an empty socket slot with a fresh one is a worker being replaced, and
/// the trunk drops meanwhile. Left to the kernel, a pod's replies would go out untranslated, the
/// clients reset them, and every connection through a service would die; drops TCP repeats.
#[inline(always)]
fn is_worker_running(entry: &PortEntry, settings: &Settings) -> bool {
    maps::is_alive(entry.xsk_slot, settings)
}

#[inline(always)]
fn is_unicast_ip(ctx: &TcContext) -> bool {
    let (Ok(first), Ok(ethertype)) = (ctx.load::<u8>(0), ctx.load::<[u8; 2]>(12)) else {
        return false;
    };
    let ethertype = u16::from_be_bytes(ethertype);
    first & 1 == 0 && (ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6)
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel passes a valid context for the whole run.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether the packet came in by an interface of this host.
#[inline(always)]
fn is_forwarded(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ingress_ifindex != 0 }
}

#[inline(always)]
fn is_vlan(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

#[inline(always)]
fn act(action: i32, counter: Counter) -> i32 {
    count(counter);
    action
}
