//! The weir pods of nodes, and how a command runs in one.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{anyhow, bail};

use super::args::NAMESPACE;
use super::kubectl::{Kubectl, KubectlError, Said};
use super::pods::{Items, Pod};

/// Of the pods with agent and dataplane.
pub(super) const SELECTOR: &str = "app.kubernetes.io/name=weir,app.kubernetes.io/component=agent";

/// Where `weir` of one node can be run.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub node: String,
    pub pod: String,
    /// A container that runs, or why there is none.
    pub container: Result<String, String>,
}

impl Target {
    /// The words for kubectl.
    fn words<'a>(
        &'a self,
        kubectl: &'a Kubectl,
        remote: &'a [String],
    ) -> anyhow::Result<Vec<&'a str>> {
        let container = match &self.container {
            Ok(container) => container,
            Err(reason) => bail!("{reason}"),
        };
        let mut words = vec!["-n", &kubectl.namespace, "exec", &self.pod, "-c", container];
        words.extend(["--", "weir"]);
        words.extend(remote.iter().map(String::as_str));
        Ok(words)
    }

    /// Runs `weir` there and takes what it prints, whatever its exit status.
    pub(super) async fn call(&self, kubectl: &Kubectl, remote: &[String]) -> anyhow::Result<Said> {
        Ok(kubectl.call(&self.words(kubectl, remote)?).await?)
    }

    /// Says what it was that went wrong, for a call that printed nothing of use.
    pub(super) fn explain(&self, said: Said) -> anyhow::Error {
        let exec = ["-n", "NAMESPACE", "exec", self.pod.as_str()];
        match said.into_error(&exec) {
            KubectlError::Failed { reason, .. } => anyhow!("{reason}"),
            other => other.into(),
        }
    }

    /// Runs `weir` there as if it ran here.
    pub(super) async fn run(
        &self,
        kubectl: &Kubectl,
        remote: &[String],
    ) -> anyhow::Result<ExitCode> {
        let status = kubectl.show(&self.words(kubectl, remote)?).await?;
        let code = status.code().and_then(|it| u8::try_from(it).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

/// The weir pod of one node.
pub(super) async fn find(kubectl: &Kubectl, node: &str) -> anyhow::Result<Target> {
    let targets = find_all(kubectl).await?;
    let nodes: Vec<&str> = targets.iter().map(|it| it.node.as_str()).collect();
    let known = nodes.join(", ");
    let found = targets.iter().find(|it| it.node == node).cloned();
    found.ok_or_else(|| {
        let namespace = &kubectl.namespace;
        anyhow!("node {node}: no weir pod in namespace {namespace}; there are some on {known}")
    })
}

/// The weir pods of all nodes, in order of the nodes' names. Of several pods of a node, one that
/// runs and is not about to go.
pub(super) async fn find_all(kubectl: &Kubectl) -> anyhow::Result<Vec<Target>> {
    let namespace = kubectl.namespace.as_str();
    let pods: Items<Pod> = kubectl.read(&["-n", namespace, "get", "pods", "-l", SELECTOR]).await?;
    let mut by_node: BTreeMap<String, (bool, Target)> = BTreeMap::new();
    for pod in pods.items.into_iter().filter(|it| !it.spec.node_name.is_empty()) {
        let is_leaving = pod.metadata.deletion_timestamp.is_some();
        let target = make_target(&pod);
        let rank = |is_leaving: bool, it: &Target| (it.container.is_ok(), !is_leaving);
        let better = by_node.get(&target.node).is_none_or(|(known_leaving, known)| {
            rank(is_leaving, &target) > rank(*known_leaving, known)
        });
        if better {
            by_node.insert(target.node.clone(), (is_leaving, target));
        }
    }
    if by_node.is_empty() {
        let elsewhere =
            if namespace == NAMESPACE { "; is it installed in another one? " } else { ": " };
        bail!(
            "no weir pods in namespace {namespace} (labels {SELECTOR}){elsewhere}Find them with \
             `kubectl get pods -A -l {SELECTOR}` and give their namespace with -n"
        );
    }
    Ok(by_node.into_values().map(|(_, target)| target).collect())
}

fn make_target(pod: &Pod) -> Target {
    let (name, node) = (pod.metadata.name.clone(), pod.spec.node_name.clone());
    let container = match pod.running_container() {
        Some(container) => Ok(container.to_owned()),
        None => Err(format!(
            "pod {name} of node {node} does not run: {}. See `kubectl -n {} describe pod {name}`",
            pod.explain(),
            pod.metadata.namespace
        )),
    };
    Target { node, pod: name, container }
}
