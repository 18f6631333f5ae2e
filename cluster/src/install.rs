//! weir itself, into a cluster whose nodes wait for a network.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_lab::clock::{pause, wait_until};

use crate::{
    cluster::Cluster,
    load,
    node_config::TAINT,
    paths,
    plan::{API_PORT, CONTROL},
    up::{Options, find_nodes, find_root},
};

const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Between looks at the nodes, each a run of kubectl.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Loads the image, installs the chart and waits until every node is Ready.
pub fn install(cluster: &Cluster, options: &Options, say: &impl Fn(&str)) -> Result<()> {
    let root = find_root();
    let image = match &options.image_tar {
        Some(path) => path.clone(),
        None => make_image(&root.join("scripts/image"))?,
    };
    load::load(cluster, &image)?;
    say("weir's image is loaded");
    let mut helm = cluster.outside_command(paths::program("helm")?);
    helm.args(["upgrade", "--install", "weir"]).arg(root.join("deploy/helm/weir"));
    helm.args(["--namespace", "weir-system", "--create-namespace"]);
    helm.arg("--values").arg(root.join("cluster/values.yaml"));
    // The agent is there before the ClusterIP of the API server works.
    helm.args(["--set", &format!("apiServer.host={}", CONTROL.v4)]);
    helm.args(["--set", &format!("apiServer.port={API_PORT}")]);
    for value in &options.values {
        helm.args(["--set", value]);
    }
    let output = helm.output().context("cannot run helm")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm: {}", said.trim());
    say("the chart is installed");
    wait_until_ready(cluster)?;
    let manifests = root.join("cluster/manifests").display().to_string();
    cluster.ask(&["apply", "-f", &manifests])?;
    say("every node is Ready");
    let dns = ["rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=90s"];
    cluster.ask(&dns).map(drop).context("the cluster's DNS, a pod on weir's network")?;
    say("the cluster's DNS answers");
    Ok(())
}

/// The last line that `scripts/image` prints is the archive.
fn make_image(script: &PathBuf) -> Result<PathBuf> {
    let output = Command::new(script).output();
    let output = output.with_context(|| format!("cannot run {}", script.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", script.display());
    let last = said.lines().last().context("scripts/image printed no path")?;
    Ok(PathBuf::from(last.trim()))
}

fn wait_until_ready(cluster: &Cluster) -> Result<()> {
    let ready = wait_until("every node to be Ready", READY_TIMEOUT, || {
        let is_ready = find_nodes(cluster).is_ok_and(|nodes| nodes.iter().all(is_ready));
        if !is_ready {
            pause(LOOK_INTERVAL);
        }
        is_ready.then_some(())
    });
    ready.with_context(|| describe_weir(cluster))
}

/// weir's pods, and the last that each container said.
fn describe_weir(cluster: &Cluster) -> String {
    let pods = ["-n", "weir-system", "get", "pods", "-o", "wide"];
    let logs = ["-n", "weir-system", "logs", "--selector=app.kubernetes.io/name=weir"];
    let options = ["--all-containers", "--prefix", "--tail=3", "--ignore-errors"];
    let asked = [&pods[..], &[&logs[..], &options[..]].concat()].map(|words| cluster.ask(words));
    asked.map(|said| said.unwrap_or_else(|error| error.to_string())).join("\n")
}

/// Ready, and weir has taken its taint away.
fn is_ready(node: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let conditions = list(&node["status"]["conditions"]);
    let is_true = conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
    is_true && !list(&node["spec"]["taints"]).iter().any(|taint| taint["key"] == TAINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tainted_node_is_not_ready() {
        let node = |status: &str, taints: Value| {
            let conditions = json!([{ "type": "Ready", "status": status }]);
            json!({ "status": { "conditions": conditions }, "spec": { "taints": taints } })
        };
        assert!(is_ready(&node("True", Value::Null)));
        assert!(!is_ready(&node("False", Value::Null)));
        assert!(!is_ready(&node("True", json!([{ "key": TAINT, "effect": "NoSchedule" }]))));
        assert!(is_ready(&node("True", json!([{ "key": "another" }]))));
    }
}
