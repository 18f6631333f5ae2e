//! The custom resource `LoadBalancerPool` (`weir.dev/v1alpha1`). Its schema, with the checks that
//! the API server makes, is `crds/loadbalancerpools.yaml`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::core::Selector;
use serde::{Deserialize, Serialize};
use weir_control::model::Cidr;

use crate::allocator::{Block, Pool, PoolContent};

/// All custom resources of the operator, as YAML for `kubectl apply`.
pub const CRDS: &str = include_str!("../crds/loadbalancerpools.yaml");

/// Addresses for Services of type `LoadBalancer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, kube::CustomResource)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "LoadBalancerPool",
    plural = "loadbalancerpools",
    shortname = "lbpool",
    status = "LoadBalancerPoolStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPoolSpec {
    /// The addresses; at least one block, no address twice.
    pub blocks: Vec<PoolBlock>,
    /// Labels of the Services that may have one; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// Labels of their namespaces; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Leaves out the first and the last address of each `cidr`, which some devices take for the
    /// network's own and for broadcasts.
    #[serde(default)]
    pub avoid_edges: bool,
    /// Whether Services get an address without asking for it by name.
    #[serde(default = "default_auto_assign")]
    pub auto_assign: bool,
}

/// A range: either `cidr`, or `start` and `stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolBlock {
    /// `192.0.2.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The last address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

/// How a pool is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancerPoolStatus {
    /// `Ready` and `Conflict`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Its IPv4 addresses.
    #[serde(default)]
    pub ipv4: PoolFill,
    /// Its IPv6 addresses.
    #[serde(default)]
    pub ipv6: PoolFill,
}

/// Numbers of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFill {
    /// In the pool; 9223372036854775807: that many or more.
    pub total: i64,
    /// That a Service has.
    pub used: i64,
}

fn default_auto_assign() -> bool {
    true
}

impl LoadBalancerPool {
    /// What the allocator needs of it.
    #[must_use]
    pub fn to_pool(&self) -> Pool {
        let created = self.metadata.creation_timestamp.as_ref();
        Pool {
            name: self.metadata.name.clone().unwrap_or_default(),
            created: created.map(|it| it.0.to_string()).unwrap_or_default(),
            content: self.spec.to_content(),
        }
    }
}

impl LoadBalancerPoolSpec {
    fn to_content(&self) -> Result<PoolContent, String> {
        let mut blocks: Vec<Block> = Vec::new();
        for (i, it) in self.blocks.iter().enumerate() {
            let block = it.to_block(self.avoid_edges);
            let block = block.map_err(|reason| format!("spec.blocks[{i}]: {reason}"))?;
            if let Some(other) = blocks.iter().find(|it| it.overlaps(block)) {
                return Err(format!("spec.blocks[{i}]: {block} overlaps {other} of this pool"));
            }
            blocks.push(block);
        }
        if blocks.is_empty() {
            return Err("spec.blocks: give at least one block".into());
        }
        let services = read_selector("spec.serviceSelector", self.service_selector.as_ref())?;
        let namespaces = read_selector("spec.namespaceSelector", self.namespace_selector.as_ref())?;
        Ok(PoolContent { blocks, services, namespaces, auto_assign: self.auto_assign })
    }
}

impl PoolBlock {
    fn to_block(&self, avoid_edges: bool) -> Result<Block, String> {
        let parse = |text: &str| text.parse().map_err(|_| format!("{text:?} is not an IP address"));
        match (&self.cidr, &self.start, &self.stop) {
            (Some(cidr), None, None) => Block::of_range(cidr.parse::<Cidr>()?, avoid_edges),
            (None, Some(start), Some(stop)) => Block::between(parse(start)?, parse(stop)?),
            _ => Err("give either cidr, or start and stop".into()),
        }
    }
}

fn read_selector(path: &str, selector: Option<&LabelSelector>) -> Result<Selector, String> {
    let Some(selector) = selector else { return Ok(Selector::default()) };
    Selector::try_from(selector.clone()).map_err(|error| format!("{path}: {error}"))
}
