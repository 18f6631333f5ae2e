//! The contract between weir's eBPF programs and its dataplane: map layouts, slot numbers, the
//! trunk header and the counters. Both halves compile this crate, so neither can disagree.
//!
//! Every type is plain `repr(C)` data without padding. Addresses and L4 ports are in network byte
//! order, everything else in the byte order of the machine.

#![no_std]

#[cfg(feature = "fixtures")]
extern crate alloc;

mod counters;
#[cfg(feature = "fixtures")]
pub mod fixtures;
mod maps;
#[cfg(not(target_arch = "bpf"))]
mod object;
mod trunk;

pub use counters::{COUNTERS, Counter};
pub use maps::{
    ADDRESSES_MAX, AddressClass, FailureMode, L4Port, MAP_NAMES, NODE_L4_PORTS_MAX, PORTS_MAX,
    PortEntry, Settings, map,
};
#[cfg(not(target_arch = "bpf"))]
pub use object::OBJECT;
pub use trunk::{PortHeader, TRUNK_FLAG_FROM_HOST, TRUNK_FLAG_TO_HOST, TRUNK_MARK};

/// Version of everything in this crate that outlives a process in pinned maps. Raise it with any
/// change of a layout: a new dataplane then makes new maps instead of misreading the old ones.
pub const LAYOUT_VERSION: u32 = 1;

/// Slots of `XSKS` and `HEARTBEATS`: one per AF_XDP socket.
pub const XSK_SLOTS: u32 = 1024;

/// Slots `0..TRUNK_SLOTS` belong to trunks, by worker; so this is also the most workers.
pub const TRUNK_SLOTS: u32 = 64;

/// Slots of one uplink device, by receive queue; so this is also the most queues of a device.
pub const UPLINK_QUEUES: u32 = 64;

/// Uplink devices that fit.
pub const UPLINKS_MAX: u32 = (XSK_SLOTS - TRUNK_SLOTS) / UPLINK_QUEUES;

/// The slot of the trunk of `worker`, if there may be that many workers.
pub const fn trunk_slot(worker: u32) -> Option<u32> {
    if worker < TRUNK_SLOTS { Some(worker) } else { None }
}

/// The slot of queue 0 of the uplink device numbered `uplink`, if there may be that many.
pub const fn uplink_slot_base(uplink: u32) -> Option<u32> {
    if uplink < UPLINKS_MAX { Some(TRUNK_SLOTS + uplink * UPLINK_QUEUES) } else { None }
}

/// Names of the programs in the object.
pub mod program {
    /// XDP on an uplink: ours or not.
    pub const UPLINK: &str = "weir_uplink";
    /// XDP on the inner end of a trunk: everything to its socket.
    pub const TRUNK_IN: &str = "weir_trunk_in";
    /// tcx ingress on a pod's host-side veth: pod to worker.
    pub const PORT_IN: &str = "weir_port_in";
    /// tcx egress on a pod's host-side veth: what the kernel routed to the pod, to the worker.
    pub const PORT_OUT: &str = "weir_port_out";
    /// tcx ingress on the outer end of a trunk: worker to pod or host.
    pub const TRUNK_OUT: &str = "weir_trunk_out";
    /// All of them.
    pub const ALL: [&str; 5] = [UPLINK, TRUNK_IN, PORT_IN, PORT_OUT, TRUNK_OUT];
}

/// The global of the XDP programs that is set per load: slot of receive queue 0 (`u32`).
pub const GLOBAL_SLOT_BASE: &str = "SLOT_BASE";

/// Whether a heartbeat stamped at `stamp_ns` (0 = never) is too old at `now_ns`. A stamp ahead of
/// `now_ns` comes from another core's clock read and is fresh.
pub const fn is_stale(stamp_ns: u64, now_ns: u64, timeout_ns: u64) -> bool {
    stamp_ns == 0 || now_ns.saturating_sub(stamp_ns) > timeout_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_trunks_and_uplinks_do_not_meet() {
        assert_eq!(trunk_slot(63), Some(63));
        assert_eq!(trunk_slot(64), None);
        assert_eq!(uplink_slot_base(0), Some(64));
        let last = uplink_slot_base(UPLINKS_MAX - 1).expect("it is the last");
        assert!(last + UPLINK_QUEUES <= XSK_SLOTS);
        assert_eq!(uplink_slot_base(UPLINKS_MAX), None);
    }

    #[test]
    fn a_heartbeat_goes_stale_after_the_timeout_and_never_from_the_future() {
        assert!(is_stale(0, 5, 10));
        assert!(!is_stale(100, 110, 10));
        assert!(is_stale(100, 111, 10));
        assert!(!is_stale(120, 110, 10));
    }
}
