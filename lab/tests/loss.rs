//! Links between router and nodes that lose a hundredth of all frames and put others out of order:
//! transfers through every kind of service finish, and no kernel is left with a connection that the
//! other end does not know.

mod common;

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_lab::{
    Cluster, ClusterOptions, ClusterService, Host, Impairment,
    clock::Stopwatch,
    cluster::{BackendAt, Kind, OUTSIDE, Port},
};

use common::{
    ensure_none_is_stuck, serve_as,
    transfer::{download, upload},
    try_ask, with_cluster,
};

const BYTES: usize = 500_000;
const CONNECTIONS: usize = 4;
const QUESTIONS: u64 = 60;

/// Decides which frames; a failure prints it with the links.
const SEED: u64 = 0x5eed_0004;

fn impaired(agent_flags: &[&str], workers: u16) -> ClusterOptions {
    let impairment = Impairment {
        loss: 0.01,
        reorder: 0.01,
        delay: Duration::from_micros(200),
        ..Impairment::default()
    };
    ClusterOptions {
        workers,
        agent_flags: agent_flags.iter().map(|flag| (*flag).to_owned()).collect(),
        impairment: Some((SEED, impairment)),
        ..ClusterOptions::default()
    }
}

#[test]
fn with_source_translation_and_one_worker() {
    with_cluster("losssnat", &impaired(&[], 1), check);
}

#[test]
fn with_direct_server_return_and_two_workers() {
    with_cluster("lossdsr", &impaired(&["--load-balancer-mode=dsr"], 2), check);
}

fn check(cluster: &mut Cluster) -> Result<()> {
    let outcome = check_transfers(cluster);
    for link in cluster.links() {
        println!("{link}: {:?}", link.counters());
    }
    outcome?;
    for link in cluster.links() {
        let counters = link.counters();
        ensure!(counters.lost > 0 && counters.reordered > 0, "a good link: {link}");
    }
    ensure_none_is_stuck(cluster.hosts())
}

fn check_transfers(cluster: &mut Cluster) -> Result<()> {
    cluster.node_mut(0).add_pod("ask")?;
    let mut services = Vec::new();
    for (node, name) in ["local", "remote"].into_iter().enumerate() {
        let addresses = cluster.node_mut(node).add_backend(name, name)?.addresses();
        let node = u8::try_from(node)?;
        let backends = vec![BackendAt { addresses, node }];
        services.push(ClusterService { name, number: 1 + node, backends, spec: vec![] });
    }
    services.iter().try_for_each(|service| cluster.serve(service))?;
    let _outside = serve_as(cluster.client(), "outside", OUTSIDE.both())?;
    let cluster = &*cluster;
    let (asker, node) = (cluster.node(0).pod("ask")?.host(), cluster.node(0).host());
    let [local, remote] = [&services[0], &services[1]];
    for family in [0, 1] {
        for (host, service, kind) in [
            (cluster.client(), local, Kind::NodePort(0)),
            (cluster.client(), remote, Kind::NodePort(0)),
            (cluster.client(), remote, Kind::LoadBalancer),
            (cluster.client(), remote, Kind::ExternalIp),
            (asker, remote, Kind::ClusterIp),
            (asker, local, Kind::NodePort(1)),
            (node, remote, Kind::ClusterIp),
            (node, remote, Kind::NodePort(0)),
        ] {
            check_way(cluster, host, service, kind, family)?;
        }
        let outside = OUTSIDE.both()[family];
        download(asker, (outside, weir_lab::testbed::HTTP_PORT).into(), BYTES, 4)?;
    }
    Ok(())
}

fn check_way(
    cluster: &Cluster,
    host: &Host,
    service: &ClusterService,
    kind: Kind,
    family: usize,
) -> Result<()> {
    let watch = Stopwatch::start();
    let to = service.at(kind, family, Port::Http);
    download(host, to, BYTES, CONNECTIONS as u64)?;
    upload(cluster, host, to, BYTES, CONNECTIONS)?;
    let report = try_ask(host, service.at(kind, family, Port::Echo), QUESTIONS, 100)?;
    // What may be lost: a frame each way on up to four passages of a link.
    ensure!(report.lost <= QUESTIONS / 4, "{to} from {}: {report}", host.name());
    let (ms, lost, from) = (watch.elapsed().as_millis(), report.lost, host.name());
    println!(
        "{from:<8} {} {kind:?} {to}: {ms} ms; {lost} of {QUESTIONS} over UDP lost",
        service.name
    );
    Ok(())
}
