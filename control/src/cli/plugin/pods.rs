//! What kubectl tells of pods, as much of it as is needed.

use anyhow::{anyhow, bail};
use serde::Deserialize;

use super::kubectl::Kubectl;

/// `kubectl get ... -o json` of several objects.
#[derive(Debug, Deserialize)]
pub(super) struct Items<T> {
    pub items: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pod {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Spec,
    #[serde(default)]
    pub status: Status,
}

/// Of any object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub name: String,
    pub namespace: String,
    pub deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub node_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub phase: String,
    pub reason: String,
    pub container_statuses: Vec<Container>,
    pub init_container_statuses: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    pub name: String,
    pub restart_count: u32,
    pub state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerState {
    pub running: Option<serde_json::Value>,
    pub waiting: Option<Reason>,
    pub terminated: Option<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reason {
    pub reason: String,
    pub message: String,
}

impl Pod {
    /// A container that runs, the agent's first: both have `weir` and the sockets.
    pub(super) fn running_container(&self) -> Option<&str> {
        let is_running = |name: &&str| {
            let mut all = self.status.container_statuses.iter();
            all.any(|it| it.name == **name && it.state.running.is_some())
        };
        ["agent", "dataplane"].into_iter().find(is_running)
    }

    /// Why no container of it runs.
    pub(super) fn explain(&self) -> String {
        let status = &self.status;
        let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
        let stopped = containers.filter_map(|it| {
            let reason = it.state.waiting.as_ref().or(it.state.terminated.as_ref())?;
            // An init container that is done is as it should be.
            (reason.reason != "Completed").then(|| match reason.message.as_str() {
                "" => format!("{}: {}", it.name, reason.reason),
                message => format!("{}: {}: {message}", it.name, reason.reason),
            })
        });
        let stopped: Vec<String> = stopped.collect();
        let phase = if status.phase.is_empty() { "unknown" } else { &status.phase };
        let reason = if status.reason.is_empty() { phase } else { &status.reason };
        match stopped.is_empty() {
            true => reason.to_owned(),
            false => format!("{reason} ({})", stopped.join("; ")),
        }
    }
}

/// The node of a pod, given as `namespace/name`.
pub(super) async fn find_node(kubectl: &Kubectl, name: &str) -> anyhow::Result<String> {
    let Some((namespace, pod)) =
        name.split_once('/').filter(|(a, b)| !a.is_empty() && !b.is_empty())
    else {
        bail!("{name:?} is not a pod: write it as namespace/name");
    };
    let pod: Pod = kubectl.read(&["-n", namespace, "get", "pod", pod]).await?;
    match pod.spec.node_name.as_str() {
        "" => Err(anyhow!("pod {name} has no node yet: {}", pod.explain())),
        node => Ok(node.to_owned()),
    }
}
