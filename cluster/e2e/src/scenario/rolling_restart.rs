//! The whole DaemonSet restarts, node after node, while connections transfer data across nodes.

use anyhow::{Result, ensure};
use weir_lab::clock::Stopwatch;

use super::{Options, traffic::Traffic, watch::unix_seconds};
use crate::cluster::Cluster;

/// Before and after, for figures to compare with.
const SETTLE_SECONDS: u64 = 15;

/// # Errors
/// A connection broke, or the rollout did not end.
pub fn run(options: &Options, cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, options.load())?;
    let quiet = unix_seconds();
    traffic.settle(SETTLE_SECONDS);
    let before = traffic.summarise_since(quiet)?;
    let start = unix_seconds();
    let watch = Stopwatch::start();
    cluster.kubectl(&["-n", "weir-system", "rollout", "restart", "daemonset/weir"])?;
    let status = ["-n", "weir-system", "rollout", "status", "daemonset/weir", "--timeout=600s"];
    cluster.kubectl(&status)?;
    let took = watch.elapsed().as_secs_f64();
    traffic.settle(SETTLE_SECONDS);
    let after = traffic.summarise_since(start)?;
    let (probes, failed, slowest, reasons) = traffic.probes_since(start)?;
    println!("rolling restart of {} nodes: {took:.1} s", cluster.nodes()?.len());
    println!("connections        {} open, a record each {} ms", after.opened, options.interval_ms);
    println!("broken             {} {}", after.broken, after.reasons);
    println!("records            {}", after.records - before.records);
    println!("longest gap        {} ms, before {} ms", after.longest_gap_ms, before.longest_gap_ms);
    println!("new connections    {probes}, {failed} failed, the slowest {slowest} ms {reasons}");
    ensure!(after.broken == 0, "{} connections broke: {}", after.broken, after.reasons);
    Ok(())
}
