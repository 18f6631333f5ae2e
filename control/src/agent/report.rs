//! What the agent tells about itself: status, services, endpoints, metrics.

use std::collections::BTreeMap;

use weir_api::convert::{parse_address, parse_l4_port, parse_prefix};
use weir_api::metrics::{self, Page};
use weir_api::v1::{
    AgentStatus, Algorithm, Backend, BackendSet, BackendState, Bandwidth, EndpointState,
    Forwarding, Frontend, FrontendType, Prefix, ServiceBackend, ServiceState, object,
};

use super::core::Core;
use crate::desired::DesiredKey;
use crate::endpoints::AttachedEndpoint;
use crate::model::{Kind, Name, Problem, Severity};

impl Core {
    /// Everything that is wrong at present: in the manifests, between objects, and refused by the
    /// dataplane.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = self.source_problems.clone();
        problems.extend(self.desired.problems());
        problems.extend(self.health.problems(&self.desired));
        problems.extend(self.publisher.refused().iter().map(|(key, reason)| Problem {
            location: None,
            object: self.desired.describe(key),
            reason: format!("by the dataplane: {reason}"),
            severity: Severity::Refused,
        }));
        problems
    }

    pub(super) fn status(&self) -> AgentStatus {
        let counts = self.count_desired();
        let count = |kind| counts.get(kind).copied().unwrap_or(0);
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            node: self.desired.settings().name.clone(),
            synced: self.is_synced,
            dataplane_connected: self.publisher.is_connected(),
            sent_revision: self.publisher.sent_revision(),
            acknowledged_revision: self.publisher.acknowledged_revision(),
            services: u32::try_from(self.desired.count(Kind::Service)).unwrap_or(u32::MAX),
            backends: count("backend"),
            endpoints: count("endpoint"),
            problems: self.problems().iter().map(Into::into).collect(),
            policies: u32::try_from(self.count_policies()).unwrap_or(u32::MAX),
            link_reason: self.link_reason.clone(),
            source: self.source.as_ref().map(|it| it.name.clone()).unwrap_or_default(),
            source_state: self.source_state(),
        }
    }

    /// Network policies of all kinds.
    pub(super) fn count_policies(&self) -> usize {
        let kinds = [
            Kind::NetworkPolicy,
            Kind::CiliumNetworkPolicy,
            Kind::CiliumClusterwideNetworkPolicy,
            Kind::ClusterNetworkPolicy,
        ];
        kinds.into_iter().map(|kind| self.desired.count(kind)).sum()
    }

    pub(super) fn services(&self) -> Vec<ServiceState> {
        self.desired.frontends().map(|it| self.describe_frontend(it)).collect()
    }

    pub(super) fn endpoint_states(&self) -> Vec<EndpointState> {
        let describe = |it: &AttachedEndpoint| {
            let refused = self.publisher.refused().get(&DesiredKey::Endpoint(it.name.clone()));
            let state = match (self.endpoints.check_identity(it), refused) {
                (Err(reason), _) => reason,
                (Ok(()), Some(reason)) => format!("refused by the dataplane: {reason}"),
                (Ok(()), None) if !self.publisher.is_connected() => {
                    format!("the dataplane is not connected: {}", self.link_reason)
                }
                (Ok(()), None) => "ready".into(),
            };
            EndpointState {
                name: it.name.clone(),
                interface: it.interface.clone(),
                ifindex: it.ifindex,
                mac: it.mac.clone(),
                addresses: it.addresses.iter().map(ToString::to_string).collect(),
                state,
                created: self.find_creation(&it.name),
                bandwidth: self.find_bandwidth(&it.name),
            }
        };
        self.endpoints.iter().map(describe).collect()
    }

    fn find_creation(&self, name: &str) -> String {
        let pod = Name::parse(name).and_then(|name| self.desired.pod(&name));
        pod.and_then(|it| it.created.clone()).unwrap_or_default()
    }

    fn find_bandwidth(&self, name: &str) -> Option<Bandwidth> {
        let object = self.desired.objects().get(&DesiredKey::Endpoint(name.to_owned()))?;
        match &object.kind {
            Some(object::Kind::Endpoint(endpoint)) => endpoint.bandwidth,
            _ => None,
        }
    }

    fn source_state(&self) -> String {
        self.source.as_ref().map(|it| it.state.borrow().clone()).unwrap_or_default()
    }

    /// Why a caller that waits for the dataplane still waits.
    pub(super) fn explain_wait(&self) -> String {
        if !self.is_synced {
            return match self.source_state() {
                state if state.is_empty() => "the manifests have not been read yet".into(),
                state => format!("the cluster has not been read yet: {state}"),
            };
        }
        if !self.publisher.is_connected() {
            return format!("the dataplane is not connected: {}", self.link_reason);
        }
        let (sent, acknowledged) =
            (self.publisher.sent_revision(), self.publisher.acknowledged_revision());
        format!("the dataplane has not acknowledged revision {sent} (last: {acknowledged})")
    }

    pub(super) fn fill_metrics(&self, page: &mut Page) {
        page.add(&metrics::BUILD_INFO, &["weir-agent", env!("CARGO_PKG_VERSION")], 1);
        page.add_float(&metrics::UPTIME, &[], self.clock.elapsed().as_secs_f64());
        for kind in Kind::ALL {
            let count = self.desired.count(kind) as u64;
            page.add(&metrics::AGENT_OBJECTS, &[kind.as_str()], count);
        }
        for (kind, count) in self.count_desired() {
            page.add(&metrics::AGENT_DESIRED_OBJECTS, &[kind], u64::from(count));
        }
        let problems = self.problems();
        for severity in [Severity::Refused, Severity::Ignored] {
            let count = problems.iter().filter(|it| it.severity == severity).count();
            page.add(&metrics::AGENT_PROBLEMS, &[severity.as_str()], count as u64);
        }
        let is_connected = u64::from(self.publisher.is_connected());
        page.add(&metrics::AGENT_SOURCE_SYNCED, &[], u64::from(self.is_synced));
        page.add(&metrics::AGENT_SOURCE_EVENTS, &[], self.counters.source_events);
        page.add(&metrics::AGENT_DATAPLANE_CONNECTED, &[], is_connected);
        page.add(&metrics::AGENT_CONNECTS, &[], self.counters.connects);
        page.add(&metrics::AGENT_SENT_REVISION, &[], self.publisher.sent_revision());
        let acknowledged = self.publisher.acknowledged_revision();
        page.add(&metrics::AGENT_ACKNOWLEDGED_REVISION, &[], acknowledged);
        page.add(&metrics::AGENT_NACKS, &[], self.counters.nacks);
        page.add_histogram(&metrics::AGENT_ACK_SECONDS, &[], &self.counters.ack_latency);
    }

    /// Objects of the desired state by kind, and the backends in its sets.
    fn count_desired(&self) -> BTreeMap<&'static str, u32> {
        let kinds = [
            "address",
            "address_selector",
            "backend",
            "backend_set",
            "endpoint",
            "frontend",
            "identity",
            "node",
            "policy_rules",
        ];
        let mut counts: BTreeMap<&'static str, u32> = kinds.into_iter().map(|it| (it, 0)).collect();
        for key in self.desired.objects().keys() {
            let (kind, backends) = match key {
                DesiredKey::Node => ("node", 0),
                DesiredKey::Identity(_) => ("identity", 0),
                DesiredKey::CidrSelector(_) => ("address_selector", 0),
                DesiredKey::PeerAddress(..) => ("address", 0),
                DesiredKey::PolicyRules(_) => ("policy_rules", 0),
                DesiredKey::Endpoint(_) => ("endpoint", 0),
                DesiredKey::Frontend(..) => ("frontend", 0),
                DesiredKey::BackendSet(name) => {
                    let set = self.desired.backend_set(name);
                    ("backend_set", set.map_or(0, |it| it.backends.len()))
                }
            };
            *counts.entry(kind).or_default() += 1;
            *counts.entry("backend").or_default() += u32::try_from(backends).unwrap_or(u32::MAX);
        }
        counts
    }

    fn describe_frontend(&self, frontend: &Frontend) -> ServiceState {
        let set = self.desired.backend_set(&frontend.backend_set);
        let external = self.desired.backend_set(&frontend.external_backend_set);
        let type_ = match frontend.r#type() {
            FrontendType::LoadBalancer => "LoadBalancer",
            FrontendType::NodePort => "NodePort",
            FrontendType::ExternalIp => "ExternalIP",
            FrontendType::HostPort => "HostPort",
            FrontendType::ClusterIp | FrontendType::Unspecified => "ClusterIP",
        };
        let address = frontend.key.as_ref().and_then(|it| it.socket_address().ok());
        let announcer = address
            .filter(|_| frontend.r#type() == FrontendType::LoadBalancer)
            .and_then(|it| self.desired.announcer(it.ip()));
        ServiceState {
            name: frontend.service.clone(),
            announced_by: announcer.unwrap_or_default().to_owned(),
            frontend: frontend.key.clone().unwrap_or_default().to_string(),
            r#type: type_.into(),
            backends: describe_backends(set),
            has_external_backends: !frontend.external_backend_set.is_empty(),
            external_backends: describe_backends(external),
            affinity_timeout_s: frontend.affinity_timeout_s,
            source_ranges: frontend.source_ranges.iter().map(describe_range).collect(),
            source_ranges_deny: frontend.source_ranges_deny,
            forwarding: match (frontend.r#type(), frontend.forwarding()) {
                (FrontendType::ClusterIp, _) => String::new(),
                (_, Forwarding::Dsr) => "dsr".into(),
                (_, Forwarding::Snat | Forwarding::Unspecified) => "snat".into(),
            },
            algorithm: match set.map(BackendSet::algorithm) {
                Some(Algorithm::Maglev) => "maglev".into(),
                Some(Algorithm::Hash | Algorithm::Unspecified) | None => "hash".into(),
            },
        }
    }
}

fn describe_backends(set: Option<&BackendSet>) -> Vec<ServiceBackend> {
    set.iter().flat_map(|it| &it.backends).map(describe_backend).collect()
}

fn describe_range(range: &Prefix) -> String {
    match parse_prefix(range) {
        Ok((address, length)) => format!("{address}/{length}"),
        Err(error) => error.to_string(),
    }
}

fn describe_backend(backend: &Backend) -> ServiceBackend {
    let address = match (parse_address(&backend.address), parse_l4_port(backend.l4_port)) {
        (Ok(address), Ok(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (Err(error), _) | (_, Err(error)) => error.to_string(),
    };
    let state = match backend.state() {
        BackendState::Active => "active",
        BackendState::Terminating => "terminating",
        BackendState::Maintenance => "maintenance",
        BackendState::Unspecified => "unspecified",
    };
    let node = parse_address(&backend.node_address);
    let node_address = node.map(|it| it.to_string()).unwrap_or_default();
    ServiceBackend { address, state: state.into(), weight: backend.weight, node_address }
}
