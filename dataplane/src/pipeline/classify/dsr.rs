//! Direct server return: packets from outside go to a backend of another node with the client's
//! address, and that node answers the client straight, from the service's address.

use weir_packet::{Addr, FlowKey};
use weir_tables::{BackendAddr, DsrDispatch, Egress, Frontend, FrontendKey, NextHop, Snapshot};

use super::service::towards;
use super::{Answers, Decision, Facts, Half, Refusal, follow};
use crate::drops::Drop;
use crate::flow::{Action, flow_flags};

/// Sends a flow to a backend of another node; `None` where that is not known, or cannot answer in
/// the service's name. Answers do not come by here, so there is nothing to remember for them.
pub(super) fn send(
    backend: &BackendAddr,
    frontend: &Frontend,
    is_outside: bool,
    key: &FlowKey,
    snapshot: &Snapshot,
) -> Option<Decision> {
    // IP in IP carries no NodePort: the other node has none at this node's address.
    let is_lost = frontend.is_on_all_node_addrs() && snapshot.dsr_dispatch() == DsrDispatch::Ipip;
    // The kernel of a host would answer a process's client with its own address.
    if is_lost || snapshot.is_node_addr(&backend.addr) {
        return None;
    }
    let set = snapshot.backends_of(frontend, is_outside)?;
    let (action, unresolved) = way_to_node(set.get(backend)?.node.as_ref()?, snapshot)?;
    let half = Half { action, out_port: 0, flags: flow_flags::TO_SERVICE };
    Some(Decision { to: towards(backend, key), unresolved, ..Decision::one_way(key, half) })
}

/// The tunnel to a node: by its next hop, or through the kernel while that is not known.
pub(in crate::pipeline) fn way_to_node(
    node: &Addr,
    snapshot: &Snapshot,
) -> Option<(Action, Option<NextHop>)> {
    let remote = snapshot.remote_index(node)?;
    let (adjacency, unresolved) = match snapshot.resolve(node) {
        Egress::Uplink { adjacency } => (adjacency, None),
        Egress::Unresolved(hop) => (snapshot.host_adjacency()?, Some(hop)),
        _ => return None,
    };
    Some((Action::Tunnel { adjacency, remote }, unresolved))
}

/// Takes a flow that another node sent here. `service` is what its client asked for.
pub(super) fn decide(
    service: Option<BackendAddr>,
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Decision, Refusal> {
    let refused = Refusal::Drop(Drop::TunnelRefused);
    let Egress::Pod { port, .. } = snapshot.resolve(&key.dst) else { return Err(refused) };
    // Only the first packet of a TCP connection says what the client asked for.
    let service = service.filter(|service| is_service(service, key, snapshot)).ok_or(refused)?;
    let way = follow(&key.dst, facts.me, snapshot).ok_or(Refusal::Drop(Drop::NoRoute))?;
    let home = follow(&key.src, facts.me, snapshot).ok_or(Refusal::Drop(Drop::NoRoute))?;
    let forward = Half { action: way.action, out_port: way.out_port, flags: 0 };
    let half = Half {
        action: home.action,
        out_port: home.out_port,
        flags: flow_flags::REPLY | flow_flags::FROM_DSR,
    };
    Ok(Decision {
        from: FlowKey { dst: service.addr, dport: service.l4_port, ..*key },
        answers: Some(Answers { in_port: port, half }),
        unresolved: home.unresolved,
        ..Decision::one_way(key, forward)
    })
}

/// Nobody makes a pod answer from any address but those of services that it is a backend of,
/// NodePorts of other nodes included.
fn is_service(service: &BackendAddr, key: &FlowKey, snapshot: &Snapshot) -> bool {
    if service.addr.is_v4() != key.dst.is_v4() {
        return false;
    }
    let exact =
        FrontendKey { addr: service.addr, l4_port: service.l4_port, protocol: key.protocol };
    let on_all = FrontendKey { addr: Addr::unspecified(key.dst.is_v4()), ..exact };
    let node_port =
        || snapshot.frontend_at(&on_all).filter(|_| snapshot.is_node_addr(&service.addr));
    let Some(frontend) = snapshot.frontend(&exact).or_else(node_port) else { return false };
    let backend = BackendAddr { addr: key.dst, l4_port: key.dport };
    snapshot.sets_of(frontend).any(|set| set.get(&backend).is_some())
}
