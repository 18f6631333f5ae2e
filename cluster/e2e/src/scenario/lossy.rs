//! Connections over a link that loses one frame in a hundred, then over one with an MTU of 1400.

use anyhow::{Result, ensure};

use super::{
    Options,
    traffic::{Load, Traffic},
    watch::unix_seconds,
};
use crate::cluster::{Cluster, output_of};

const SECONDS: u64 = 30;
const CONNECTIONS_MAX: u32 = 200;
const INTERVAL_MS_MIN: u64 = 100;
/// Several segments, so that the MTU matters.
const RECORD_BYTES: usize = 4000;

/// # Errors
/// A connection broke, or the link could not be changed.
pub fn run(options: &Options, cluster: &Cluster) -> Result<()> {
    let load = Load {
        connections: options.connections.min(CONNECTIONS_MAX),
        interval_ms: options.interval_ms.max(INTERVAL_MS_MIN),
        record_bytes: RECORD_BYTES,
    };
    let traffic = Traffic::start(cluster, load)?;
    let node = cluster.nodes()?.pop().unwrap_or_default();
    let result = [("1 % loss", ["--loss", "0.01"]), ("MTU 1400", ["--mtu", "1400"])]
        .into_iter()
        .try_for_each(|(what, change)| observe(cluster, &traffic, &node, what, &change));
    let mend = ["link", &node, "--clear", "--mtu", "1500"];
    output_of(&mut cluster.call(mend))?;
    result
}

fn observe(
    cluster: &Cluster,
    traffic: &Traffic<'_>,
    node: &str,
    what: &str,
    change: &[&str],
) -> Result<()> {
    output_of(&mut cluster.call([&["link", node], change].concat()))?;
    let start = unix_seconds();
    traffic.settle(SECONDS);
    let summary = traffic.summarise_since(start)?;
    let (probes, failed, slowest, reasons) = traffic.probes_since(start)?;
    println!("{what} at {node} for {SECONDS} s:");
    println!("  connections      {}, {} broken", summary.opened, summary.broken);
    println!("  longest gap      {} ms", summary.longest_gap_ms);
    println!("  new connections  {probes}, {failed} failed, the slowest {slowest} ms {reasons}");
    output_of(&mut cluster.call(["link", node, "--clear"]))?;
    ensure!(summary.broken == 0, "{} connections broke: {}", summary.broken, summary.reasons);
    ensure!(failed == 0, "{failed} new connections failed: {reasons}");
    Ok(())
}
