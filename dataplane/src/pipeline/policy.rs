//! Network policy: what the pods of this worker say about a flow.
//!
//! The worker of the sending pod judges its egress and the worker of the receiving pod its ingress,
//! each once per flow, by the real backend and the real client: after translation, and before it.
//! A flow whose rules or peer changed is judged again with its next packet, in whichever direction
//! that goes. What is denied then keeps its entry: without it, an answer would look like the first
//! packet of a flow the other way round.
//!
//! A pod always reaches itself, and its node always reaches it (Kubernetes, "Network Policies").

use weir_packet::{FlowKey, IcmpKind, protocol};
use weir_tables::policy::{Direction, L4, PolicyAction, PolicyVerdict, RuleId};
use weir_tables::{Egress, PortId, Snapshot, WorkerId};

use super::classify::Decision;
use super::{Context, refuse};
use crate::batch::{Packet, Stage, Verdict};
use crate::drops::Drop;
use crate::flow::{FlowEntry, flow_flags};
use crate::verdicts::{VerdictEvent, VerdictKind};

/// What one pod is asked about.
#[derive(Clone, Copy, Debug)]
struct Question {
    endpoint: PortId,
    direction: Direction,
    /// The flow as its client has it, and as its server has it.
    from: FlowKey,
    to: FlowKey,
}

impl Question {
    fn peer(&self) -> &weir_packet::Addr {
        match self.direction {
            Direction::Ingress => &self.from.src,
            Direction::Egress => &self.to.dst,
        }
    }
}

/// The pods of worker `me` that have a say in a flow: its sender, then its receiver. `came` is
/// where its client's packets come in: by the host's port alone its address says that it is the
/// host.
fn questions(
    from: &FlowKey,
    to: &FlowKey,
    came: PortId,
    me: WorkerId,
    snapshot: &Snapshot,
) -> [Option<Question>; 2] {
    let port_of = |addr| match snapshot.resolve(addr) {
        Egress::Pod { port, worker, .. } => Some((port, worker == me)),
        _ => None,
    };
    let (sender, receiver) = (port_of(&from.src), port_of(&to.dst));
    if sender.is_some() && sender == receiver {
        return [None, None];
    }
    let ask = |pod: Option<(PortId, bool)>, direction| match pod {
        Some((endpoint, true)) if snapshot.has_policy(endpoint, direction) => {
            Some(Question { endpoint, direction, from: *from, to: *to })
        }
        _ => None,
    };
    let is_host = came == PortId::HOST && snapshot.is_host_addr(&from.src);
    let receiver = receiver.filter(|_| !is_host);
    [ask(sender, Direction::Egress), ask(receiver, Direction::Ingress)]
}

