//! curl, iperf3 and dig over every kind of service and every path to a backend on either node.
//! Slow: `scripts/paths` runs it.

#[path = "../common/mod.rs"]
mod common;
mod setup;
mod tools;

use anyhow::Result;
use weir_lab::{Cluster, ClusterOptions, ClusterService, Host, Topology, cluster::Kind};

use common::{ensure_none_is_stuck, with_cluster};
use setup::{INSIDE, OUTER, populate, serve_tools, services};

#[test]
fn on_one_segment() {
    with_cluster("tools", &ClusterOptions::default(), check);
}

#[test]
fn behind_a_router_with_two_workers() {
    let options = ClusterOptions { workers: 2, topology: Topology::Apart, ..Default::default() };
    with_cluster("toolsapart", &options, check);
}

#[test]
fn with_direct_server_return() {
    let agent_flags = vec!["--load-balancer-mode=dsr".into()];
    with_cluster("toolsdsr", &ClusterOptions { agent_flags, ..Default::default() }, check);
}

fn check(cluster: &mut Cluster) -> Result<()> {
    let _servers = populate(cluster)?;
    let services = services(cluster)?;
    let _tools = serve_tools(cluster)?;
    let asker = cluster.node(0).pod("ask")?.host();
    for service in &services[..2] {
        for kind in OUTER {
            check_all(cluster, cluster.client(), service, kind)?;
        }
        for kind in INSIDE {
            check_all(cluster, asker, service, kind)?;
            check_all(cluster, cluster.node(0).host(), service, kind)?;
        }
    }
    ensure_none_is_stuck(cluster.hosts())
}

fn check_all(cluster: &Cluster, host: &Host, service: &ClusterService, kind: Kind) -> Result<()> {
    tools::check_dns(host, service, kind)?;
    tools::check_bodies(cluster, host, service, kind)?;
    tools::check_iperf(host, service, kind)
}
