//! Second stage: the flow's entry, if this worker knows it and it still holds. Every packet comes
//! by here, and most leave with all that is to know about them.

use weir_packet::{IcmpKind, protocol, tcp_flags};

use weir_tables::PortId;

use super::{Context, policy, refuse, related, revalidate};
use crate::batch::{BURST, Packet, Stage, Verdict};
use crate::drops::Drop;
use crate::flow::{Action, FlowEntry, flow_flags, tcp};

/// Finds entries in two passes, so that the second finds in cache what the first asked for.
pub(super) fn run(packets: &mut [Packet], cx: &mut Context<'_>) {
    let evicted = cx.flows.begin_batch(packets.len(), cx.now_ms);
    if evicted > 0 {
        cx.counters.count_evicted(evicted);
    }
    let mut candidates = [None; BURST];
    for (packet, candidate) in packets.iter().zip(&mut candidates) {
        if packet.verdict == Verdict::Undecided {
            *candidate = cx.flows.candidate(packet.hash);
        }
    }
    for (packet, candidate) in packets.iter_mut().zip(candidates) {
        if packet.verdict == Verdict::Undecided
            && let Some(number) = cx.flows.find_from(candidate, &packet.key, packet.hash)
        {
            take(packet, number, cx);
        }
    }
}

/// Takes an entry for a packet if it still holds: then the verdict is `Flow`.
#[inline]
pub(super) fn take(packet: &mut Packet, number: u32, cx: &mut Context<'_>) {
    match packet.headers.icmp {
        IcmpKind::None | IcmpKind::EchoRequest | IcmpKind::EchoReply => {}
        IcmpKind::Error => return related::take(packet, number, cx),
        // Of no flow, though its key, without ports, may be that of an echo with identifier 0.
        _ => return,
    }
    let entry = cx.flows.entry(number);
    // What the kernel received by an interface that is no uplink of ours, it sends on to the pod.
    let is_by_kernel = packet.port == PortId::HOST && entry.in_port == PortId::UPLINK.0;
    if entry.in_port != packet.port.0 && !is_by_kernel {
        // Not this flow's sender: classify sees whether it may be one at all.
        return;
    }
    if packet.stage != Stage::Arrived && is_replaced(packet, entry, cx) {
        let is_live = !tcp::is_reusable(entry.tcp) && packet.key.protocol == protocol::TCP;
        if is_live && matches!(packet.stage, Stage::Tunnelled { .. }) {
            // The same client port through another service to the same backend: after the first
            // segment nothing tells the two apart, and the older stays.
            packet.verdict = Verdict::Drop(Drop::TunnelRefused);
        }
        return;
    }
    if packet.headers.tcp_flags & tcp_flags::SYN != 0
        && tcp::is_opening(packet.headers.tcp_flags)
        && (tcp::is_reusable(entry.tcp) || revalidate::is_draining(entry, cx))
    {
        // The client reuses its port: a new connection, with a choice of its own.
        cx.flows.remove(number);
        return;
    }
    if matches!(packet.stage, Stage::Informed { .. }) {
        // The pod's worker has seen an answer, or the flow would not be due.
        cx.flows.entry_mut(number).tcp |= tcp::ANSWERED;
    }
    let entry = cx.flows.entry(number);
    if entry.has(flow_flags::DIRECTED) && keep_director_informed(packet, number, cx) {
        return;
    }
    let entry = cx.flows.entry(number);
    if entry.revision != cx.snapshot.revision() {
        return check(packet, number, cx);
    }
    packet.verdict = Verdict::Flow { flow: number };
}

/// The director would forget a flow whose packets all come in at the pod's own worker, and choose
/// anew when one comes in elsewhere. So what changes its state, and one packet now and then, goes
/// by the director. Whether this one does.
#[inline]
fn keep_director_informed(packet: &mut Packet, number: u32, cx: &mut Context<'_>) -> bool {
    // Well below the shortest timeout of a flow.
    const SILENT_MAX_S: u16 = 20;
    const STATE_CHANGES: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
    let entry = cx.flows.entry_mut(number);
    let Some((worker, silent_s)) = entry.director(cx.now_ms) else { return false };
    let flags = packet.headers.tcp_flags;
    if !packet.stage.is_first_hand() {
        entry.set_directed(worker, cx.now_ms);
        let is_answered = entry.tcp & (tcp::ANSWERED | tcp::ESTABLISHED) != 0;
        if packet.key.protocol != protocol::TCP || tcp::is_continuing(flags) && is_answered {
            entry.flags |= flow_flags::DIRECTOR_KNOWS;
        }
        return false;
    }
    // Once it is over, the director may know a later connection, by a SYN that came elsewhere.
    let is_due = flags & STATE_CHANGES != 0
        || tcp::is_reusable(entry.tcp)
        || silent_s >= SILENT_MAX_S
        || !entry.has(flow_flags::DIRECTOR_KNOWS);
    if is_due {
        let backend = entry.backend();
        packet.verdict = Verdict::Handoff { worker, stage: Stage::Informed { backend } };
    }
    is_due
}

/// Whether what another worker or node says of a packet goes before the entry.
#[inline]
fn is_replaced(packet: &Packet, entry: &FlowEntry, cx: &Context<'_>) -> bool {
    match (packet.stage, entry.action()) {
        (Stage::Gathered, _) => false,
        // The director has decided already.
        (_, Some(Action::Direct { .. })) => true,
        // Its director chose anew.
        (Stage::Chosen { backend }, _) => entry.backend() != backend,
        // The client asks for another service now, or for one where it had asked for none.
        (Stage::Tunnelled { service: Some(service) }, _) => {
            let is_known = entry.peer != FlowEntry::NO_PEER && {
                let answers = cx.flows.entry(entry.peer);
                let after = answers.translation.key_after(&answers.key);
                (after.src, after.sport) == (service.addr, service.l4_port)
            };
            !is_known
        }
        _ => false,
    }
}

/// Checks an entry against a snapshot that it has not met.
#[cold]
fn check(packet: &mut Packet, number: u32, cx: &mut Context<'_>) {
    match revalidate::judge(cx.flows.entry(number), cx) {
        revalidate::Judgement::Keep { action, unresolved } => {
            if !policy::still_admits(packet, number, cx) {
                return;
            }
            let entry = cx.flows.entry_mut(number);
            entry.revision = cx.snapshot.revision();
            entry.set_action(action);
            if let Some(hop) = unresolved {
                super::learn::ask_for(hop, cx);
            }
            packet.verdict = Verdict::Flow { flow: number };
        }
        revalidate::Judgement::Forget => cx.flows.remove(number),
        revalidate::Judgement::Refuse => {
            let entry = cx.flows.entry(number);
            if entry.has(flow_flags::FROM_SERVICE)
                && !tcp::is_closing(entry.tcp)
                && refuse::abort(packet, Drop::BackendGone, cx)
            {
                // A client that only receives would wait for ever: it is told in the place of the
                // first answer, the backend with the next.
                packet.verdict = Verdict::Flow { flow: number };
                return;
            }
            cx.flows.remove(number);
            if !tcp::is_opening(packet.headers.tcp_flags) {
                refuse::tell(packet, Drop::BackendGone, cx);
            }
        }
    }
}
