//! The dataplane of weir: everything that touches a frame.
//!
//! ```text
//!  NIC queue / trunk -XDP-> AF_XDP socket -> Device::recv -> Batch
//!    parse      bytes -> offsets, FlowKey, or Drop
//!    flow       hit: the flow's Transform          (every packet: the fast path)
//!    classify   miss: service -> route -> policy = one Transform, learned    (first packet)
//!    rewrite    apply the Transform: addresses, ports, MACs, TTL, checksums
//!  -> Transmit(port) | Handoff(worker) | Punt(kernel) | Drop(reason)
//! ```
//!
//! Reading order: [`pipeline`] (what happens to a packet, in order), [`worker`] (one breath of a
//! thread), [`flow`] (what a worker remembers), [`device`] (how frames come and go), [`memory`]
//! (who owns a frame). What control tells us is `weir_tables::Snapshot`.
//!
//! Always true here: nothing on the packet path blocks, allocates, locks or panics on input; every
//! frame leaves a batch exactly once; a drop is a counter; time and randomness are injected.

pub mod attach;
pub mod batch;
pub mod clock;
pub mod counters;
pub mod device;
pub mod drops;
pub mod flow;
pub mod memory;
pub mod netlink;
pub mod pipeline;
pub mod server;
pub mod verdicts;
pub mod worker;
