//! Every path of a packet between pods, nodes and the world outside, over every kind of service:
//! a cluster of two nodes and a router, real kernels at both ends.

#[path = "../common/mod.rs"]
mod common;
mod loopback;
mod row;
mod setup;
mod tools;

use anyhow::Result;
use weir_lab::{
    Cluster, ClusterOptions, ClusterService, Topology,
    cluster::{Kind, OUTSIDE, node_addresses},
};

use common::{ensure_none_is_stuck, ping, with_cluster};
use loopback::check_loopback;
use row::{Client, Expect, Row, Seen, check_rows};
use setup::{INSIDE, OUTER, populate, serve_tools, services};

/// Backends by where they are: pods of either node, and the nodes themselves.
const PLACES: [&str; 4] = ["local", "remote", "host", "host-remote"];

#[test]
fn two_nodes_on_one_segment() {
    let options = ClusterOptions::default();
    with_cluster("segment", &options, check_everything);
}

#[test]
fn two_nodes_behind_a_router_with_two_workers() {
    let options = ClusterOptions { workers: 2, topology: Topology::Apart, ..Default::default() };
    with_cluster("apart", &options, check_everything);
}

fn check_everything(cluster: &mut Cluster) -> Result<()> {
    let _servers = populate(cluster)?;
    let services = services(cluster)?;
    check_rows(cluster, &services, &all_rows())?;
    check_loopback(cluster)?;
    check_pings(cluster)?;
    check_tools(cluster, &services)?;
    ensure_none_is_stuck(cluster.hosts())
}

/// Who asks what, who should answer, and whose address the answerer should see.
fn all_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for place in PLACES {
        for kind in INSIDE {
            for client in [Client::Pod("ask"), Client::PodFar("ask-far")] {
                rows.push(Row::answered(client, place, kind, &[place], Seen::Any));
            }
            rows.push(Row::answered(Client::Node(0), place, kind, &[place], Seen::Any));
        }
        for kind in OUTER {
            rows.push(Row::answered(
                Client::Outside,
                place,
                kind,
                &[place],
                from_outside(place, kind),
            ));
        }
    }
    for kind in INSIDE {
        rows.push(Row::answered(Client::Pod("self"), "self", kind, &["self"], Seen::Any));
        for client in [Client::Pod("ask"), Client::Node(0)] {
            rows.push(Row::new(client, "none", kind, Expect::Refused));
            rows.push(Row::answered(client, "sticky", kind, &["local", "remote"], Seen::One));
        }
    }
    for kind in OUTER {
        rows.push(Row::new(Client::Outside, "none", kind, Expect::Refused));
        let (near, seen) = match kind {
            Kind::NodePort(1) => ("remote", Seen::Own),
            _ => ("local", Seen::Own),
        };
        rows.push(Row::answered(Client::Outside, "near", kind, &[near], seen));
        rows.push(Row::answered(Client::Outside, "sticky", kind, &["local", "remote"], Seen::One));
    }
    rows.extend(rows_without_a_service());
    rows
}

/// A client outside is seen by its own address where its node has the backend, else by that of the
/// node that it asked.
fn from_outside(place: &str, kind: Kind) -> Seen {
    let asked = if let Kind::NodePort(node) = kind { node } else { 0 };
    match (place, asked) {
        ("local", 0) | ("remote", 1) => Seen::Own,
        ("remote" | "host-remote", 0) | ("local" | "host", 1) => Seen::Node(asked),
        _ => Seen::Any,
    }
}

/// Host ports; pods to the world outside, masqueraded, and to other nodes.
fn rows_without_a_service() -> Vec<Row> {
    let mut rows = Vec::new();
    for client in [Client::Pod("ask"), Client::PodFar("ask-far"), Client::Outside, Client::Node(0)]
    {
        let seen = if client == Client::Outside { Seen::Own } else { Seen::Any };
        rows.push(Row::to_host_port(client, "local", seen));
    }
    rows.push(Row::to_outside(Client::Pod("ask"), Seen::Node(0)));
    rows.push(Row::to_outside(Client::PodFar("ask-far"), Seen::Node(1)));
    rows.push(Row::to_outside(Client::Node(0), Seen::Node(0)));
    rows.push(Row::to_node(Client::Pod("ask"), 1, "host-remote", Seen::Own));
    rows.push(Row::to_node(Client::Pod("ask"), 0, "host", Seen::Own));
    rows.push(Row::to_node(Client::Outside, 0, "host", Seen::Own));
    rows
}

/// The real tools, over the two longest ways; another suite has them over every way.
fn check_tools(cluster: &Cluster, services: &[ClusterService]) -> Result<()> {
    let _servers = serve_tools(cluster)?;
    let asker = cluster.node(0).pod("ask")?.host();
    let remote = &services[1];
    for (host, kind) in [(asker, Kind::ClusterIp), (cluster.client(), Kind::NodePort(0))] {
        tools::check_dns(host, remote, kind)?;
        tools::check_bodies(cluster, host, remote, kind)?;
        tools::check_iperf(host, remote, kind)?;
    }
    Ok(())
}

/// Through masquerade, and between pods of two nodes.
fn check_pings(cluster: &Cluster) -> Result<()> {
    let asker = cluster.node(0).pod("ask")?.host();
    for family in [0, 1] {
        ping(asker, OUTSIDE.both()[family])?;
        ping(asker, cluster.node(1).pod("remote")?.addresses().both()[family])?;
        ping(asker, node_addresses(1).both()[family])?;
    }
    Ok(())
}
