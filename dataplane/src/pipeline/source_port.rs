//! The source port of a translated flow: its answers must be nobody else's.
//!
//! A port is claimed by the entry for its answers and by nothing else: while such an entry lives,
//! the port is taken towards that remote, and free towards all others.

use weir_packet::{FlowKey, protocol};

use super::classify::{Decision, SourcePort};
use super::{Context, revalidate};
use crate::drops::Drop;
use crate::flow::{FlowEntry, flow_flags, tcp};

/// Ports that are tried before the flow is refused.
const ATTEMPTS_MAX: u32 = 32;
/// Attempts after which unconfirmed flows lose their ports.
const PATIENCE: u32 = 8;

/// Settles the source port of a decision. The client's own port stays where it may and is free;
/// otherwise it is one of the worker's block, by RFC 6056 algorithm 3: each remote has its own
/// starting point, and a port comes again only after all others.
pub(super) fn settle(decision: &mut Decision, cx: &mut Context<'_>) -> Result<(), Drop> {
    if decision.answers.is_none() {
        return Ok(());
    }
    let is_own = decision.source_port == SourcePort::Own;
    if is_own && has_same_answers(decision, cx) {
        // The connection came in a tunnel until now: the node that balanced it is gone.
        decision.answers = None;
        return Ok(());
    }
    if is_own && make_room(&decision.to.reversed(), true, cx) {
        return Ok(());
    }
    if !has_source_port(&decision.to) {
        return Err(Drop::SnatUnsupported);
    }
    let block = cx.snapshot.snat_ports().block(cx.me, cx.workers);
    for attempt in 0..ATTEMPTS_MAX {
        let offset = cx.flows.next_port_offset(&decision.to) % block.len();
        decision.to.sport = block.min + offset as u16;
        // The remote may still wait for packets of a closed connection: its port rests.
        let answers = decision.to.reversed();
        if make_room(&answers, false, cx) || attempt >= PATIENCE && evict(&answers, cx) {
            return Ok(());
        }
    }
    Err(Drop::SnatExhausted)
}

/// Takes a port from a flow that nobody has confirmed for a second, as a flood leaves them.
#[cold]
fn evict(answers: &FlowKey, cx: &mut Context<'_>) -> bool {
    let Some(old) = cx.flows.find(answers, cx.flows.hash(answers)) else { return true };
    let forward = match cx.flows.entry(old).peer {
        FlowEntry::NO_PEER => old,
        peer => peer,
    };
    if !cx.flows.is_unconfirmed(forward, cx.now_ms) {
        return false;
    }
    cx.flows.remove(old);
    cx.counters.count_evicted(1);
    true
}

/// Whether a flow of another node's choice has the same answers for the same client.
fn has_same_answers(decision: &Decision, cx: &Context<'_>) -> bool {
    let key = decision.to.reversed();
    let Some(number) = cx.flows.find(&key, cx.flows.hash(&key)) else { return false };
    let entry = cx.flows.entry(number);
    entry.has(flow_flags::FROM_DSR)
        && entry.peer != FlowEntry::NO_PEER
        && entry.translation.key_after(&key) == decision.from.reversed()
        && !tcp::is_closing(entry.tcp)
        && !revalidate::is_over(entry, cx)
}

/// Ports, and identifiers of echo requests.
fn has_source_port(key: &FlowKey) -> bool {
    let is_icmp = matches!(key.protocol, protocol::ICMP | protocol::ICMPV6);
    protocol::has_ports(key.protocol) || (is_icmp && key.dport == 0)
}

/// Frees the key of the answers, unless a live flow has it.
fn make_room(answers: &FlowKey, may_be_closing: bool, cx: &mut Context<'_>) -> bool {
    let Some(old) = cx.flows.find(answers, cx.flows.hash(answers)) else { return true };
    let entry = cx.flows.entry(old);
    let is_stale = entry.peer == FlowEntry::NO_PEER
        || (may_be_closing && tcp::is_closing(entry.tcp))
        || revalidate::is_over(entry, cx);
    if is_stale {
        cx.flows.remove(old);
    }
    is_stale
}
