//! Path MTU discovery through every kind of service: a hop of 1400 bytes between two real routers,
//! and links of 1500 at both ends, so that only ICMP errors tell of it.

mod common;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use weir_lab::{
    Cluster, ClusterOptions, ClusterService, Host, Process, Topology,
    cluster::{BackendAt, Kind, NARROW_MTU, OUTSIDE, Port, node_addresses},
    testbed::{ECHO_PORT, HTTP_PORT},
};

use common::{
    ensure_none_is_stuck, serve_as,
    transfer::{download, exchange_datagram, learnt_mtu, upload},
    with_cluster,
};

const BYTES: usize = 1_000_000;

/// Larger than the hop, by less than the link.
const PAYLOAD: usize = 1420;

/// Between the routers and the client outside.
#[test]
fn a_narrow_hop_before_the_client() {
    for workers in [1, 2] {
        let options =
            ClusterOptions { workers, has_narrow_client: true, ..ClusterOptions::default() };
        with_cluster("mtuout", &options, |cluster| {
            let (services, _servers) = populate(cluster)?;
            let local = cluster.node(0).pod("local")?.host();
            let remote = cluster.node(1).pod("remote")?.host();
            // Who must learn of the hop, and on the way to whom.
            let learners = [Some((local, OUTSIDE)), Some((remote, node_addresses(0))), None];
            let mut wrong = Wrong::default();
            for family in [0, 1] {
                for (service, learner) in services.iter().zip(learners) {
                    for kind in [Kind::NodePort(0), Kind::LoadBalancer, Kind::ExternalIp] {
                        let way = Way { host: cluster.client(), service, kind, family };
                        let learner = learner.map(|(host, to)| (host, to.both()[family]));
                        wrong.note(
                            &way,
                            way.check(cluster, &learner.into_iter().collect::<Vec<_>>()),
                        );
                    }
                }
                check_masquerade(cluster, family)?;
            }
            wrong.end()?;
            ensure_none_is_stuck(cluster.hosts())
        });
    }
}

/// Between the routers and the second node.
#[test]
fn a_narrow_hop_before_a_node() {
    for workers in [1, 2] {
        let options = ClusterOptions {
            workers,
            topology: Topology::Apart,
            narrow_node: Some(1),
            ..ClusterOptions::default()
        };
        with_cluster("mtunode", &options, |cluster| {
            let (services, _servers) = populate(cluster)?;
            let service = &services[1];
            let asker = cluster.node(0).pod("ask")?;
            let (client, node) = (cluster.client(), cluster.node(0).host());
            let backend = cluster.node(1).pod("remote")?.host();
            let mut wrong = Wrong::default();
            for family in [0, 1] {
                for (host, seen, kinds) in [
                    (asker.host(), asker.addresses(), &KINDS[..]),
                    (client, node_addresses(0), &KINDS[1..]),
                    // Not at its own node port: Linux notes an MTU at the route that a packet
                    // without ports would take (build_sk_flow_key), here the one to itself.
                    (node, node_addresses(0), &[Kind::ClusterIp, Kind::LoadBalancer]),
                ] {
                    for kind in kinds.iter().copied() {
                        let way = Way { host, service, kind, family };
                        let to = service.at(kind, family, Port::Http).ip();
                        let learners = [(host, to), (backend, seen.both()[family])];
                        wrong.note(&way, way.check(cluster, &learners));
                    }
                }
            }
            wrong.end()?;
            ensure_none_is_stuck(cluster.hosts())
        });
    }
}

const KINDS: [Kind; 3] = [Kind::ClusterIp, Kind::NodePort(0), Kind::LoadBalancer];

#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn note(&mut self, way: &Way<'_>, outcome: Result<String>) {
        let (from, name, kind) = (way.host.name(), way.service.name, way.kind);
        let what = format!("IPv{} {from} to {name} by {kind:?}", [4, 6][way.family]);
        match outcome {
            Ok(said) => println!("{what}: {said}"),
            Err(error) => self.0.push(format!("{what}: {error:#}")),
        }
    }

    fn end(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{} wrong:\n{}", self.0.len(), self.0.join("\n"));
        Ok(())
    }
}

/// A pod that asks, and a backend on each node and one that is the first node itself; a server
/// outside.
fn populate(cluster: &mut Cluster) -> Result<(Vec<ClusterService>, Vec<Process>)> {
    cluster.node_mut(0).add_pod("ask")?;
    let mut services = Vec::new();
    for (node, name) in ["local", "remote"].into_iter().enumerate() {
        let addresses = cluster.node_mut(node).add_backend(name, name)?.addresses();
        let number = u8::try_from(node)?;
        let backends = vec![BackendAt { addresses, node: number }];
        services.push(ClusterService { name, number: 1 + number, backends, spec: vec![] });
    }
    let backends = vec![BackendAt { addresses: node_addresses(0), node: 0 }];
    services.push(ClusterService { name: "host", number: 3, backends, spec: vec![] });
    services.iter().try_for_each(|service| cluster.serve(service))?;
    let mut servers = serve_as(cluster.node(0).host(), "host", node_addresses(0).both())?;
    servers.extend(serve_as(cluster.client(), "outside", OUTSIDE.both())?);
    Ok((services, servers))
}

/// Who asks for what.
struct Way<'a> {
    host: &'a Host,
    service: &'a ClusterService,
    kind: Kind,
    family: usize,
}

impl Way<'_> {
    /// A transfer in each direction, and a datagram that does not fit with its echo, that does not
    /// either. Then those kernels know the hop on the way to those addresses.
    fn check(&self, cluster: &Cluster, learners: &[(&Host, IpAddr)]) -> Result<String> {
        forget_mtus(cluster)?;
        let Self { host, service, kind, family } = *self;
        let to = service.at(kind, family, Port::Http);
        download(host, to, BYTES, 1)?;
        upload(cluster, host, to, BYTES, 1)?;
        let echo = service.at(kind, family, Port::Echo);
        let times = exchange_datagram(host, echo, PAYLOAD)?;
        ensure_learnt(learners)?;
        Ok(format!("1 MB down and up; {PAYLOAD} bytes over UDP, sent {times} times"))
    }
}

/// Every way begins as if it were the first.
fn forget_mtus(cluster: &Cluster) -> Result<()> {
    for host in cluster.hosts() {
        host.ip("-4 route flush cache")?;
        host.ip("-6 route flush cache")?;
    }
    Ok(())
}

fn ensure_learnt(learners: &[(&Host, IpAddr)]) -> Result<()> {
    for (host, to) in learners {
        let mtu = learnt_mtu(host, *to)?;
        ensure!(mtu == Some(NARROW_MTU), "{} knows {mtu:?} on the way to {to}", host.name());
    }
    Ok(())
}

/// A pod to a server outside.
fn check_masquerade(cluster: &Cluster, family: usize) -> Result<()> {
    forget_mtus(cluster)?;
    let asker = cluster.node(0).pod("ask")?.host();
    let outside = OUTSIDE.both()[family];
    upload(cluster, asker, SocketAddr::new(outside, HTTP_PORT), BYTES, 1)?;
    download(asker, SocketAddr::new(outside, HTTP_PORT), BYTES, 1)?;
    exchange_datagram(asker, SocketAddr::new(outside, ECHO_PORT), PAYLOAD)?;
    ensure_learnt(&[(asker, outside)])
}
