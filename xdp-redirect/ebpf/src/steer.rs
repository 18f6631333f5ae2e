//! From a decision to an XDP action.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use weir_xdp_redirect::{AddressClass, Counter, Settings, UPLINK_QUEUES};

use crate::maps::{SLOT_BASE, XSKS, count, is_alive};

/// What to do with a packet that is ours while no worker takes it.
#[derive(Clone, Copy)]
pub struct Otherwise {
    action: u32,
    counter: Counter,
}

impl Otherwise {
    /// The kernel cannot serve a Service.
    pub const SERVICE: Self =
        Self { action: XDP_DROP, counter: Counter::UplinkDroppedStaleService };
    /// The kernel cannot serve a NodePort.
    pub const NODE_PORT: Self = Self { action: XDP_DROP, counter: Counter::UplinkDroppedStaleNode };
    /// It may be the host's own.
    pub const NODE: Self = Self { action: XDP_PASS, counter: Counter::UplinkPassedStaleNode };

    /// A pod's packet, by the node's failure mode and the pod's flag.
    #[inline(always)]
    pub fn pod(class: AddressClass, settings: &Settings) -> Self {
        if settings.failure_mode.is_closed(class.fail_closed()) {
            Self { action: XDP_DROP, counter: Counter::UplinkDroppedStalePod }
        } else {
            Self { action: XDP_PASS, counter: Counter::UplinkPassedStalePod }
        }
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
    if queue < UPLINK_QUEUES {
        let slot = SLOT_BASE.load() + queue;
        if is_alive(slot, settings) {
            if let Ok(action) = XSKS.redirect(slot, 0) {
                count(Counter::UplinkRedirected);
                return action;
            }
        }
    }
    count(otherwise.counter);
    otherwise.action
}
