//! The endpoints behind one port of a service, in one address family, and which of them to use.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use weir_api::convert::address_bytes;
use weir_api::v1::{Backend, BackendState};

use super::{Inputs, Nodes};
use crate::model::{
    ContainerPort, Family, Hints, Pod, Proximity, ServicePort, SlicePort, TargetPort,
    WEIGHT_DEFAULT, backend_state,
};

/// Something that a service's packets can be sent to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub state: BackendState,
    pub weight: u32,
    pub node: Option<&'a str>,
    zone: Option<&'a str>,
    hints: &'a Hints,
}

/// By address and port. Two mentions of one backend are one, in the better state.
pub(super) type Candidates<'a> = BTreeMap<SocketAddr, Candidate<'a>>;

const NO_HINTS: &Hints = &Hints { zones: Vec::new(), nodes: Vec::new() };

/// All endpoints of one port in one family.
pub(super) fn collect<'a>(
    inputs: &Inputs<'a>,
    port: &ServicePort,
    family: Family,
) -> Candidates<'a> {
    match inputs.slices.is_empty() {
        false => collect_from_slices(inputs, port, family),
        true => collect_from_pods(inputs, port, family),
    }
}

fn collect_from_slices<'a>(
    inputs: &Inputs<'a>,
    port: &ServicePort,
    family: Family,
) -> Candidates<'a> {
    let mut candidates = Candidates::new();
    for slice in &inputs.slices {
        for slice_port in slice.ports.iter().filter(|it| is_same_port(it, port)) {
            let of_family = |it: &&crate::model::SliceEndpoint| Family::of(it.address) == family;
            for endpoint in slice.endpoints.iter().filter(of_family) {
                let address = SocketAddr::new(endpoint.address, slice_port.l4_port);
                let node = endpoint.node.as_deref();
                let zone = endpoint.zone.as_deref().or_else(|| inputs.nodes.zone_of(node));
                let (state, weight, hints) = (endpoint.state, slice.weight, &endpoint.hints);
                let candidate = Candidate { state, weight, node, zone, hints };
                add_candidate(&mut candidates, address, candidate);
            }
        }
    }
    candidates
}

fn collect_from_pods<'a>(
    inputs: &Inputs<'a>,
    port: &ServicePort,
    family: Family,
) -> Candidates<'a> {
    let mut candidates = Candidates::new();
    for &super::PodInput { pod, node } in &inputs.pods {
        let Some(l4_port) = find_target(pod, port) else { continue };
        // As the endpoint controller writes them: a terminating pod is serving while it is ready.
        let is_ready = inputs.service.publish_not_ready || (pod.is_ready && !pod.is_terminating);
        let state = backend_state(is_ready, pod.is_ready, pod.is_terminating);
        if let Some(address) = pod.addresses.iter().find(|it| Family::of(**it) == family) {
            let zone = inputs.nodes.zone_of(node);
            let (weight, hints) = (WEIGHT_DEFAULT, NO_HINTS);
            let candidate = Candidate { state, weight, node, zone, hints };
            add_candidate(&mut candidates, SocketAddr::new(*address, l4_port), candidate);
        }
    }
    candidates
}

fn add_candidate<'a>(
    candidates: &mut Candidates<'a>,
    address: SocketAddr,
    candidate: Candidate<'a>,
) {
    let known = candidates.entry(address).or_insert(candidate);
    // The states are ordered from active to maintenance.
    if candidate.state < known.state {
        *known = candidate;
    }
}

/// All endpoints. Those that are ready and not preferred here take no new flows, but they keep
/// the flows that they have: a change of hints or zones breaks no connection.
pub(super) fn write_all(
    candidates: &Candidates<'_>,
    proximity: Option<Proximity>,
    nodes: Nodes<'_>,
) -> Vec<Backend> {
    let preference = find_preference(candidates, proximity, nodes);
    let write = |(address, candidate): (&SocketAddr, &Candidate<'_>)| {
        let is_left_out = candidate.state == BackendState::Active
            && preference.is_some_and(|it| !it.includes(candidate, nodes));
        let state = if is_left_out { BackendState::Maintenance } else { candidate.state };
        write_backend(*address, candidate, state, nodes)
    };
    candidates.iter().map(write).collect()
}

