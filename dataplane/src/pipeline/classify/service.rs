//! Destinations that are a service: choose a backend, and decide who translates.
//!
//! - A flow opened by a pod or the host is translated where the client is, both directions.
//! - A flow from outside belongs to its *director*, a pure function of its key, so that it is the
//!   same on whichever queue a packet arrives. The director chooses the backend. For a pod of this
//!   node the pod's worker translates, and its answers leave straight from there; for another node
//!   the director translates the source, too, or sends the packet on in a tunnel (DSR).

use weir_packet::{Addr, FlowKey, protocol};
use weir_tables::{
    BackendAddr, DsrDispatch, Egress, Forwarding, Frontend, FrontendType, PortId, Snapshot,
    WorkerId,
};

use super::{
    Answers, Decision, Facts, Half, Pin, Refusal, SourcePort, answers_port, client_way, dsr,
    follow, port_is_pod,
};
use crate::batch::Stage;
use crate::drops::Drop;
use crate::flow::{Action, flow_flags};
use crate::pipeline::{hairpin_addr, host_peer_addr, host_port_addr};

/// Decides a flow to a frontend.
pub(super) fn decide(
    frontend: &Frontend,
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Decision, Refusal> {
    if !facts.is_whole {
        return Err(Refusal::Drop(Drop::FragmentUnmatched));
    }
    let is_from_uplink = facts.port == PortId::UPLINK;
    let director = director(key, frontend.affinity_s > 0, facts.workers);
    if let Stage::Chosen { backend } = facts.stage {
        let mut decision = translate(backend, key, facts, snapshot)?;
        decision.director = (director != facts.me).then_some(director);
        let may_be_tunnelled =
            frontend.forwarding == Forwarding::Dsr && snapshot.dsr_dispatch() == DsrDispatch::Ipip;
        if let Some(answers) = &mut decision.answers
            && may_be_tunnelled
        {
            answers.half.flags |= flow_flags::FROM_DSR;
        }
        return Ok(decision);
    }
    if is_from_uplink && facts.stage.is_first_hand() && director != facts.me {
        let half = Half::plain(Action::Direct { worker: director });
        return Ok(Decision::one_way(key, half));
    }
    // Of pods and nodes too, as Kubernetes' own proxy and tests have it.
    if !frontend.source_ranges.allow(&key.src) {
        return Err(Refusal::Drop(Drop::SourceRange));
    }
    let is_outside = is_from_uplink && !snapshot.is_in_cluster(&key.src);
    // Who picks another node's NodePort, from inside the cluster too, gets that node's policy
    // (Kubernetes' description of externalTrafficPolicy); other addresses are everywhere.
    let is_node_port = frontend.kind == FrontendType::NodePort;
    let is_outside = is_outside || is_from_uplink && is_node_port;
    let backend = choose(frontend, is_outside, key, facts, snapshot)?;
    let decision = match snapshot.resolve(&backend.addr) {
        Egress::Pod { worker, .. } if is_from_uplink && worker != facts.me => {
            let action = Action::Chosen { worker };
            let half = Half { action, out_port: 0, flags: flow_flags::TO_SERVICE };
            Decision { to: towards(&backend, key), ..Decision::one_way(key, half) }
        }
        Egress::Uplink { .. } | Egress::Unresolved(_)
            if is_from_uplink && frontend.forwarding == Forwarding::Dsr =>
        {
            match dsr::send(&backend, frontend, is_outside, key, snapshot) {
                Some(decision) => decision,
                None => translate(backend, key, facts, snapshot)?,
            }
        }
        _ => translate(backend, key, facts, snapshot)?,
    };
    let pin = Pin { backend, timeout_ms: frontend.affinity_s.saturating_mul(1000) };
    Ok(Decision { pin: (frontend.affinity_s > 0).then_some(pin), ..decision })
}

/// The answer to a packet for a service address where no service answers on its port.
pub(super) fn refuse_port(key: &FlowKey, facts: &Facts) -> Refusal {
    if protocol::has_ports(key.protocol) && !facts.is_whole {
        return Refusal::Drop(Drop::FragmentUnmatched);
    }
    match key.protocol {
        // The identifier, which stands for the source port, may be 0.
        protocol::ICMP | protocol::ICMPV6 if facts.is_whole && key.dport == 0 => Refusal::Echo,
        protocol::ICMP | protocol::ICMPV6 => Refusal::Drop(Drop::NoFrontend),
        _ => Refusal::Tell(Drop::NoFrontend),
    }
}

/// The worker that decides for a flow from outside: any worker computes the same. With affinity
/// all flows of a client have one director, which remembers the choice.
pub fn director(key: &FlowKey, has_affinity: bool, workers: u8) -> WorkerId {
    // Its own seed: the table's is secret and differs between restarts.
    const SEED: u64 = 0x6469_7265_6374_6f72;
    let key = if has_affinity { FlowKey { sport: 0, ..*key } } else { *key };
    WorkerId((((key.hash(SEED) >> 32) * u64::from(workers)) >> 32) as u8)
}

/// The backend of a new flow: the one that the client is bound to, as long as it takes flows, else
/// the one of the frontend's algorithm.
fn choose(
    frontend: &Frontend,
    is_outside: bool,
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<BackendAddr, Refusal> {
    let nobody = || match &frontend.external_backend_set {
        // The balancer in front finds out by the health check; a reset would end connections that
        // it is moving (kube-proxy drops as well).
        Some(_) if is_outside => Refusal::Drop(Drop::NoLocalBackend),
        _ => Refusal::Tell(Drop::NoBackend),
    };
    let set = snapshot.backends_of(frontend, is_outside).ok_or_else(nobody)?;
    if let Stage::Informed { backend } = facts.stage
        && set.get(&backend).is_some()
    {
        return Ok(backend);
    }
    if let Some(pinned) = facts.pinned
        && frontend.affinity_s > 0
        && set.takes_flows(&pinned)
    {
        return Ok(pinned);
    }
    // A client outside may come in at another node next, which must choose the same. One inside
    // asks the worker that remembers, and is free after the timeout, as with kube-proxy.
    let is_stranger = facts.port == PortId::UPLINK && !snapshot.is_in_cluster(&key.src);
    let by_client = frontend.affinity_s > 0 && is_stranger;
    let backend = set.pick(key, by_client).ok_or_else(nobody)?;
    let is_of_family = backend.addr.addr.is_v4() == key.dst.is_v4();
    is_of_family.then_some(backend.addr).ok_or_else(nobody)
}

/// The key of a flow to a backend.
pub(super) fn towards(backend: &BackendAddr, key: &FlowKey) -> FlowKey {
    FlowKey { dst: backend.addr, dport: backend.l4_port, ..*key }
}

/// Both directions of a translated flow, here.
fn translate(
    backend: BackendAddr,
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Decision, Refusal> {
    let way = follow(&backend.addr, facts.me, snapshot).ok_or(Refusal::Tell(Drop::NoRoute))?;
    let mut to = towards(&backend, key);
    let mut flags = flow_flags::TO_SERVICE;
    let mut source_port = SourcePort::Own;
    match new_source(&backend, key, facts, snapshot)? {
        Source::Client => {}
        Source::Hairpin => to.src = hairpin_addr(key.src.is_v4()),
        Source::HostPort => to.src = host_port_addr(key.src.is_v4()),
        Source::Node(addr) => {
            to.src = addr;
            source_port = SourcePort::Allocated;
            flags |= flow_flags::SNAT;
        }
    }
    let home = client_way(key, facts, snapshot).ok_or(Refusal::Drop(Drop::NoRoute))?;
    let half = Half {
        action: home.action,
        out_port: home.out_port,
        flags: flow_flags::FROM_SERVICE | flow_flags::REPLY,
    };
    let answers = Answers { in_port: answers_port(&backend.addr, snapshot), half };
    let forward = Half { action: way.action, out_port: way.out_port, flags };
    Ok(Decision {
        to,
        source_port,
        answers: Some(answers),
        unresolved: way.unresolved.or(home.unresolved),
        ..Decision::one_way(key, forward)
    })
}

/// Whom the backend sees.
enum Source {
    Client,
    /// For a pod that reaches itself: its kernel would drop what comes from itself.
    Hairpin,
    /// For a socket of the host that is bound to loopback: another machine cannot answer that.
    HostPort,
    /// An address of the node that leads answers back here.
    Node(Addr),
}

/// The client's address stays wherever its answers come by here anyway.
fn new_source(
    backend: &BackendAddr,
    key: &FlowKey,
    facts: &Facts,
    snapshot: &Snapshot,
) -> Result<Source, Refusal> {
    let is_v4 = key.src.is_v4();
    let is_pod = port_is_pod(facts.port);
    match snapshot.resolve(&backend.addr) {
        Egress::Pod { .. } if backend.addr == key.src => Ok(Source::Hairpin),
        Egress::Pod { .. } if key.src.is_loopback() => Ok(Source::HostPort),
        Egress::Pod { .. } => Ok(Source::Client),
        // The kernel answers a pod through its veth; anybody else would be answered straight, and
        // untranslated.
        Egress::Host { .. } | Egress::Kernel if is_pod => Ok(Source::Client),
        Egress::Host { .. } | Egress::Kernel => Ok(Source::Node(host_peer_addr(is_v4))),
        Egress::Uplink { .. } | Egress::Unresolved(_) => {
            if is_pod && !snapshot.is_masqueraded(&backend.addr) {
                return Ok(Source::Client);
            }
            let addr = snapshot.snat_addr(is_v4).ok_or(Refusal::Tell(Drop::NeedsSnat))?;
            Ok(Source::Node(addr))
        }
        Egress::NoRoute => Err(Refusal::Tell(Drop::NoRoute)),
    }
}
