//! The maps, pinned by name, and how programs ask them.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, XskMap},
};
use weir_xdp_redirect::{
    ADDRESSES_MAX, AddressClass, Counter, L4Port, NODE_L4_PORTS_MAX, PORTS_MAX, PortEntry,
    Settings, XSK_SLOTS, is_stale,
};

#[map]
pub static XSKS: XskMap = XskMap::pinned(XSK_SLOTS, 0);

#[map]
static HEARTBEATS: Array<u64> = Array::pinned(XSK_SLOTS, 0);

#[map]
static ADDRESSES: HashMap<[u8; 16], AddressClass> =
    HashMap::pinned(ADDRESSES_MAX, BPF_F_NO_PREALLOC);

#[map]
static NODE_L4_PORTS: HashMap<L4Port, u32> = HashMap::pinned(NODE_L4_PORTS_MAX, BPF_F_NO_PREALLOC);

#[map]
static PORTS: HashMap<u32, PortEntry> = HashMap::pinned(PORTS_MAX, BPF_F_NO_PREALLOC);

#[map]
static SETTINGS: Array<Settings> = Array::pinned(1, 0);

/// A power of two with room for every counter, so that a new one needs no new map.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(64, 0);

/// Slot of this device's receive queue 0, set at load.
#[unsafe(no_mangle)]
pub static SLOT_BASE: Global<u32> = Global::new(0);

const _: () = assert!(weir_xdp_redirect::COUNTERS.len() <= 64);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's own, and programs are not interrupted by each other
        // within one counter's increment except by a nested softirq, which may lose one count.
        unsafe { *value += 1 };
    }
}

/// The node's settings; an array of one, so always there.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Whose address `address` is.
#[inline(always)]
pub fn address_class(address: &[u8; 16]) -> Option<AddressClass> {
    // SAFETY: a value is one aligned u32, read at once.
    unsafe { ADDRESSES.get(address) }.copied()
}

/// Whether an L4 port of the node is a NodePort or hostPort.
#[inline(always)]
pub fn is_node_l4_port(key: &L4Port) -> bool {
    // SAFETY: the value is not read.
    unsafe { NODE_L4_PORTS.get(key) }.is_some()
}

/// The entry of the port with this outer interface.
#[inline(always)]
pub fn port_entry(ifindex: u32) -> Option<PortEntry> {
    // SAFETY: an update replaces the whole element, and the old one stays until the program ends.
    unsafe { PORTS.get(ifindex) }.copied()
}

/// Whether the worker of `slot` stamped its heartbeat lately.
#[inline(always)]
pub fn is_alive(slot: u32, settings: &Settings) -> bool {
    let Some(stamp_ns) = HEARTBEATS.get(slot) else { return false };
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    !is_stale(*stamp_ns, now_ns, settings.heartbeat_timeout_ns)
}
