//! Destinations that are no service: pods, the host, and the world.

use weir_packet::{FlowKey, Translation};
use weir_tables::{Egress, PortId, Snapshot};

use super::{
    Decision, Facts, Refusal, Reverse, Transform, answers_port, client_way, follow, port_is_pod,
};
use crate::drops::Drop;
use crate::flow::{Action, flow_flags};

/// Decides a flow by where its destination is.
pub(super) fn decide(
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Decision, Refusal> {
    if port_is_pod(facts.port) && key.dst.is_link_local() && !snapshot.is_host_addr(&key.dst) {
        // The gateway's address stands for flows that are known; nothing else has a way from here.
        return Err(Refusal::Drop(Drop::LinkLocal));
    }
    let egress = snapshot.resolve(&key.dst);
    if facts.port == PortId::UPLINK && !matches!(egress, Egress::Pod { .. }) {
        return Err(Refusal::Punt);
    }
    if facts.port == PortId::HOST && !matches!(egress, Egress::Pod { .. }) {
        // The host routes its own traffic; only pods and services are behind its port.
        return Err(Refusal::Drop(Drop::NoRoute));
    }
    let way = follow(&key.dst, facts.me, snapshot).ok_or(Refusal::Tell(Drop::NoRoute))?;
    let forward = Transform {
        translation: Translation::NONE,
        action: way.action,
        out_port: way.out_port,
        flags: 0,
    };
    // Packets from outside that another worker delivers leave no trace here but the way to it.
    let passes_through =
        facts.port == PortId::UPLINK && matches!(way.action, Action::Deliver { .. });
    let reverse = if passes_through { None } else { Some(answer(key, facts, snapshot)?) };
    let unresolved = way.unresolved.or(reverse.and_then(|(_, unresolved)| unresolved));
    Ok(Decision { forward, reverse: reverse.map(|(reverse, _)| reverse), unresolved })
}

type Answer = (Reverse, Option<weir_tables::NextHop>);

fn answer(key: &FlowKey, facts: &Facts, snapshot: &Snapshot) -> Result<Answer, Refusal> {
    let way = client_way(key, facts, snapshot).ok_or(Refusal::Drop(Drop::NoRoute))?;
    let reverse = Reverse {
        key: key.reversed(),
        in_port: answers_port(&key.dst, snapshot),
        transform: Transform {
            translation: Translation::NONE,
            action: way.action,
            out_port: way.out_port,
            flags: flow_flags::REPLY,
        },
    };
    Ok((reverse, way.unresolved))
}
