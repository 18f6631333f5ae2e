//! Keeps nodes as [`crate::nodes`] says.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};
use weir_control::clock::Clock;

use crate::error::{is_conflict, is_gone};
use crate::metrics::{Controller, Counters};
use crate::nodes::{AGENT_LABELS, NodeWrite, Nodes};
use crate::watch::{Change, object_name, watch};

/// How often nodes without an agent are looked at, and what failed is tried again.
const PERIOD: Duration = Duration::from_secs(5);
/// For changes that come together.
const SETTLE: Duration = Duration::from_millis(20);

/// Works until it is dropped. `namespace` is where the agents' pods are.
pub async fn run_node_controller(
    client: Client,
    namespace: String,
    wall_clock: fn() -> Timestamp,
    counters: Counters,
) {
    let nodes_api: Api<Node> = Api::all(client.clone());
    let mut nodes = watch("nodes", nodes_api.clone(), "");
    let mut pods =
        watch("pods of agents", Api::<Pod>::namespaced(client, &namespace), AGENT_LABELS);
    let (mut state, clock) = (Nodes::default(), Clock::start());
    let (mut is_nodes_synced, mut is_pods_synced) = (false, false);
    let mut due = Instant::now() + PERIOD;
    loop {
        tokio::select! {
            Some(change) = nodes.next() => match change {
                Change::Put(node) => state.put_node(&node),
                Change::Remove(name) => state.remove_node(&name.name),
                Change::Synced => is_nodes_synced = true,
            },
            Some(change) = pods.next() => match change {
                Change::Put(pod) => {
                    state.remove_agent(&object_name(&*pod).name);
                    state.put_agent(&pod);
                }
                Change::Remove(name) => state.remove_agent(&name.name),
                Change::Synced => is_pods_synced = true,
            },
            () = tokio::time::sleep_until(due) => {
                if is_nodes_synced && is_pods_synced {
                    review(&mut state, &clock, &nodes_api, wall_clock, &counters).await;
                }
                due = Instant::now() + PERIOD;
                continue;
            }
        }
        // Counted from the first change: a steady stream of them puts nothing off.
        due = due.min(Instant::now() + SETTLE);
    }
}

async fn review(
    state: &mut Nodes,
    clock: &Clock,
    nodes: &Api<Node>,
    wall_clock: fn() -> Timestamp,
    counters: &Counters,
) {
    counters.reconciles.add(Controller::Nodes);
    for (name, write) in state.review(clock.elapsed()) {
        match write_node(nodes, &name, &write, wall_clock).await {
            Ok(node) => {
                info!("Node {name}: {}", describe(&write));
                state.put_node(&node);
            }
            // The watch tells what it is now.
            Err(error) if is_conflict(&error) || is_gone(&error) => {}
            Err(error) => {
                warn!("Node {name}: cannot write: {error}");
                counters.errors.add(Controller::Nodes);
            }
        }
    }
}

/// Writes to the API server. Of taints the whole list is replaced, which is why the version counts.
///
/// # Errors
/// The API server's; a conflict where the node has changed meanwhile.
pub async fn write_node(
    nodes: &Api<Node>,
    name: &str,
    write: &NodeWrite,
    wall_clock: fn() -> Timestamp,
) -> Result<Node, kube::Error> {
    let params = PatchParams { field_manager: Some(crate::MANAGER.into()), ..Default::default() };
    match write {
        NodeWrite::Taints { version, taints } => {
            let patch = json!({
                "metadata": { "resourceVersion": version },
                "spec": { "taints": taints },
            });
            nodes.patch(name, &params, &Patch::Merge(&patch)).await
        }
        NodeWrite::Condition { is_unavailable, is_transition, reason, message } => {
            let now = wall_clock().to_string();
            let status = if *is_unavailable { "True" } else { "False" };
            let mut condition = json!({
                "type": "NetworkUnavailable",
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
            });
            // What a strategic merge patch leaves out of a condition stays.
            if *is_transition {
                condition["lastTransitionTime"] = now.into();
            }
            let patch = json!({ "status": { "conditions": [condition] } });
            nodes.patch_status(name, &params, &Patch::Strategic(&patch)).await
        }
    }
}

fn describe(write: &NodeWrite) -> String {
    match write {
        NodeWrite::Taints { .. } => format!("taint {} removed", crate::nodes::TAINT),
        NodeWrite::Condition { is_unavailable, reason, .. } => {
            format!("NetworkUnavailable={is_unavailable}, {reason}")
        }
    }
}
