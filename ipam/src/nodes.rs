//! Which nodes pods may be placed on, as far as the network goes: a pure state machine.
//!
//! A node joins with the taint `weir.dev/agent-not-ready`. Once an agent is ready there, the taint
//! goes and the condition `NetworkUnavailable` becomes `False` (`WeirIsUp`); Kubernetes' node
//! lifecycle controller turns that condition, while it is `True`, into a `NoSchedule` taint.
//!
//! A node that lost its agent keeps forwarding for the pods that it has, and a rolling update takes
//! every agent away for some seconds. So the condition becomes `True` (`WeirIsDown`) only for nodes
//! that weir had declared available, and only after [`GRACE`] without a ready agent: new pods go
//! elsewhere, and no pod is moved. Conditions with other reasons, and other taints, are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};

/// Taint of nodes whose agent has not been ready yet.
pub const TAINT: &str = "weir.dev/agent-not-ready";
/// Labels of the agents' pods.
pub const AGENT_LABELS: &str = "app.kubernetes.io/name=weir,app.kubernetes.io/component=agent";
/// How long a node may be without a ready agent before new pods go elsewhere.
pub const GRACE: Duration = Duration::from_secs(60);

const UP: &str = "WeirIsUp";
const DOWN: &str = "WeirIsDown";

/// What is to be changed about a node.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeWrite {
    /// These taints are to be all; the version tells whether the node has changed meanwhile.
    Taints { version: String, taints: Vec<Taint> },
    /// The condition `NetworkUnavailable`; a transition is what changes its status.
    Condition {
        is_unavailable: bool,
        is_transition: bool,
        reason: &'static str,
        message: &'static str,
    },
}

/// Nodes and agents as last seen.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: BTreeMap<String, Seen>,
    /// Node and readiness of agents, by the name of the pod.
    agents: BTreeMap<String, (String, bool)>,
    /// Since when nodes have no ready agent.
    down_since: BTreeMap<String, Duration>,
}

#[derive(Debug)]
struct Seen {
    version: String,
    taints: Vec<Taint>,
    /// Status and reason of `NetworkUnavailable`.
    condition: Option<(String, String)>,
}

impl Nodes {
    /// Adds a node or replaces it.
    pub fn put_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let conditions = node.status.as_ref().and_then(|it| it.conditions.as_deref());
        let is_network = |it: &&NodeCondition| it.type_ == "NetworkUnavailable";
        let condition = conditions.unwrap_or_default().iter().find(is_network);
        let seen = Seen {
            version: node.metadata.resource_version.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|it| it.taints.clone()).unwrap_or_default(),
            condition: condition
                .map(|it| (it.status.clone(), it.reason.clone().unwrap_or_default())),
        };
        self.nodes.insert(name, seen);
    }

    /// Removes a node.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
        self.down_since.remove(name);
    }

    /// Adds an agent or replaces it.
    pub fn put_agent(&mut self, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(node) = pod.spec.as_ref().and_then(|it| it.node_name.clone()) else { return };
        let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_deref());
        let mut conditions = conditions.unwrap_or_default().iter();
        let is_ready = conditions.any(|it| it.type_ == "Ready" && it.status == "True");
        self.agents.insert(name, (node, is_ready));
    }

    /// Removes an agent.
    pub fn remove_agent(&mut self, name: &str) {
        self.agents.remove(name);
    }

    /// What is to be changed at `now`, of a monotonic clock.
    pub fn review(&mut self, now: Duration) -> Vec<(String, NodeWrite)> {
        let ready: BTreeSet<&String> =
            self.agents.values().filter(|(_, is_ready)| *is_ready).map(|(node, _)| node).collect();
        let mut writes = Vec::new();
        for (name, seen) in &self.nodes {
            if ready.contains(name) {
                self.down_since.remove(name);
                writes.extend(seen.open().map(|it| (name.clone(), it)));
                continue;
            }
            let since = *self.down_since.entry(name.clone()).or_insert(now);
            if now >= since + GRACE {
                writes.extend(seen.close().map(|it| (name.clone(), it)));
            }
        }
        writes
    }
}

impl Seen {
    fn is(&self, status: &str, reason: &str) -> bool {
        self.condition.as_ref().is_some_and(|it| it.0 == status && it.1 == reason)
    }

    /// The condition first: without the taint, pods come at once.
    fn open(&self) -> impl Iterator<Item = NodeWrite> {
        let condition = (!self.is("False", UP)).then_some(NodeWrite::Condition {
            is_unavailable: false,
            is_transition: self.condition.as_ref().is_none_or(|it| it.0 != "False"),
            reason: UP,
            message: "weir's agent is ready on this node",
        });
        let taints: Vec<Taint> = self.taints.iter().filter(|it| it.key != TAINT).cloned().collect();
        let has_taint = taints.len() < self.taints.len();
        let version = self.version.clone();
        condition.into_iter().chain(has_taint.then_some(NodeWrite::Taints { version, taints }))
    }

    fn close(&self) -> Option<NodeWrite> {
        self.is("False", UP).then_some(NodeWrite::Condition {
            is_unavailable: true,
            is_transition: true,
            reason: DOWN,
            message: "weir's agent has not been ready on this node for a minute: see its pod; pods \
                      that run here keep their network",
        })
    }
}
