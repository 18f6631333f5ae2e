//! Long-lived connections between pods of different nodes, half of them straight to a pod and half
//! through a Service; and new connections all the time beside them.
//!
//! The pods run this build's `weir-e2e-traffic` from the machine itself: `/usr` and the program's
//! folder are mounted into an image that has nothing else to offer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use weir_lab::clock::pause;

use crate::cluster::Cluster;

const NAMESPACE: &str = "weir-e2e-traffic";
const IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
const PORT: u16 = 7000;
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Traffic in a namespace of its own, which is deleted when this drops.
#[derive(Debug)]
pub struct Traffic<'a> {
    cluster: &'a Cluster,
    nodes: Vec<String>,
    load: Load,
}

/// What the clients of all nodes together do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub connections: u32,
    /// Between two records of a connection.
    pub interval_ms: u64,
    /// Of a record, which comes back.
    pub record_bytes: usize,
}

/// A line of a client; see `weir-e2e-traffic`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Line {
    pub unix_seconds: u64,
    pub opened: u32,
    pub broken: u32,
    pub records: u64,
    pub second_gap_ms: u64,
    pub reasons: std::collections::BTreeMap<String, u32>,
}

/// A line of a prober.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Probes {
    pub unix_seconds: u64,
    pub probes: u64,
    pub failed: u64,
    pub second_slowest_ms: u64,
    pub reason: String,
}

/// What all clients together say.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub opened: u32,
    pub broken: u32,
    pub records: u64,
    /// Of the time that was asked for.
    pub longest_gap_ms: u64,
    pub reasons: String,
}

impl<'a> Traffic<'a> {
    /// Starts servers on all nodes, and clients whose connections lead to the next node.
    ///
    /// # Errors
    /// There is one node only, or pods do not become ready.
    pub fn start(cluster: &'a Cluster, load: Load) -> Result<Self> {
        let nodes = cluster.nodes()?;
        ensure!(nodes.len() > 1, "connections between nodes need two nodes");
        let traffic = Self { cluster, nodes, load };
        traffic.remove();
        traffic.start_servers()?;
        traffic.start_clients()?;
        traffic.wait_for_connections()?;
        Ok(traffic)
    }

