//! Third stage: what to do with the first packet of a flow.
//!
//! [`classify`] is a pure function of the flow's key, the facts of its first packet and the
//! snapshot. It sees no packet memory and no table, so that it can be held against a naive model,
//! and explained.
//!
//! In order: may the sender send this ([`check_loopback`], [`check_source`])? Is the destination a
//! service ([`service::decide`])? A port of the node that source translation uses
//! ([`snat_owner`])? Else, where is it ([`route::decide`])?

use weir_packet::{Addr, FlowKey, protocol};
use weir_tables::{BackendAddr, Egress, FrontendKey, NextHop, PortId, Snapshot, WorkerId};

use super::host_peer_addr;

use crate::batch::Stage;
use crate::drops::Drop;
use crate::flow::Action;

pub(super) mod dsr;
mod route;
mod service;

/// What is known of a first packet besides its key.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Where it came in.
    pub port: PortId,
    pub stage: Stage,
    /// The worker that asks.
    pub me: WorkerId,
    pub workers: u8,
    /// With ports: only such packets are given to a service.
    pub is_whole: bool,
    /// Not a TCP segment of a connection that is there already.
    pub is_opening: bool,
    /// Who sent it. The key of an ICMP error is that of the flow which it quotes, and its sender a
    /// router of the way.
    pub sender: Addr,
    /// The backend that the client is bound to by session affinity.
    pub pinned: Option<BackendAddr>,
}

/// The worker that the host's traffic to services comes in by.
pub const HOST_WORKER: WorkerId = WorkerId(0);

/// What to do with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The flow's key as its client has it; differs from the packet's where another node has
    /// translated it already.
    pub from: FlowKey,
    /// The flow's key after translation. Its source port is the client's.
    pub to: FlowKey,
    pub source_port: SourcePort,
    /// For packets of the key.
    pub forward: Half,
    /// For the answers, where this worker will see them.
    pub answers: Option<Answers>,
    /// A next hop on the way of either direction that the kernel must resolve first.
    pub unresolved: Option<NextHop>,
    /// The other worker that directs the flow.
    pub director: Option<WorkerId>,
    /// The choice is remembered for the client.
    pub pin: Option<Pin>,
    /// The next packet is decided as cheaply: none is remembered.
    pub is_stateless: bool,
}

/// Which source port the flow has after translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// The client's own, unless another flow has the same answers.
    Own,
    /// One of the worker's block, so that answers find the worker.
    Allocated,
}

/// What happens to packets of one direction after translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub action: Action,
    /// The pod's port it leads to, or 0.
    pub out_port: u32,
    /// Bits of `flow_flags`.
    pub flags: u16,
}

/// The answering direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Where answers come in.
    pub in_port: PortId,
    pub half: Half,
}

/// A client's bond to a backend by session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    pub backend: BackendAddr,
    /// How long it lasts beyond its last use.
    pub timeout_ms: u32,
}

impl Decision {
    /// Goes on as it is, with no answers seen here.
    fn one_way(key: &FlowKey, half: Half) -> Decision {
        Decision {
            from: *key,
            to: *key,
            source_port: SourcePort::Own,
            forward: half,
            answers: None,
            unresolved: None,
            director: None,
            pin: None,
            is_stateless: false,
        }
    }
}

impl Half {
    fn plain(action: Action) -> Half {
        Half { action, out_port: 0, flags: 0 }
    }
}

/// Why there is no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Ends here, silently.
    Drop(Drop),
    /// Ends here, and the sender is told.
    Tell(Drop),
    /// The kernel's business.
    Punt,
    /// A ping of a service address, which weir answers.
    Echo,
}

/// Decides a flow.
pub fn classify(key: &FlowKey, facts: &Facts, snapshot: &Snapshot) -> Result<Decision, Refusal> {
    check_loopback(key, facts, snapshot)?;
    check_source(facts.port, facts.stage, &facts.sender, snapshot)?;
    if let Stage::Tunnelled { service } = facts.stage {
        return dsr::decide(service, key, facts, snapshot);
    }
    // What is delivered here has been translated already.
    if facts.stage != Stage::Deliver
        && let Some(frontend) = snapshot.frontend(&FrontendKey::of_destination(key))
    {
        return service::decide(frontend, key, facts, snapshot);
    }
    if snapshot.is_service_addr(&key.dst) && !is_somebodys(&key.dst, snapshot) {
        return Err(service::refuse_port(key, facts));
    }
    if facts.stage.is_first_hand()
        && let Some(owner) = snat_owner(key, facts, snapshot)
        && owner != facts.me
    {
        let half = Half::plain(Action::Direct { worker: owner });
        return Ok(Decision { is_stateless: true, ..Decision::one_way(key, half) });
    }
    route::decide(key, facts, snapshot)
}

/// The worker in whose block of ports an answer to the node is, if in any.
fn snat_owner(key: &FlowKey, facts: &Facts, snapshot: &Snapshot) -> Option<WorkerId> {
    let has_port = protocol::has_ports(key.protocol)
        || matches!(key.protocol, protocol::ICMP | protocol::ICMPV6);
    let is_ours = match facts.port {
        PortId::UPLINK => snapshot.is_host_addr(&key.dst),
        PortId::HOST => key.dst == host_peer_addr(key.dst.is_v4()),
        _ => false,
    };
    let is_answer = facts.is_whole && has_port && is_ours;
    is_answer.then(|| snapshot.snat_ports().owner(key.dport, facts.workers))?
}

