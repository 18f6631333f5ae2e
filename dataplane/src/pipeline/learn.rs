//! Fourth stage: a decision becomes entries of the flow table, or the sender is told.

use weir_packet::rewrite::src_mac;
use weir_packet::{Fragment, IcmpKind, protocol};
use weir_tables::NextHop;

use super::classify::{self, Decision, Facts, Refusal, Reverse, Transform, port_is_pod};
use super::{Context, UNRESOLVED_MAX, flow, refuse, revalidate, rewrite};
use crate::batch::{Packet, Stage, Verdict};
use crate::drops::Drop;
use crate::flow::{Action, Direction, FlowEntry, tcp};

/// Decides every packet that no flow was found for.
pub(super) fn run(packets: &mut [Packet], cx: &mut Context<'_>) {
    for packet in packets {
        if packet.verdict == Verdict::Undecided {
            decide(packet, cx);
        }
    }
}

#[cold]
fn decide(packet: &mut Packet, cx: &mut Context<'_>) {
    // An earlier packet of the batch may have opened the flow.
    if let Some(number) = cx.flows.find(&packet.key, packet.hash) {
        flow::take(packet, number, cx);
        if packet.verdict != Verdict::Undecided {
            return;
        }
    }
    if packet.stage == Stage::Arrived && is_foreign_mac(packet, cx) {
        packet.verdict = Verdict::Drop(Drop::SourceSpoofed);
        return;
    }
    let facts = Facts {
        port: packet.port,
        stage: packet.stage,
        me: cx.me,
        workers: cx.workers,
        is_whole: is_whole(packet),
    };
    match classify::classify(&packet.key, &facts, cx.snapshot) {
        Ok(decision) => {
            if let Some(hop) = decision.unresolved {
                ask_for(hop, cx);
            }
            match facts.is_whole {
                true => learn(packet, &decision, cx),
                false => pass_once(packet, &decision, cx),
            }
        }
        Err(Refusal::Drop(reason)) => packet.verdict = Verdict::Drop(reason),
        Err(Refusal::Tell(reason)) => refuse::tell(packet, reason, cx),
        Err(Refusal::Punt) => packet.verdict = Verdict::Punt,
        Err(Refusal::Echo) => refuse::answer_echo(packet, cx),
    }
}

/// Asks for a next hop to be resolved, unless too many are asked for already.
pub(super) fn ask_for(hop: NextHop, cx: &mut Context<'_>) {
    if cx.unresolved.len() < UNRESOLVED_MAX && !cx.unresolved.contains(&hop) {
        cx.unresolved.push(hop);
    }
}

/// Whether ports tell the packet's flow: fragments and ICMP errors go by addresses alone.
fn is_whole(packet: &Packet) -> bool {
    packet.headers.fragment == Fragment::None
        && match packet.key.protocol {
            protocol::ICMP | protocol::ICMPV6 => {
                matches!(packet.headers.icmp, IcmpKind::EchoRequest | IcmpKind::EchoReply)
            }
            _ => true,
        }
}

/// A pod sends only from its own MAC address.
fn is_foreign_mac(packet: &Packet, cx: &Context<'_>) -> bool {
    port_is_pod(packet.port)
        && cx
            .snapshot
            .endpoint_at(packet.port)
            .is_some_and(|pod| pod.mac != src_mac(packet.frame.bytes()))
}

/// Forwards a packet that no flow can stand for; it is not translated.
fn pass_once(packet: &mut Packet, decision: &Decision, cx: &Context<'_>) {
    packet.verdict = match decision.forward.action {
        Action::Transmit { adjacency } => match rewrite::route(packet, adjacency, cx) {
            Ok(_) => Verdict::Transmit { adjacency },
            Err(reason) => Verdict::Drop(reason),
        },
        Action::ToKernel { adjacency } => Verdict::Transmit { adjacency },
        Action::Deliver { worker } => Verdict::Handoff { worker, stage: Stage::Deliver },
        Action::Direct { .. } | Action::Chosen { .. } => Verdict::Drop(Drop::FragmentUnsupported),
    };
}

fn learn(packet: &mut Packet, decision: &Decision, cx: &mut Context<'_>) {
    if let Some(old) = cx.flows.find(&packet.key, packet.hash) {
        // Known by another port: classify has just found that this one may send it.
        cx.flows.remove(old);
    }
    if let Some(reverse) = &decision.reverse
        && !make_room(reverse, cx)
    {
        packet.verdict = Verdict::Drop(Drop::ReverseCollision);
        return;
    }
    let entry = |key, in_port, transform: &Transform, state| {
        let mut entry = FlowEntry::new(key, in_port, transform.translation, transform.action);
        entry.flags = transform.flags;
        entry.out_port = transform.out_port;
        entry.revision = cx.snapshot.revision();
        entry.last_seen_ms = cx.now_ms;
        entry.tcp = state;
        entry
    };
    let state = tcp::first(packet.headers.tcp_flags);
    let forward = Direction {
        entry: entry(packet.key, packet.port.0, &decision.forward, state),
        hash: packet.hash,
    };
    let reverse = decision.reverse.map(|reverse| Direction {
        entry: entry(reverse.key, reverse.in_port.0, &reverse.transform, tcp::mirrored(state)),
        hash: cx.flows.hash(&reverse.key),
    });
    packet.verdict = match cx.flows.learn(forward, reverse) {
        Ok(flow) => Verdict::Flow { flow },
        Err(_full) => Verdict::Drop(Drop::FlowTableFull),
    };
}

/// Frees the key of the answers, unless a live flow has it.
fn make_room(reverse: &Reverse, cx: &mut Context<'_>) -> bool {
    let Some(old) = cx.flows.find(&reverse.key, cx.flows.hash(&reverse.key)) else { return true };
    let entry = cx.flows.entry(old);
    let is_stale = entry.peer == FlowEntry::NO_PEER
        || tcp::is_closing(entry.tcp)
        || revalidate::is_over(entry, cx);
    if is_stale {
        cx.flows.remove(old);
    }
    is_stale
}