    fn start_servers(&self) -> Result<()> {
        let mut objects = vec![json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
        })];
        for node in &self.nodes {
            let name = format!("server-{node}");
            let listen = format!("0.0.0.0:{PORT}");
            objects.push(pod(&name, node, &["server", "--listen", &listen])?);
            objects.push(json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": name, "namespace": NAMESPACE },
                "spec": { "selector": { "app": name }, "ports": [{ "port": PORT }] },
            }));
        }
        self.cluster.send("create", &objects)?;
        let wait = format!("--timeout={}s", READY_TIMEOUT.as_secs());
        let wait = ["-n", NAMESPACE, "wait", "--for=condition=Ready", "pod", "--all", &wait];
        self.cluster.kubectl(&wait).map(drop)
    }

    fn start_clients(&self) -> Result<()> {
        let mut objects = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let next = &self.nodes[(number + 1) % self.nodes.len()];
            let service = self.service_address(next)?;
            let pod_address = self.pod_address(&format!("server-{next}"))?;
            let (pod_target, service_target) =
                (format!("{pod_address}:{PORT}"), format!("{service}:{PORT}"));
            let connections = self.share(number).to_string();
            let interval = self.load.interval_ms.to_string();
            let bytes = self.load.record_bytes.to_string();
            let client = [
                "client",
                "--target",
                &pod_target,
                "--target",
                &service_target,
                "--connections",
                &connections,
                "--interval-ms",
                &interval,
                "--record-bytes",
                &bytes,
            ];
            objects.push(pod(&format!("client-{node}"), node, &client)?);
            let probe = ["probe", "--target", &service_target, "--target", &pod_target];
            objects.push(pod(&format!("probe-{node}"), node, &probe)?);
        }
        self.cluster.send("create", &objects)
    }

    /// How many connections a node's client has.
    fn share(&self, number: usize) -> u32 {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(1);
        let extra = u32::from((number as u32) < self.load.connections % nodes);
        self.load.connections / nodes + extra
    }

    fn wait_for_connections(&self) -> Result<()> {
        Cluster::wait("all connections to be open", READY_TIMEOUT, || {
            let summary = self.summarise_since(0);
            Ok(summary.ok().filter(|it| it.opened + it.broken >= self.load.connections).map(drop))
        })?;
        let summary = self.summarise_since(0)?;
        ensure!(summary.broken == 0, "{} could not be opened: {}", summary.broken, summary.reasons);
        Ok(())
    }

    /// The lines of a node's client since a time; at least its last one.
    fn lines<T: for<'l> Deserialize<'l>>(&self, pod: &str) -> Result<Vec<T>> {
        let text = self.cluster.kubectl(&["-n", NAMESPACE, "logs", pod])?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// What all clients say about the time since then (seconds since 1970).
    ///
    /// # Errors
    /// The logs cannot be read, or a client has said nothing.
    pub fn summarise_since(&self, unix_seconds: u64) -> Result<Summary> {
        let mut summary = Summary::default();
        for node in &self.nodes {
            let lines: Vec<Line> = self.lines(&format!("client-{node}"))?;
            let last = lines.last().with_context(|| format!("client-{node} says nothing"))?;
            summary.opened += last.opened;
            summary.broken += last.broken;
            summary.records += last.records;
            for (reason, count) in &last.reasons {
                summary.reasons += &format!("{node}: {count} x {reason}; ");
            }
            let gaps = lines.iter().filter(|line| line.unix_seconds > unix_seconds);
            let gap = gaps.map(|line| line.second_gap_ms).max().unwrap_or_default();
            summary.longest_gap_ms = summary.longest_gap_ms.max(gap);
        }
        Ok(summary)
    }

    /// Probes since then: how many, how many failed, the slowest in milliseconds, and why.
    ///
    /// # Errors
    /// The logs cannot be read, or a prober has said nothing.
    pub fn probes_since(&self, unix_seconds: u64) -> Result<(u64, u64, u64, String)> {
        let (mut probes, mut failed, mut slowest, mut reasons) = (0, 0, 0, String::new());
        for node in &self.nodes {
            let lines: Vec<Probes> = self.lines(&format!("probe-{node}"))?;
            let last = lines.last().with_context(|| format!("probe-{node} says nothing"))?;
            let before = lines.iter().rfind(|line| line.unix_seconds <= unix_seconds);
            let (probes_before, failed_before) =
                before.map_or((0, 0), |line| (line.probes, line.failed));
            probes += last.probes - probes_before;
            failed += last.failed - failed_before;
            if last.failed > failed_before {
                reasons += &format!("{node}: {}; ", last.reason);
            }
            let since = lines.iter().filter(|line| line.unix_seconds > unix_seconds);
            slowest = since.map(|line| line.second_slowest_ms).max().unwrap_or(0).max(slowest);
        }
        Ok((probes, failed, slowest, reasons))
    }

    /// The address of a node's server, which is a pod.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn pod_address(&self, pod: &str) -> Result<String> {
        self.cluster.kubectl(&["-n", NAMESPACE, "get", "pod", pod, "-o=jsonpath={.status.podIP}"])
    }

    fn service_address(&self, node: &str) -> Result<String> {
        let name = format!("server-{node}");
        self.cluster.kubectl(&[
            "-n",
            NAMESPACE,
            "get",
            "service",
            &name,
            "-o=jsonpath={.spec.clusterIP}",
        ])
    }

    /// Lets traffic flow for a while, for figures to compare with.
    pub fn settle(&self, seconds: u64) {
        pause(Duration::from_secs(seconds));
    }

    fn remove(&self) {
        let delete = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s"];
        if let Err(error) = self.cluster.kubectl(&delete) {
            eprintln!("{error:#}");
        }
    }
}

impl Drop for Traffic<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A pod of this build's traffic program on a node.
fn pod(name: &str, node: &str, arguments: &[&str]) -> Result<Value> {
    let program = weir_lab::program("weir-e2e-traffic")?;
    let folder = program.parent().context("a program is in a folder")?;
    let command: Vec<&str> =
        ["/program/weir-e2e-traffic"].into_iter().chain(arguments.iter().copied()).collect();
    let mount = |name: &str, path: &str| {
        json!({ "name": name, "mountPath": path,
        "readOnly": true })
    };
    let volume = |name: &str, path: &str| json!({ "name": name, "hostPath": { "path": path } });
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "traffic",
                "image": IMAGE,
                "command": command,
                "volumeMounts": [mount("usr", "/usr"), mount("program", "/program")],
            }],
            "volumes": [volume("usr", "/usr"), volume("program", &folder.display().to_string())],
        },
    }))
}