/// Whether a port is a pod's, rather than an uplink or the host.
#[inline]
pub fn port_is_pod(port: PortId) -> bool {
    port != PortId::UPLINK && port != PortId::HOST
}

/// How a packet goes on towards an address, from this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub action: Action,
    pub out_port: u32,
    pub unresolved: Option<NextHop>,
}

/// The way to `dst`; `None` where there is none. A pod of another worker is reached through that
/// worker, which owns the pod's half of the flow. The host's port is reached from any worker.
pub fn follow(dst: &Addr, me: WorkerId, snapshot: &Snapshot) -> Option<Way> {
    let plain = |action| Way { action, out_port: 0, unresolved: None };
    let to_kernel = |unresolved| {
        let adjacency = snapshot.host_adjacency()?;
        Some(Way { action: Action::ToKernel { adjacency }, out_port: 0, unresolved })
    };
    match snapshot.resolve(dst) {
        Egress::Pod { port, worker, adjacency } => {
            let here = Action::Transmit { adjacency };
            let action = if worker == me { here } else { Action::Deliver { worker } };
            Some(Way { action, out_port: port.0, unresolved: None })
        }
        Egress::Host { adjacency } | Egress::Uplink { adjacency } => {
            Some(plain(Action::Transmit { adjacency }))
        }
        Egress::Unresolved(hop) => to_kernel(Some(hop)),
        Egress::Kernel => to_kernel(None),
        Egress::NoRoute => None,
    }
}

/// Loopback is the node's alone. The kernel takes it from `weir0`, for the sake of the answers of
/// hostPorts: whatever else had such an address would reach what listens there for the node only.
fn check_loopback(key: &FlowKey, facts: &Facts, snapshot: &Snapshot) -> Result<(), Refusal> {
    let is_from = key.src.is_loopback() || facts.sender.is_loopback();
    let is_to = key.dst.is_loopback();
    if !is_from && !is_to {
        return Ok(());
    }
    if !is_to || facts.port != PortId::HOST {
        return Err(Refusal::Drop(Drop::Loopback));
    }
    // Otherwise the hostPort is gone, and its rule not yet; or its number is the client's port of a
    // connection between two of the host's own sockets.
    match snapshot.frontend(&FrontendKey::of_destination(key)) {
        Some(_) if facts.is_opening => Ok(()),
        _ => Err(Refusal::Punt),
    }
}

/// A pod sends only from its own addresses; nobody outside sends from a pod's.
pub(super) fn check_source(
    port: PortId,
    stage: Stage,
    sender: &Addr,
    snapshot: &Snapshot,
) -> Result<(), Refusal> {
    if !stage.is_first_hand() {
        return Ok(());
    }
    match port {
        PortId::HOST => Ok(()),
        PortId::UPLINK => match snapshot.resolve(sender) {
            Egress::Pod { .. } | Egress::Host { .. } => Err(Refusal::Drop(Drop::SourceSpoofed)),
            // Also while there is no way to the host.
            _ if snapshot.is_host_addr(sender) => Err(Refusal::Drop(Drop::SourceSpoofed)),
            _ => Ok(()),
        },
        port => match snapshot.endpoint_at(port) {
            None => Err(Refusal::Drop(Drop::NoEndpoint)),
            Some(pod) if pod.addresses.contains(sender) => Ok(()),
            Some(_) => Err(Refusal::Drop(Drop::SourceSpoofed)),
        },
    }
}

/// Whether an address that services have is of a pod or a node, too: its other ports are theirs.
fn is_somebodys(addr: &Addr, snapshot: &Snapshot) -> bool {
    let is_here = matches!(snapshot.resolve(addr), Egress::Pod { .. } | Egress::Host { .. });
    is_here || snapshot.is_node_addr(addr)
}

/// The worker through which answers to a client go home: the one that opened the flow for it.
fn client_way(key: &FlowKey, facts: &Facts, snapshot: &Snapshot) -> Option<Way> {
    let way = follow(&key.src, facts.me, snapshot)?;
    // The host's port can be reached from any worker, but only one translates for it.
    let for_host = facts.port == PortId::HOST && facts.stage == Stage::Deliver;
    match way.action {
        Action::Transmit { .. } if for_host && facts.me != HOST_WORKER => {
            Some(Way { action: Action::Deliver { worker: HOST_WORKER }, ..way })
        }
        _ => Some(way),
    }
}

/// Where the answers of a destination come in.
fn answers_port(dst: &Addr, snapshot: &Snapshot) -> PortId {
    match snapshot.resolve(dst) {
        Egress::Pod { port, .. } => port,
        // What only the kernel reaches comes back by its route into the pod's veth.
        Egress::Host { .. } | Egress::Kernel => PortId::HOST,
        _ => PortId::UPLINK,
    }
}

#[cfg(test)]
mod tests;
