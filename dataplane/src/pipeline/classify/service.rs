//! Destinations that are a service: choose a backend, and decide who translates.
//!
//! - A flow opened by a pod or the host is translated where the client is, both directions.
//! - A flow from outside belongs to its *director*, a pure function of its key, so that it is the
//!   same on whichever queue a packet arrives. The director chooses the backend; the backend pod's
//!   worker translates, and its answers leave straight from there.

use weir_packet::{Addr, FlowKey, Translation, protocol};
use weir_tables::{BackendAddr, Egress, Frontend, PortId, Snapshot, WorkerId};

use super::{Decision, Facts, Refusal, Reverse, Transform, answers_port, client_way, follow};
use crate::batch::Stage;
use crate::drops::Drop;
use crate::flow::{Action, flow_flags};
use crate::pipeline::gateway_addr;

/// Decides a flow to a frontend.
pub(super) fn decide(
    frontend: &Frontend,
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Decision, Refusal> {
    if !facts.is_whole {
        return Err(Refusal::Drop(Drop::FragmentUnsupported));
    }
    if facts.port != PortId::UPLINK {
        let backend = choose(frontend, key, snapshot)?;
        return translate(backend, key, facts, snapshot);
    }
    match facts.stage {
        Stage::Arrived if director(key, facts.workers) != facts.me => {
            Ok(pass(key, None, Action::Direct { worker: director(key, facts.workers) }))
        }
        Stage::Chosen { backend } => translate(backend, key, facts, snapshot),
        _ => {
            let backend = choose(frontend, key, snapshot)?;
            match snapshot.resolve(&backend.addr) {
                Egress::Pod { worker, .. } if worker != facts.me => {
                    Ok(pass(key, Some(backend), Action::Chosen { worker }))
                }
                _ => translate(backend, key, facts, snapshot),
            }
        }
    }
}

/// The answer to a packet for a service address where no service answers on its port.
pub(super) fn refuse_port(key: &FlowKey, facts: &Facts) -> Refusal {
    if protocol::has_ports(key.protocol) && !facts.is_whole {
        return Refusal::Drop(Drop::FragmentUnsupported);
    }
    match key.protocol {
        // The identifier, which stands for the source port, may be 0.
        protocol::ICMP | protocol::ICMPV6 if facts.is_whole && key.dport == 0 => Refusal::Echo,
        protocol::ICMP | protocol::ICMPV6 => Refusal::Drop(Drop::NoFrontend),
        _ => Refusal::Tell(Drop::NoFrontend),
    }
}

/// The worker that decides for a flow from outside: any worker computes the same.
pub fn director(key: &FlowKey, workers: u8) -> WorkerId {
    // Its own seed: the table's is secret and differs between restarts.
    const SEED: u64 = 0x6469_7265_6374_6f72;
    WorkerId((((key.hash(SEED) >> 32) * u64::from(workers)) >> 32) as u8)
}

fn choose(frontend: &Frontend, key: &FlowKey, snapshot: &Snapshot) -> Result<BackendAddr, Refusal> {
    let set = snapshot.backends_of(frontend, false).ok_or(Refusal::Tell(Drop::NoBackend))?;
    let backend = set.pick(key, frontend.affinity_s > 0).ok_or(Refusal::Tell(Drop::NoBackend))?;
    Ok(backend.addr)
}

/// A packet that another worker goes on with, untranslated.
fn pass(key: &FlowKey, backend: Option<BackendAddr>, action: Action) -> Decision {
    let translation = match backend {
        Some(backend) => Translation::new(key, None, Some((backend.addr, backend.l4_port))),
        None => Translation::NONE,
    };
    let flags = if backend.is_some() { flow_flags::TO_SERVICE } else { 0 };
    let forward = Transform { translation, action, out_port: 0, flags };
    Decision { forward, reverse: None, unresolved: None }
}

/// Both directions of a translated flow, here.
fn translate(
    backend: BackendAddr,
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Decision, Refusal> {
    check_reachable(&backend, facts, snapshot)?;
    let new_src = hairpin_source(&backend, key);
    let new_dst = Some((backend.addr, backend.l4_port));
    let translation = Translation::new(key, new_src, new_dst);
    let way = follow(&backend.addr, facts.me, snapshot).ok_or(Refusal::Tell(Drop::NoRoute))?;
    let forward = Transform {
        translation,
        action: way.action,
        out_port: way.out_port,
        flags: flow_flags::TO_SERVICE,
    };
    let home = client_way(key, facts, snapshot).ok_or(Refusal::Drop(Drop::NoRoute))?;
    let reverse = Reverse {
        key: translation.key_after(key).reversed(),
        in_port: answers_port(&backend.addr, snapshot),
        transform: Transform {
            translation: translation.for_replies(key),
            action: home.action,
            out_port: home.out_port,
            flags: flow_flags::FROM_SERVICE | flow_flags::REPLY,
        },
    };
    let unresolved = way.unresolved.or(home.unresolved);
    Ok(Decision { forward, reverse: Some(reverse), unresolved })
}

/// A backend whose answers would not come by here needs its client translated, too.
fn check_reachable(
    backend: &BackendAddr,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<(), Refusal> {
    let is_local_pod = match snapshot.resolve(&backend.addr) {
        Egress::Pod { .. } => true,
        Egress::NoRoute => return Err(Refusal::Tell(Drop::NoRoute)),
        _ => false,
    };
    if is_local_pod || super::port_is_pod(facts.port) {
        return Ok(());
    }
    Err(Refusal::Tell(Drop::NeedsSnat))
}

/// A pod that reaches itself through a service must not see its own address as the client: its
/// kernel would drop it. The gateway speaks for it.
fn hairpin_source(backend: &BackendAddr, key: &FlowKey) -> Option<(Addr, u16)> {
    if backend.addr != key.src {
        return None;
    }
    Some((gateway_addr(key.src.is_v4()), key.sport))
}
