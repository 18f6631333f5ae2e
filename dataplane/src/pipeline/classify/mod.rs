//! Third stage: what to do with the first packet of a flow.
//!
//! [`classify`] is a pure function of the flow's key, the facts of its first packet and the
//! snapshot. It sees no packet memory and no table, so that it can be held against a naive model,
//! and explained.
//!
//! In order: may the sender send this ([`check_source`])? Is the destination a service
//! ([`service::decide`])? Else, where is it ([`route::decide`])?

use weir_packet::{Addr, FlowKey, Translation};
use weir_tables::{Egress, FrontendKey, NextHop, PortId, Snapshot, WorkerId};

use crate::batch::Stage;
use crate::drops::Drop;
use crate::flow::Action;

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
    /// Whole, with ports: only such packets are given to a service.
    pub is_whole: bool,
}

/// The worker that the host's traffic to services comes in by.
pub const HOST_WORKER: WorkerId = WorkerId(0);

/// What to do with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// For packets of the key.
    pub forward: Transform,
    /// For the answers, where this worker will see them.
    pub reverse: Option<Reverse>,
    /// A next hop on the way of either direction that the kernel must resolve first.
    pub unresolved: Option<NextHop>,
}

/// What to do with packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform {
    pub translation: Translation,
    pub action: Action,
    /// The pod's port it leads to, or 0.
    pub out_port: u32,
    /// Bits of `flow_flags`.
    pub flags: u16,
}

/// The answering direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reverse {
    pub key: FlowKey,
    /// Where answers come in.
    pub in_port: PortId,
    pub transform: Transform,
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
    check_source(key, facts, snapshot)?;
    // What is delivered here has been translated already.
    if facts.stage != Stage::Deliver
        && let Some(frontend) = snapshot.frontend(&FrontendKey::of_destination(key))
    {
        return service::decide(frontend, key, facts, snapshot);
    }
    if snapshot.is_service_addr(&key.dst) && !is_pod_or_host(&key.dst, snapshot) {
        return Err(service::refuse_port(key, facts));
    }
    route::decide(key, facts, snapshot)
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

/// A pod sends only from its own addresses; nobody outside sends from a pod's.
fn check_source(key: &FlowKey, facts: &Facts, snapshot: &Snapshot) -> Result<(), Refusal> {
    if facts.stage != Stage::Arrived {
        return Ok(());
    }
    match facts.port {
        PortId::HOST => Ok(()),
        PortId::UPLINK => match snapshot.resolve(&key.src) {
            Egress::Pod { .. } | Egress::Host { .. } => Err(Refusal::Drop(Drop::SourceSpoofed)),
            _ => Ok(()),
        },
        port => match snapshot.endpoint_at(port) {
            None => Err(Refusal::Drop(Drop::NoEndpoint)),
            Some(pod) if pod.addresses.contains(&key.src) => Ok(()),
            Some(_) => Err(Refusal::Drop(Drop::SourceSpoofed)),
        },
    }
}

fn is_pod_or_host(addr: &Addr, snapshot: &Snapshot) -> bool {
    matches!(snapshot.resolve(addr), Egress::Pod { .. } | Egress::Host { .. })
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
