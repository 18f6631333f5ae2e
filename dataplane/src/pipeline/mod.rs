//! What happens to a packet, in order.
//!
//! 1. [`parse`]: bytes to offsets and a flow key; answers ARP and ND of pods. What does not say
//!    itself which flow it belongs to gets its key here: packets in [`tunnel`]s, [`fragment`]s, and
//!    ICMP errors, which go by the packet that they quote ([`related`]).
//! 2. [`flow`]: the flow's entry, if this worker knows it and it still holds.
//! 3. [`classify`]: for a first packet, the decision: a pure function of (key, facts, snapshot).
//! 4. [`learn`]: the decision, if [`policy`] admits it, becomes entries of the flow table, with a
//!    [`source_port`] where it needs one; or a refusal is told to the sender.
//! 5. [`rewrite`]: the transform: addresses, ports, TTL, checksums, MACs.
//!
//! Each stage is a plain loop over the batch. A packet that has its verdict is passed over by the
//! stages behind. Nothing here knows devices, clocks or system calls.

use weir_packet::{Addr, Mac};
use weir_tables::{NextHop, Snapshot, WorkerId};
use weir_xdp_redirect::Settings;

use crate::batch::Batch;
use crate::counters::Counters;
use crate::flow::FlowTable;
use crate::verdicts::VerdictLog;

pub mod classify;
mod flow;
mod fragment;
mod learn;
mod local;
mod parse;
mod policy;
mod refuse;
mod related;
mod revalidate;
mod rewrite;
mod source_port;
mod tunnel;

/// What the stages work with, besides the batch.
pub struct Context<'a> {
    pub me: WorkerId,
    pub workers: u8,
    pub snapshot: &'a Snapshot,
    pub flows: &'a mut FlowTable,
    /// Wrapping milliseconds of this turn.
    pub now_ms: u32,
    pub counters: &'a Counters,
    pub verdicts: &'a VerdictLog,
    /// Next hops that the kernel shall resolve; whoever drains it resolves each once.
    pub unresolved: &'a mut Vec<NextHop>,
    /// Packets that may still be answered by ourselves.
    pub answers_left: &'a mut u32,
}

/// The address by which pods know their gateway: 169.254.1.1 or fe80::1.
pub fn gateway_addr(is_v4: bool) -> Addr {
    match is_v4 {
        true => Addr::from_v4([169, 254, 1, 1]),
        false => Addr::from_v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    }
}

/// The client that a pod sees which reaches itself through a service: 169.254.1.1 or
/// fd77:6569:7200::3. For IPv6 not the gateway: to a link-local address a wildcard UDP socket
/// answers from the pod's link-local one.
pub fn hairpin_addr(is_v4: bool) -> Addr {
    match is_v4 {
        true => gateway_addr(true),
        false => Addr::from_v6([0xfd, 0x77, 0x65, 0x69, 0x72, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]),
    }
}

/// The host port's own address: 169.254.64.1 or fd77:6569:7200::1.
pub fn host_port_addr(is_v4: bool) -> Addr {
    match is_v4 {
        true => Addr::from_v4([169, 254, 64, 1]),
        false => Addr::from_v6([0xfd, 0x77, 0x65, 0x69, 0x72, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    }
}

/// The client that backends of the host's own see, so that their answers come back by the host's
/// port: 169.254.64.2 or fd77:6569:7200::2, next to the port's own address.
pub fn host_peer_addr(is_v4: bool) -> Addr {
    match is_v4 {
        true => Addr::from_v4([169, 254, 64, 2]),
        false => Addr::from_v6([0xfd, 0x77, 0x65, 0x69, 0x72, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
    }
}

/// MAC address of the gateway, the same for every pod.
pub const GATEWAY_MAC: Mac = Mac(Settings::DEFAULT.gateway_mac);

/// Most next hops asked for in one turn; more wait for the next packet.
pub const UNRESOLVED_MAX: usize = 16;

/// Gives every packet of the batch its verdict.
pub fn run(batch: &mut Batch, cx: &mut Context<'_>) {
    let packets = batch.packets_mut();
    parse::run(packets, cx);
    flow::run(packets, cx);
    learn::run(packets, cx);
    rewrite::run(packets, cx);
}