/// The endpoints on this node, whatever their hints.
pub(super) fn write_local(candidates: &Candidates<'_>, nodes: Nodes<'_>) -> Vec<Backend> {
    let local = candidates.iter().filter(|(_, it)| nodes.is_own(it.node));
    local.map(|(address, it)| write_backend(*address, it, it.state, nodes)).collect()
}

fn write_backend(
    address: SocketAddr,
    candidate: &Candidate<'_>,
    state: BackendState,
    nodes: Nodes<'_>,
) -> Backend {
    Backend {
        address: address_bytes(address.ip()),
        l4_port: u32::from(address.port()),
        state: state.into(),
        weight: candidate.weight,
        node_address: nodes.address_of(candidate.node, Family::of(address.ip())),
    }
}

/// Which ready endpoints take new flows.
#[derive(Debug, Clone, Copy)]
enum Preference {
    HintedForNode,
    HintedForZone,
    OnNode,
    InZone,
}

impl Preference {
    fn includes(self, candidate: &Candidate<'_>, nodes: Nodes<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|it| it == wanted);
        match self {
            Self::HintedForNode => has(&candidate.hints.nodes, &nodes.settings.name),
            Self::OnNode => nodes.is_own(candidate.node),
            Self::HintedForZone => {
                nodes.own_zone().is_some_and(|it| has(&candidate.hints.zones, it))
            }
            Self::InZone => nodes.own_zone().is_some() && candidate.zone == nodes.own_zone(),
        }
    }
}

/// Hints decide as in kube-proxy (KEP-2433, KEP-3015, `topologyModeFromHints`): they are used
/// wherever all ready endpoints have them and one of them is for this node or its zone; the
/// control plane sets them only where `trafficDistribution` or the topology-mode annotation asks.
///
/// Manifests without a control plane have no hints. There, and only where no ready endpoint has
/// any, `trafficDistribution` is decided here, from the endpoints' nodes and zones.
fn find_preference(
    candidates: &Candidates<'_>,
    proximity: Option<Proximity>,
    nodes: Nodes<'_>,
) -> Option<Preference> {
    let ready = || candidates.values().filter(|it| it.state == BackendState::Active);
    let reaches = |preference: Preference| ready().any(|it| preference.includes(it, nodes));
    if ready().all(|it| !it.hints.nodes.is_empty()) && reaches(Preference::HintedForNode) {
        return Some(Preference::HintedForNode);
    }
    if ready().all(|it| !it.hints.zones.is_empty()) && reaches(Preference::HintedForZone) {
        return Some(Preference::HintedForZone);
    }
    if ready().any(|it| *it.hints != *NO_HINTS) {
        return None;
    }
    let wanted: &[Preference] = match proximity? {
        Proximity::SameNode => &[Preference::OnNode, Preference::InZone],
        Proximity::SameZone => &[Preference::InZone],
    };
    wanted.iter().copied().find(|it| reaches(*it))
}

/// Whether the choice of endpoints follows from where this node is.
pub(super) fn depends_on_zone(inputs: &Inputs<'_>) -> bool {
    let mut endpoints = inputs.slices.iter().flat_map(|it| &it.endpoints);
    inputs.service.policy.proximity.is_some() || endpoints.any(|it| !it.hints.zones.is_empty())
}

pub(super) fn is_same_port(slice_port: &SlicePort, port: &ServicePort) -> bool {
    slice_port.name == port.name && slice_port.protocol == port.protocol
}

pub(super) fn find_target(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let is_target = |it: &&ContainerPort| it.name == *name && it.protocol == port.protocol;
            pod.ports.iter().find(is_target).map(|it| it.l4_port)
        }
    }
}
