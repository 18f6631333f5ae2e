//! Direct server return over two and three real nodes: packets of a client reach a backend on
//! another node by the node that balances, and answers go straight to the client.

mod common;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use weir_lab::{
    Cluster, ClusterOptions, ClusterService, Topology,
    cluster::{BackendAt, Kind, OUTSIDE, Port},
};

use common::{
    ask, ensure_none_is_stuck,
    transfer::{download, exchange_datagram, interface_bytes, upload},
    with_cluster,
};

const BYTES: usize = 1_000_000;
const KINDS: [Kind; 3] = [Kind::NodePort(0), Kind::LoadBalancer, Kind::ExternalIp];

/// Of an Ethernet link: 1500 bytes.
const PAYLOAD_MAX: [usize; 2] = [1500 - 28, 1500 - 48];

fn options(nodes: u8, mode: &str, dispatch: &str) -> ClusterOptions {
    let flags = vec![format!("--load-balancer-mode={mode}"), format!("--dsr-dispatch={dispatch}")];
    ClusterOptions { nodes, agent_flags: flags, ..Default::default() }
}

#[test]
fn geneve_over_two_nodes() {
    with_cluster("geneve2", &options(2, "dsr", "geneve"), check_dsr);
}

#[test]
fn geneve_over_three_nodes_behind_a_router_with_two_workers() {
    let apart =
        ClusterOptions { topology: Topology::Apart, workers: 2, ..options(3, "dsr", "geneve") };
    with_cluster("geneve3", &apart, check_dsr);
}

#[test]
fn ipip_over_two_nodes() {
    with_cluster("ipip2", &options(2, "dsr", "ipip"), check_ipip);
}

#[test]
fn ipip_over_three_nodes() {
    with_cluster("ipip3", &options(3, "dsr", "ipip"), check_ipip);
}

#[test]
fn option_over_two_nodes() {
    with_cluster("option2", &options(2, "dsr", "option"), check_dsr);
}

#[test]
fn option_over_three_nodes() {
    with_cluster("option3", &options(3, "dsr", "option"), check_dsr);
}

/// What the figures of the others are to be compared with.
#[test]
fn without_it_answers_come_back_by_the_node_that_balances() {
    with_cluster("nodsr", &options(2, "snat", "geneve"), |cluster| {
        let service = populate(cluster)?;
        for family in [0, 1] {
            let to = service.at(Kind::LoadBalancer, family, Port::Http);
            let before = sent_by_nodes(cluster)?;
            download(cluster.client(), to, BYTES, 1)?;
            let after = sent_by_nodes(cluster)?;
            let sent = after[0] - before[0];
            ensure!(sent > BYTES as u64, "node-1 sent {sent} bytes of {BYTES}");
        }
        Ok(())
    });
}

#[test]
fn hybrid_is_dsr_for_tcp_and_source_translation_for_udp() {
    with_cluster("hybrid", &options(2, "hybrid", "geneve"), |cluster| {
        let service = populate(cluster)?;
        for family in [0, 1] {
            check_large(cluster, &service, Kind::LoadBalancer, family)?;
            let to = service.at(Kind::LoadBalancer, family, Port::Echo);
            let report = ask(cluster.client(), to, 5)?;
            let node = weir_lab::cluster::node_addresses(0).both()[family].to_string();
            ensure!(report.askers.keys().eq([&node]), "{to}: seen were {:?}", report.askers);
        }
        Ok(())
    });
}

/// One backend on each node but the first.
fn populate(cluster: &mut Cluster) -> Result<ClusterService> {
    let mut backends = Vec::new();
    let others = cluster.nodes().len() - 1;
    for (node, name) in (1..).zip(["far", "farther"]).take(others) {
        let pod = cluster.node_mut(node).add_backend(name, "far")?;
        backends.push(BackendAt { addresses: pod.addresses(), node: u8::try_from(node)? });
    }
    let service = ClusterService { name: "far", number: 1, backends, spec: vec![] };
    cluster.serve(&service)?;
    Ok(service)
}

fn check_dsr(cluster: &mut Cluster) -> Result<()> {
    let service = populate(cluster)?;
    check_kinds(cluster, &service, &KINDS)
}

