//! From a decision to an XDP action.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use weir_xdp_redirect::{AddressClass, Counter, Settings, UPLINK_QUEUES};

use crate::maps::{SLOT_BASE, XSKS, count, is_alive};

/// An action and its counter.
#[derive(Clone, Copy)]
struct Outcome {
    action: u32,
    counter: Counter,
}

/// What to do with a packet that is ours while no worker takes it.
#[derive(Clone, Copy)]
pub struct Otherwise {
    /// While the socket is gone, but the heartbeat still fresh.
    restarting: Outcome,
    /// After that, and while a worker hangs.
    stale: Outcome,
}

impl Otherwise {
    /// The kernel cannot serve a Service.
    pub const SERVICE: Self = Self::after_restart(XDP_DROP, Counter::UplinkDroppedStaleService);
    /// The kernel cannot serve a NodePort.
    pub const NODE_PORT: Self = Self::after_restart(XDP_DROP, Counter::UplinkDroppedStaleNode);
    /// It may be the host's own, which a restart of ours must not touch.
    pub const NODE: Self = {
        let pass = Outcome { action: XDP_PASS, counter: Counter::UplinkPassedStaleNode };
        Self { restarting: pass, stale: pass }
    };
    /// Almost surely a flow of ours; the kernel would answer it with a reset.
    pub const SNAT: Self = Self::after_restart(XDP_PASS, Counter::UplinkPassedStaleNode);

    /// A pod's packet, by the node's failure mode and the pod's flag.
    #[inline(always)]
    pub fn pod(class: AddressClass, settings: &Settings) -> Self {
        if settings.failure_mode.is_closed(class.fail_closed()) {
            Self::after_restart(XDP_DROP, Counter::UplinkDroppedStalePod)
        } else {
            Self::after_restart(XDP_PASS, Counter::UplinkPassedStalePod)
        }
    }

    /// Dropped while a worker is replaced: TCP repeats what is lost for less than a second, but
    /// the kernel, which knows no flow, would let untranslated packets reset the connection.
    const fn after_restart(action: u32, counter: Counter) -> Self {
        let restarting = Outcome { action: XDP_DROP, counter: Counter::UplinkDroppedRestarting };
        Self { restarting, stale: Outcome { action, counter } }
    }
}

/// Leaves the packet to the kernel.
#[inline(always)]
pub fn pass(counter: Counter) -> u32 {
    count(counter);
    XDP_PASS
}

/// Gives the packet to the socket of its queue; without a worker behind it, `otherwise` holds.
#[inline(always)]
pub fn to_worker(ctx: &XdpContext, settings: &Settings, otherwise: Otherwise) -> u32 {
    let queue = ctx.rx_queue_index();
    let slot = SLOT_BASE.load() + queue;
    let outcome = if queue >= UPLINK_QUEUES || !is_alive(slot, settings) {
        otherwise.stale
    } else if let Ok(action) = XSKS.redirect(slot, 0) {
        Outcome { action, counter: Counter::UplinkRedirected }
    } else {
        otherwise.restarting
    };
    count(outcome.counter);
    outcome.action
}
