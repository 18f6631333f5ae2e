//! Which nodes may answer for a service's load balancer addresses on their links.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_api::v1::BackendState;

use super::Inputs;
use super::backends::collect;
use crate::model::{Family, NodeFilter, Service};
use crate::settings::NodeSettings;

/// Class of services whose addresses come from weir's pools and are answered for by its nodes.
pub const L2_CLASS: &str = "weir.dev/l2";

/// Who may answer for an address, as far as one service says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Names of the nodes that have an endpoint, where the service asks for one
    /// (`externalTrafficPolicy: Local`); `None`: any node serves it.
    pub serving: Option<BTreeSet<String>>,
    /// Where it is open to clients outside.
    pub filter: NodeFilter,
}

/// By address. Nothing where addresses are not answered for, or the service is somebody else's.
pub(super) fn list_announced(inputs: &Inputs<'_>) -> BTreeMap<IpAddr, Announcement> {
    let service = inputs.service;
    let settings = inputs.nodes.settings;
    if !settings.announce_l2 || !is_ours(service, settings) {
        return BTreeMap::new();
    }
    let announce = |address: &IpAddr| {
        let is_local = service.policy.is_external_local;
        let serving = is_local.then(|| list_serving_nodes(inputs, Family::of(*address)));
        let filter = service.policy.nodes.clone();
        (*address, Announcement { serving, filter })
    };
    service.load_balancer_ips.iter().map(announce).collect()
}

fn is_ours(service: &Service, settings: &NodeSettings) -> bool {
    let is_class = match service.load_balancer_class.as_deref() {
        Some(class) => class == L2_CLASS,
        None => !settings.needs_load_balancer_class,
    };
    is_class && service.policy.exposed.is_none_or(|it| it.load_balancer)
}

/// Nodes with a ready endpoint; where there is none at all, those with one that still serves
/// (KEP-1669).
fn list_serving_nodes(inputs: &Inputs<'_>, family: Family) -> BTreeSet<String> {
    let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
    for port in &inputs.service.ports {
        for candidate in collect(inputs, port, family).values() {
            let Some(node) = candidate.node else { continue };
            match candidate.state {
                BackendState::Active => ready.insert(node.to_owned()),
                BackendState::Terminating => draining.insert(node.to_owned()),
                BackendState::Maintenance | BackendState::Unspecified => false,
            };
        }
    }
    if ready.is_empty() { draining } else { ready }
}