/// The address of a NodePort is the balancing node's own, which the backend's node would have to
/// take for a service's: with IP in IP, where nothing else says so, it gets source translation.
fn check_ipip(cluster: &mut Cluster) -> Result<()> {
    let service = populate(cluster)?;
    for family in [0, 1] {
        let http = service.at(Kind::NodePort(0), family, Port::Http);
        download(cluster.client(), http, BYTES, 2)?;
        upload(cluster, cluster.client(), http, BYTES, 2)?;
        let report = ask(cluster.client(), service.at(Kind::NodePort(0), family, Port::Echo), 8)?;
        let node = weir_lab::cluster::node_addresses(0).both()[family].to_string();
        ensure!(report.askers.keys().eq([&node]), "seen were {:?}", report.askers);
    }
    check_kinds(cluster, &service, &KINDS[1..])
}

fn check_kinds(cluster: &Cluster, service: &ClusterService, kinds: &[Kind]) -> Result<()> {
    let mut wrong = Vec::new();
    for family in [0, 1] {
        for kind in kinds.iter().copied() {
            for (what, outcome) in [
                ("questions", check_questions(cluster, service, kind, family)),
                ("transfers", check_large(cluster, service, kind, family)),
                ("datagrams", check_datagrams(cluster, service, kind, family)),
            ] {
                let family = [4, 6][family];
                match outcome {
                    Ok(said) => println!("IPv{family} {kind:?} {what}: {said}"),
                    Err(error) => wrong.push(format!("IPv{family} {kind:?} {what}: {error:#}")),
                }
            }
        }
    }
    println!("dropped by node-1: {:?}", cluster.node(0).drops()?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure_none_is_stuck(cluster.hosts())
}

/// Short ones over both protocols: the backends see the client itself, and the client takes answers
/// from the service's address alone, or its sockets would not have them.
fn check_questions(
    cluster: &Cluster,
    service: &ClusterService,
    kind: Kind,
    family: usize,
) -> Result<String> {
    let client = cluster.client();
    let to = service.at(kind, family, Port::Http);
    let url = format!("http://{to}/");
    let words = ["curl", "-sS", "-g", "--max-time", "5", "-H", "Connection: close"];
    let own = OUTSIDE.both()[family];
    let said = client.run(words.into_iter().chain([url.as_str(); 8]))?;
    for line in said.lines() {
        let peer = line.split(" sees ").nth(1).and_then(|it| it.parse::<SocketAddr>().ok());
        ensure!(peer.is_some_and(|peer| peer.ip() == own), "{to}: {line}");
    }
    let report = ask(client, service.at(kind, family, Port::Echo), 8)?;
    ensure!(report.askers.keys().eq([&own.to_string()]), "{to}: seen were {:?}", report.askers);
    Ok(format!("{} answers, {:?}", said.lines().count(), report.backends))
}

/// Both directions; what the node that balances sent is a small part of what the client got.
fn check_large(
    cluster: &Cluster,
    service: &ClusterService,
    kind: Kind,
    family: usize,
) -> Result<String> {
    let to = service.at(kind, family, Port::Http);
    let before = sent_by_nodes(cluster)?;
    download(cluster.client(), to, BYTES, 4)?;
    let after = sent_by_nodes(cluster)?;
    let sent: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    // Acknowledgements of the client pass it on their way to the backend.
    let is_bypassed =
        sent[0] < 4 * BYTES as u64 / 5 && sent[1..].iter().sum::<u64>() > 4 * BYTES as u64;
    ensure!(is_bypassed, "{to}: nodes sent {sent:?} bytes of {}", 4 * BYTES);
    upload(cluster, cluster.client(), to, BYTES, 2)?;
    Ok(format!("4 MB down, the nodes sent {sent:?} bytes; 2 MB up"))
}

/// The largest that the client's link takes does not fit the tunnel: the client is told.
fn check_datagrams(
    cluster: &Cluster,
    service: &ClusterService,
    kind: Kind,
    family: usize,
) -> Result<String> {
    let to = service.at(kind, family, Port::Echo);
    let times = exchange_datagram(cluster.client(), to, PAYLOAD_MAX[family])?;
    Ok(format!("{} bytes, sent {times} times", PAYLOAD_MAX[family]))
}

/// By every node into the network, bytes.
fn sent_by_nodes(cluster: &Cluster) -> Result<Vec<u64>> {
    let nodes = cluster.nodes().iter();
    nodes.map(|node| Ok(interface_bytes(cluster.router(), node.name())?.1)).collect()
}
