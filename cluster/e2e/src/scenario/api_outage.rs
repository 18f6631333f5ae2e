//! The API server is gone for minutes: traffic goes on, containers start again where kubelet does
//! that, weir's own too, and nothing is withdrawn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_lab::clock::{Stopwatch, pause};

use super::{
    Options,
    traffic::{Load, Summary, Traffic},
    watch::{Sight, Watch, ask, unix_seconds},
};
use crate::cluster::{Cluster, output_of};

/// So many are enough to notice, and leave the machine time for the rest.
const CONNECTIONS_MAX: u32 = 200;
const RESTART_TIMEOUT: Duration = Duration::from_secs(90);
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// Between what is done to the nodes.
const STEP: Duration = Duration::from_secs(20);
const NAME: &str = "weir-e2e-after";

/// # Errors
/// A connection broke, something was withdrawn, or the state did not converge afterwards.
pub fn run(options: &Options, cluster: &Cluster) -> Result<()> {
    let all = options.load();
    let load = Load { connections: all.connections.min(CONNECTIONS_MAX), ..all };
    let traffic = Traffic::start(cluster, load)?;
    let nodes = cluster.nodes()?;
    let before = nodes.iter().map(|node| Sight::of(cluster, node)).collect::<Result<Vec<_>>>()?;
    let node = nodes.first().context("a cluster has nodes")?;
    let start = unix_seconds();
    let looking = Watch::start(cluster, &nodes);
    let watch = Stopwatch::start();
    cluster.stop_api()?;
    println!("API server killed");
    let disturbed = disturb(cluster, node);
    let outage = Duration::from_secs(options.minutes * 60);
    pause(outage.saturating_sub(watch.elapsed()));
    // Also when something failed: the cluster may be looked at afterwards.
    cluster.start_api()?;
    println!("API server back after {:.0} s", watch.elapsed().as_secs_f64());
    disturbed?;
    let converged = converge(cluster, &nodes);
    let least = looking.finish()?;
    converged?;
    traffic.settle(10);
    let summary = traffic.summarise_since(start)?;
    print_traffic(&summary, &traffic, start)?;
    for (least, before) in least.iter().zip(&before) {
        println!(
            "{:<10} {} looks, {} without a synced agent; services {} at least, {} before; \
             backends {} and {}",
            least.node,
            least.looks,
            least.silent,
            least.services,
            before.services,
            least.backends,
            before.backends,
        );
        ensure!(least.services >= before.services, "{}: services were withdrawn", least.node);
        ensure!(least.backends >= before.backends, "{}: backends were withdrawn", least.node);
    }
    ensure!(summary.broken == 0, "{} connections broke: {}", summary.broken, summary.reasons);
    Ok(())
}

/// Kills a pod's container, the agent and the dataplane of a node, one after the other.
fn disturb(cluster: &Cluster, node: &str) -> Result<()> {
    pause(STEP);
    let filter = |pod: &str, container: &str| {
        format!(
            "labels.\"io.kubernetes.pod.name\"~=\"^{pod}\",\
             labels.\"io.kubernetes.container.name\"=={container}"
        )
    };
    let took = kill(cluster, node, &filter("probe-", "traffic"))?;
    println!("{node}: a pod's container killed, runs again after {took:.1} s");
    for name in ["agent", "dataplane"] {
        pause(STEP);
        let took = kill(cluster, node, &filter("weir-", name))?;
        println!("{node}: weir's {name} killed, runs again after {took:.1} s");
    }
    pause(STEP);
    let status = ask(cluster, node, &["status"])?;
    println!("{node}: {} without the API server: {}", status["state"], status["findings"]);
    Ok(())
}

/// Kills a container's process and waits until kubelet has started another: seconds.
fn kill(cluster: &Cluster, node: &str, filter: &str) -> Result<f64> {
    let ids = cluster.running(node, filter)?;
    let id = ids.first().with_context(|| format!("{node}: no container {filter} runs"))?;
    let mut command = cluster.on_node(node, "ctr");
    output_of(command.args(["-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id]))?;
    let watch = Stopwatch::start();
    Cluster::wait("another container", RESTART_TIMEOUT, || {
        let running = cluster.running(node, filter)?;
        Ok(running.iter().any(|it| it != id).then_some(()))
    })?;
    Ok(watch.elapsed().as_secs_f64())
}

/// How soon a service made afterwards is in use on every node.
fn converge(cluster: &Cluster, nodes: &[String]) -> Result<()> {
    let watch = Stopwatch::start();
    Cluster::wait("the API server", CONVERGENCE_TIMEOUT, || {
        Ok(cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=5s"]).ok())
    })?;
    let ready = watch.elapsed().as_secs_f64();
    let watch = Stopwatch::start();
    cluster.send(
        "create",
        &[json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": NAME, "namespace": "default" },
            "spec": { "ports": [{ "port": 80 }] },
        })],
    )?;
    let seen = Cluster::wait("a new service on every node", CONVERGENCE_TIMEOUT, || {
        let has = |node: &String| {
            let services = ask(cluster, node, &["service", "list"]).unwrap_or_default();
            services.to_string().contains(NAME)
        };
        Ok(nodes.iter().all(has).then_some(()))
    });
    let took = watch.elapsed().as_secs_f64();
    cluster.kubectl(&["-n", "default", "delete", "service", NAME])?;
    seen?;
    println!("API server ready after {ready:.1} s; a new service on every node {took:.1} s later");
    Ok(())
}

fn print_traffic(summary: &Summary, traffic: &Traffic<'_>, start: u64) -> Result<()> {
    let (probes, failed, slowest, reasons) = traffic.probes_since(start)?;
    println!("connections        {}, {} broken", summary.opened, summary.broken);
    println!("longest gap        {} ms", summary.longest_gap_ms);
    println!("new connections    {probes}, {failed} failed, the slowest {slowest} ms {reasons}");
    Ok(())
}
