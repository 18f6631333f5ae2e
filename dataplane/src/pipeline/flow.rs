//! Second stage: the flow's entry, if this worker knows it and it still holds. Every packet comes
//! by here, and most leave with all that is to know about them.

use weir_packet::{Fragment, tcp_flags};

use super::{Context, refuse, revalidate};
use crate::batch::{BURST, Packet, Stage, Verdict};
use crate::drops::Drop;
use crate::flow::{Action, flow_flags, tcp};

/// Finds entries in two passes, so that the second finds in cache what the first asked for.
pub(super) fn run(packets: &mut [Packet], cx: &mut Context<'_>) {
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
    let entry = cx.flows.entry(number);
    if entry.in_port != packet.port.0 {
        // Not this flow's sender: classify sees whether it may be one at all.
        return;
    }
    if packet.stage != Stage::Arrived && matches!(entry.action(), Some(Action::Direct { .. })) {
        // The director has decided already: what it says replaces the way to it.
        return;
    }
    if packet.headers.fragment != Fragment::None && entry.translation.flags != 0 {
        // The rest of the datagram has no ports to be found by.
        packet.verdict = Verdict::Drop(Drop::FragmentUnsupported);
        return;
    }
    if packet.headers.tcp_flags & tcp_flags::SYN != 0
        && tcp::is_opening(packet.headers.tcp_flags)
        && tcp::is_reusable(entry.tcp)
    {
        // The client reuses its port: a new connection, with a choice of its own.
        cx.flows.remove(number);
        return;
    }
    if entry.revision != cx.snapshot.revision() {
        return check(packet, number, cx);
    }
    packet.verdict = Verdict::Flow { flow: number };
}

/// Checks an entry against a snapshot that it has not met.
#[cold]
fn check(packet: &mut Packet, number: u32, cx: &mut Context<'_>) {
    match revalidate::judge(cx.flows.entry(number), cx) {
        revalidate::Judgement::Keep { action, unresolved } => {
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
