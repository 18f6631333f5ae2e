//! The configuration of this node's dataplane.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_api::convert::address_bytes;
use weir_api::v1::{NodeConfig, PodRoute};

use super::Desired;
use crate::model::{Cidr, Family, Name, Node, Pod};

impl Desired {
    /// This node's object, where there is one.
    #[must_use]
    pub fn own_node(&self) -> Option<&Node> {
        self.nodes.get(&self.settings.name)
    }

    /// A pod by its name.
    #[must_use]
    pub fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// The node that answers for the address of a load balancer on its links; `None` where nobody
    /// does.
    #[must_use]
    pub fn announcer(&self, address: IpAddr) -> Option<&str> {
        self.election.elected(address)
    }

    pub(super) fn compile_node(&self) -> NodeConfig {
        let settings = &self.settings;
        let own = self.own_node();
        let mut addresses = settings.addresses.clone();
        for address in own.iter().flat_map(|node| &node.addresses) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let mut cluster_ranges: BTreeSet<Cidr> = settings.cluster_ranges.iter().copied().collect();
        cluster_ranges.extend(self.nodes.values().flat_map(|it| &it.pod_ranges));
        // Where nothing says what addresses pods have, every destination looks as if it were
        // outside.
        let is_known = !cluster_ranges.is_empty();
        cluster_ranges.extend(addresses.iter().map(|it| Cidr::of_host(*it)));
        let of_nodes = self.nodes.values().flat_map(|it| &it.addresses);
        cluster_ranges.extend(of_nodes.map(|it| Cidr::of_host(*it)));
        let write = |ranges: &[Cidr]| ranges.iter().map(|it| it.to_prefix()).collect();
        let (snat, node_ports) = (settings.snat_ports, settings.node_ports);
        NodeConfig {
            name: settings.name.clone(),
            addresses: addresses.into_iter().map(address_bytes).collect(),
            maglev_table_size: settings.maglev_table_size,
            maglev_seed: settings.maglev_seed.clone(),
            service_ranges: write(&settings.service_ranges),
            cluster_ranges: cluster_ranges.into_iter().map(Cidr::to_prefix).collect(),
            masquerade: is_known && !settings.is_masquerade_off,
            masquerade_exclusions: write(&settings.masquerade_exclusions),
            dsr_dispatch: settings.dsr_dispatch.into(),
            snat_port_min: snat.map_or(0, |it| u32::from(it.min)),
            snat_port_max: snat.map_or(0, |it| u32::from(it.max)),
            node_port_min: node_ports.map_or(0, |it| u32::from(it.min)),
            node_port_max: node_ports.map_or(0, |it| u32::from(it.max)),
            policy_audit: settings.policy_audit,
            policy_reject: settings.policy_reject,
            pod_ranges: own.map(|it| write(&it.pod_ranges)).unwrap_or_default(),
            pod_routes: self.compile_pod_routes(),
            announced: self.election.won_by(&settings.name).map(address_bytes).collect(),
        }
    }

    /// Pods of another node are behind its internal address of their family.
    fn compile_pod_routes(&self) -> Vec<PodRoute> {
        let others = self.nodes.values().filter(|it| it.name.name != self.settings.name);
        let routes = others.flat_map(|node| {
            node.pod_ranges.iter().filter_map(|range| {
                let via = node.internal_address(Family::of(range.address()))?;
                let destination = Some(range.to_prefix());
                Some(PodRoute { destination, via: address_bytes(via) })
            })
        });
        routes.collect()
    }
}
