//! Fourth stage: a decision becomes entries of the flow table, or the sender is told.

use weir_packet::rewrite::src_mac;
use weir_packet::{
    Addr, FlowKey, Fragment, IcmpKind, Parsed, Translation, parse, parse_quote, protocol,
};
use weir_tables::{BackendAddr, NextHop};

use super::classify::{self, Decision, Facts, Half, Refusal, SourcePort, port_is_pod};
use super::{Context, UNRESOLVED_MAX, flow, policy, refuse, rewrite, source_port};
use crate::batch::{Packet, Stage, Verdict};
use crate::drops::Drop;
use crate::flow::{Action, Direction, FlowEntry, TableFull, tcp};

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
        is_opening: packet.headers.protocol != protocol::TCP
            || tcp::is_opening(packet.headers.tcp_flags),
        sender: sender(packet),
        pinned: pinned(&packet.key, cx),
    };
    match classify::classify(&packet.key, &facts, cx.snapshot) {
        Ok(decision) if policy::admits(packet, &decision, facts.is_whole, cx) => {
            if let Some(hop) = decision.unresolved {
                ask_for(hop, cx);
            }
            let is_error = packet.headers.icmp == IcmpKind::Error;
            match facts.is_whole && !is_error && !decision.is_stateless {
                true => learn(packet, decision, cx),
                false => pass_once(packet, &decision, cx),
            }
        }
        Ok(_) => {}
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

/// Whether ports tell the packet's flow: not those of fragments without their first, nor of ICMP
/// that is neither echo nor about a packet with ports.
fn is_whole(packet: &Packet) -> bool {
    let has_ports = (packet.key.sport, packet.key.dport) != (0, 0);
    match packet.headers.icmp {
        IcmpKind::Error => parse_quote(packet.frame.bytes(), &packet.headers).is_some(),
        _ if packet.headers.fragment == Fragment::Later => has_ports,
        IcmpKind::None | IcmpKind::EchoRequest | IcmpKind::EchoReply => true,
        _ => false,
    }
}

/// Who sent the packet: its source address, which the key of an ICMP error does not have.
pub(super) fn sender(packet: &Packet) -> Addr {
    match packet.headers.icmp {
        IcmpKind::Error => match parse(packet.frame.bytes()) {
            Ok(Parsed::Ip(parsed)) => parsed.key.src,
            _ => packet.key.src,
        },
        _ => packet.key.src,
    }
}

/// The backend that the client of a flow is bound to.
fn pinned(key: &FlowKey, cx: &Context<'_>) -> Option<BackendAddr> {
    let key = FlowEntry::pin_key(key);
    let pin = cx.flows.entry(cx.flows.find(&key, cx.flows.hash(&key))?);
    let age_ms = cx.now_ms.wrapping_sub(pin.last_seen_ms);
    (age_ms < pin.pin_timeout_ms()?).then(|| pin.backend())
}

/// A pod sends only from its own MAC address.
fn is_foreign_mac(packet: &Packet, cx: &Context<'_>) -> bool {
    port_is_pod(packet.port)
        && cx
            .snapshot
            .endpoint_at(packet.port)
            .is_some_and(|pod| pod.mac != src_mac(packet.frame.bytes()))
}

/// Forwards a packet without a flow. It is translated only where that needs no port of ours.
fn pass_once(packet: &mut Packet, decision: &Decision, cx: &mut Context<'_>) {
    let is_error = packet.headers.icmp == IcmpKind::Error;
    let needs_port = decision.source_port == SourcePort::Allocated;
    let is_translated = decision.to != packet.key;
    if needs_port || is_translated && !is_whole(packet) {
        let reason = if is_error { Drop::IcmpUnrelated } else { Drop::FragmentUnmatched };
        packet.verdict = Verdict::Drop(reason);
        return;
    }
    let translation = Translation::between(&packet.key, &decision.to);
    rewrite::carry_out(packet, &translation, decision.forward.action, 0, cx);
}

fn learn(packet: &mut Packet, mut decision: Decision, cx: &mut Context<'_>) {
    if let Some(old) = cx.flows.find(&packet.key, packet.hash) {
        // Known by another port: classify has just found that this one may send it.
        cx.flows.remove(old);
    }
    if let Err(reason) = source_port::settle(&mut decision, cx) {
        packet.verdict = Verdict::Drop(reason);
        return;
    }
    let (forward, answers) = directions(packet, &decision, cx);
    match cx.flows.learn(forward, answers) {
        Ok(flow) => packet.verdict = Verdict::Flow { flow },
        // Any worker and any later packet comes to the same decision: it needs no memory.
        Err(TableFull) if answers.is_none() => pass_once(packet, &decision, cx),
        Err(TableFull) => packet.verdict = Verdict::Drop(Drop::FlowTableFull),
    }
    if let Some(pin) = decision.pin {
        remember(&packet.key, &pin, cx);
    }
}

/// Both directions of a flow, as entries.
fn directions(
    packet: &Packet,
    decision: &Decision,
    cx: &Context<'_>,
) -> (Direction, Option<Direction>) {
    let direction = |key: FlowKey, hash, in_port, to: &FlowKey, half: &Half, state| {
        let translation = Translation::between(&key, to);
        let mut entry = FlowEntry::new(key, in_port, translation, half.action);
        entry.flags = half.flags;
        entry.out_port = half.out_port;
        entry.revision = cx.snapshot.revision();
        entry.last_seen_ms = cx.now_ms;
        entry.tcp = state;
        Direction { entry, hash }
    };
    let state = tcp::first(packet.headers.tcp_flags, decision.answers.is_none());
    let (key, to) = (packet.key, &decision.to);
    let mut forward = direction(key, packet.hash, packet.port.0, to, &decision.forward, state);
    if let Some(director) = decision.director
        && matches!(decision.forward.action, Action::Transmit { .. })
    {
        forward.entry.set_directed(director, cx.now_ms);
    }
    let answers = decision.answers.map(|answers| {
        let (key, to) = (to.reversed(), decision.from.reversed());
        let (hash, state) = (cx.flows.hash(&key), tcp::mirrored(state));
        direction(key, hash, answers.in_port.0, &to, &answers.half, state)
    });
    (forward, answers)
}

/// Binds a client to a backend, from now on. In a full table it stays unbound: with the source port
/// left out of the choice it will mostly get the same backend.
fn remember(key: &FlowKey, pin: &classify::Pin, cx: &mut Context<'_>) {
    let mut entry = FlowEntry::pin(key, pin.backend, pin.timeout_ms);
    entry.last_seen_ms = cx.now_ms;
    let hash = cx.flows.hash(&entry.key);
    match cx.flows.find(&entry.key, hash) {
        Some(known) => *cx.flows.entry_mut(known) = entry,
        None => drop(cx.flows.learn(Direction { entry, hash }, None)),
    }
}