/// Whether policy lets the first packet of a flow go on; otherwise the packet has its verdict.
pub(super) fn admits(
    packet: &mut Packet,
    decision: &Decision,
    is_whole: bool,
    cx: &mut Context<'_>,
) -> bool {
    for question in questions(&decision.from, &decision.to, packet.port, cx.me, cx.snapshot)
        .into_iter()
        .flatten()
    {
        let reason = match l4_of(packet, &decision.to, is_whole) {
            Ok(l4) => ask(&question, l4, cx),
            Err(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            deny(packet, reason, cx);
            return false;
        }
    }
    true
}

/// Whether policy still lets a known flow go on; otherwise the packet has its verdict. Asks only
/// pods whose rules, or what is known of whose peer, changed since the entry was last checked.
#[cold]
pub(super) fn still_admits(packet: &mut Packet, number: u32, cx: &mut Context<'_>) -> bool {
    let entry = cx.flows.entry(number);
    let (from, to) = original(entry);
    let came = match entry.has(flow_flags::REPLY) && entry.peer != FlowEntry::NO_PEER {
        true => cx.flows.entry(entry.peer).in_port,
        false => entry.in_port,
    };
    let checked = entry.revision;
    let asked = questions(&from, &to, PortId(came), cx.me, cx.snapshot);
    for question in asked.into_iter().flatten() {
        let since =
            cx.snapshot.judged_since(question.endpoint, question.direction, question.peer());
        // Revisions wrap; 0 is an entry that another process made.
        let is_known = checked != 0 && checked.wrapping_sub(since) as i32 >= 0;
        if is_known {
            continue;
        }
        if let Some(reason) = ask(&question, l4_of_key(&to), cx) {
            deny(packet, reason, cx);
            return false;
        }
    }
    true
}

/// The flow of an entry as its client has it, and as its server has it.
fn original(entry: &FlowEntry) -> (FlowKey, FlowKey) {
    let after = entry.translation.key_after(&entry.key);
    match entry.has(flow_flags::REPLY) {
        true => (after.reversed(), entry.key.reversed()),
        false => (entry.key, after),
    }
}

/// Asks a pod and notes the answer. The reason to drop, if there is one.
fn ask(question: &Question, l4: L4, cx: &mut Context<'_>) -> Option<Drop> {
    let &Question { endpoint, direction, to, .. } = question;
    let peer = question.peer();
    let PolicyVerdict { action, rule } = cx.snapshot.judge(endpoint, direction, peer, l4);
    let reason = match action {
        PolicyAction::Allow => None,
        PolicyAction::Deny if rule == RuleId::MISSING => Some(Drop::PolicyClosed),
        PolicyAction::Deny => Some(Drop::PolicyDenied),
        PolicyAction::Redirect => Some(Drop::PolicyL7),
    };
    let is_audited = reason.is_some() && cx.snapshot.is_audited(endpoint);
    let kind = match action {
        PolicyAction::Allow => VerdictKind::Allowed,
        _ if is_audited => VerdictKind::Audited,
        PolicyAction::Deny => VerdictKind::Denied,
        PolicyAction::Redirect => VerdictKind::Redirected,
    };
    cx.verdicts.record(&VerdictEvent {
        at_ms: cx.now_ms,
        revision: cx.snapshot.revision(),
        endpoint,
        direction,
        kind,
        rule,
        // With the client's own address, which translation may hide.
        key: FlowKey { src: question.from.src, ..to },
        peer: cx.snapshot.policy().peer(peer).identity,
        l4,
    });
    reason.filter(|_| !is_audited)
}

fn deny(packet: &mut Packet, reason: Drop, cx: &mut Context<'_>) {
    // What came in a tunnel has been translated by another node, which sees no answer of ours.
    let is_tunnelled = matches!(packet.stage, Stage::Tunnelled { .. });
    if refuse::is_by_policy(reason) && cx.snapshot.rejects_denied() && !is_tunnelled {
        return refuse::tell(packet, reason, cx);
    }
    packet.verdict = Verdict::Drop(reason);
}

/// What a first packet asks for. Where it does not say, rules cannot be asked: part of a datagram
/// whose beginning did not come by, or an error about no known flow.
fn l4_of(packet: &Packet, to: &FlowKey, is_whole: bool) -> Result<L4, Drop> {
    match packet.headers.icmp {
        IcmpKind::Error => Err(Drop::IcmpUnrelated),
        IcmpKind::None if !is_whole => Err(Drop::FragmentUnmatched),
        IcmpKind::None => Ok(L4::new(to.protocol, to.dport)),
        _ => {
            let kind = packet.frame.bytes().get(usize::from(packet.headers.l4)).copied();
            Ok(L4::new(to.protocol, kind.unwrap_or_default().into()))
        }
    }
}

/// What a known flow asked for. Of ICMP only echo has flows.
fn l4_of_key(to: &FlowKey) -> L4 {
    let is_reply = to.sport == 0 && to.dport != 0;
    let echo = |request, reply| if is_reply { reply } else { request };
    match to.protocol {
        protocol::ICMP => L4::new(to.protocol, echo(8, 0)),
        protocol::ICMPV6 => L4::new(to.protocol, echo(128, 129)),
        _ => L4::new(to.protocol, to.dport),
    }
}
