//! Destinations that are no service: pods, the host, and the world.

use weir_packet::FlowKey;
use weir_tables::{Egress, PortId, Snapshot};

use super::{
    Answers, Decision, Facts, Half, Refusal, SourcePort, answers_port, client_way, follow,
    port_is_pod,
};
use crate::batch::Stage;
use crate::drops::Drop;
use crate::flow::{Action, flow_flags};
use crate::pipeline::hairpin_addr;

/// Decides a flow by where its destination is.
pub(super) fn decide(
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Decision, Refusal> {
    let ends_here = key.dst.is_link_local() || key.dst == hairpin_addr(key.dst.is_v4());
    if port_is_pod(facts.port) && ends_here && !snapshot.is_host_addr(&key.dst) {
        // The hairpin address stands for flows that are known; nothing else has a way from here.
        return Err(Refusal::Drop(Drop::LinkLocal));
    }
    let egress = snapshot.resolve(&key.dst);
    match (facts.port, egress) {
        (_, Egress::Pod { .. }) => {}
        (PortId::UPLINK, _) => return Err(Refusal::Punt),
        // Sent to a NodePort of its own that is none.
        (PortId::HOST, Egress::Host { .. }) => return Err(Refusal::Punt),
        // The host routes its own traffic; only pods and services are behind its port.
        (PortId::HOST, _) => return Err(Refusal::Drop(Drop::NoRoute)),
        _ => {}
    }
    let way = follow(&key.dst, facts.me, snapshot).ok_or(Refusal::Tell(Drop::NoRoute))?;
    let flags = if facts.stage == Stage::Deliver { 0 } else { flow_flags::PLAIN };
    let forward = Half { action: way.action, out_port: way.out_port, flags };
    let mut decision = Decision { unresolved: way.unresolved, ..Decision::one_way(key, forward) };
    let is_masqueraded = port_is_pod(facts.port)
        && matches!(egress, Egress::Uplink { .. } | Egress::Unresolved(_))
        && snapshot.is_masqueraded(&key.dst);
    if is_masqueraded {
        let none = Refusal::Tell(Drop::NeedsSnat);
        decision.to.src = snapshot.snat_addr(key.src.is_v4()).ok_or(none)?;
        decision.source_port = SourcePort::Allocated;
        decision.forward.flags |= flow_flags::SNAT;
    }
    // Packets from outside that another worker delivers leave no trace here but the way to it.
    let passes_through =
        facts.port == PortId::UPLINK && matches!(way.action, Action::Deliver { .. });
    if !passes_through {
        let home = client_way(key, facts, snapshot).ok_or(Refusal::Drop(Drop::NoRoute))?;
        let half = Half { action: home.action, out_port: home.out_port, flags: flow_flags::REPLY };
        decision.answers = Some(Answers { in_port: answers_port(&key.dst, snapshot), half });
        decision.unresolved = decision.unresolved.or(home.unresolved);
    }
    Ok(decision)
}
