//! What the agent does to established connections: nothing. It is killed and started again, its
//! updates are repeated, put out of order and cut off, while connections run through services that
//! stay, and others come and go.

mod common;
#[path = "agent/proxy.rs"]
mod proxy;

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_lab::{
    Cluster, ClusterOptions, ClusterService, Host, Process,
    clock::{Stopwatch, pause, wait_until},
    cluster::{BackendAt, Kind, OUTSIDE, Port},
    testbed::{Addresses, HTTP_PORT},
};

use common::{Downloads, PATIENCE, ensure_none_is_stuck, serve_as, with_idle_cluster};
use proxy::{Fault, Proxy};

/// Of each group of downloads; there are ten groups.
const CONNECTIONS: u64 = 20;
/// Each download lasts some 9 s.
const CHUNKS: u64 = 90;
const PACE_MS: u64 = 100;
const SECONDS: Duration = Duration::from_secs(9);

/// UDP sockets, each of which asks one question after the other.
const SOCKETS: usize = 10;

#[test]
fn killed_and_started_again() {
    under_load("agentkill", |cluster, load| {
        let mut times = 0;
        while load.is_young() {
            cluster.node(0).agent().context("an agent")?.kill();
            pause(Duration::from_millis(200));
            change_others(cluster, times)?;
            cluster.node_mut(0).start_agent()?;
            cluster.node(0).wait_until_settled()?;
            times += 1;
        }
        println!("killed and started again {times} times");
        ensure!(times >= 3, "{times} times");
        Ok(())
    });
}

#[test]
fn with_updates_repeated_swapped_and_cut_off() {
    under_load("agentlies", |cluster, load| {
        let socket = cluster.node(0).run_folder().join("dataplane.sock");
        let behind = socket.with_file_name("behind.sock");
        fs::rename(&socket, &behind)?;
        let proxy = Proxy::start(&socket, &behind)?;
        // Its stream goes to the dataplane itself until then.
        cluster.node(0).agent().context("an agent")?.kill();
        cluster.node_mut(0).start_agent()?;
        cluster.node(0).wait_until_settled()?;
        let mut times = 0;
        while load.is_young() {
            for fault in [Fault::Repeat, Fault::Swap, Fault::Lose, Fault::Cut, Fault::CutVerdict] {
                proxy.set(fault);
                change_others(cluster, times)?;
                times += 1;
                pause(Duration::from_millis(100));
                change_others(cluster, times)?;
                times += 1;
                wait_until("the fault to happen", PATIENCE, || proxy.is_over().then_some(()))?;
                cluster.node(0).wait_until_settled()?;
            }
        }
        let (counts, streams) = (proxy.counts(), proxy.streams());
        println!("{times} changes; faults {counts:?}; {streams} streams");
        ensure!(counts.values().sum::<u32>() >= 5 && streams > 5, "{counts:?}, {streams} streams");
        Ok(())
    });
}

/// A service that comes and goes, and one whose backends change.
fn change_others(cluster: &Cluster, times: u8) -> Result<()> {
    let pods = ["local", "far"].map(|name| {
        let node = u8::from(name == "far");
        let pod = cluster.node(node.into()).pod(name)?;
        Ok(BackendAt { addresses: pod.addresses(), node })
    });
    let [near, far] = pods.map(|it: Result<_>| it);
    let is_even = times.is_multiple_of(2);
    let backends = if is_even { vec![near?, far?] } else { vec![far?] };
    let other = ClusterService { name: "other", number: 50, backends, spec: vec![] };
    cluster.apply("service-other", &other.yaml())?;
    let come = ClusterService { name: "come", number: 51, backends: vec![], spec: vec![] };
    match is_even {
        true => cluster.apply("service-come", &come.yaml())?,
        false => cluster.node(0).delete("service-come")?,
    }
    Ok(())
}

/// Connections of every kind that run.
struct Load {
    watch: Stopwatch,
}

impl Load {
    /// Whether what is done now is still done to all connections.
    fn is_young(&self) -> bool {
        self.watch.elapsed() + Duration::from_secs(3) < SECONDS
    }
}

/// Does something to the first node's agent while connections run, and counts those that broke.
fn under_load(name: &str, work: impl FnOnce(&mut Cluster, &Load) -> Result<()>) {
    let options = ClusterOptions { workers: 2, ..ClusterOptions::default() };
    with_idle_cluster(name, &options, |cluster| {
        cluster.node_mut(1).start_up()?;
        cluster.node_mut(0).start_dataplane()?;
        cluster.node_mut(0).start_agent()?;
        let service = populate(cluster)?;
        let _outside: Vec<Process> = serve_as(cluster.client(), "outside", OUTSIDE.both())?;
        let downloads = start_downloads(cluster, &service)?;
        let client = cluster.client().clone();
        let to = service.at(Kind::LoadBalancer, 0, Port::Echo);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let talk = scope.spawn(|| converse(&client, to, &stop));
            let load = Load { watch: Stopwatch::start() };
            let outcome = work(cluster, &load);
            stop.store(true, Ordering::Relaxed);
            let questions = talk.join().map_err(|_| anyhow::anyhow!("a panic"))??;
            println!("{questions} questions over {SOCKETS} UDP sockets, all answered by one each");
            outcome
        })?;
        let connections = downloads.len() as u64 * CONNECTIONS;
        for downloads in downloads {
            downloads.finish()?;
        }
        println!("{connections} connections, 0 broken");
        ensure_none_is_stuck(cluster.hosts())
    });
}

/// A pod that asks, and a service with a backend on each node.
fn populate(cluster: &mut Cluster) -> Result<ClusterService> {
    cluster.node_mut(0).wait_until_settled()?;
    cluster.node_mut(0).add_pod("ask")?;
    let mut backends = Vec::new();
    for (node, name) in ["local", "far"].into_iter().enumerate() {
        let addresses: Addresses = cluster.node_mut(node).add_backend(name, name)?.addresses();
        backends.push(BackendAt { addresses, node: u8::try_from(node)? });
    }
    let service = ClusterService { name: "web", number: 1, backends, spec: vec![] };
    cluster.serve(&service)?;
    Ok(service)
}

fn start_downloads(cluster: &Cluster, service: &ClusterService) -> Result<Vec<Downloads>> {
    let (asker, node) = (cluster.node(0).pod("ask")?.host(), cluster.node(0).host());
    let mut downloads = Vec::new();
    for family in [0, 1] {
        let at = |kind| service.at(kind, family, Port::Http);
        for (host, to) in [
            (cluster.client(), at(Kind::NodePort(0))),
            (cluster.client(), at(Kind::LoadBalancer)),
            (asker, at(Kind::ClusterIp)),
            (node, at(Kind::ClusterIp)),
            (asker, SocketAddr::new(OUTSIDE.both()[family], HTTP_PORT)),
        ] {
            downloads.push(Downloads::start(host, to, CONNECTIONS, CHUNKS, PACE_MS)?);
        }
    }
    let pods: usize = 2 * 4 * CONNECTIONS as usize;
    wait_until("all connections", PATIENCE, || {
        let counts = cluster.pods().map(|pod| pod.count_established(HTTP_PORT));
        (counts.flatten().sum::<usize>() == pods).then_some(())
    })?;
    Ok(downloads)
}

/// Asks over the same sockets again and again: each has one backend, which always answers. Gives
/// the number of questions.
fn converse(client: &Host, to: SocketAddr, stop: &AtomicBool) -> Result<u64> {
    let open = || -> std::io::Result<_> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    };
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push((client.enter(open)??, None));
    }
    let (mut asked, mut buffer) = (0_u64, [0; 1500]);
    while !stop.load(Ordering::Relaxed) {
        for (socket, backend) in &mut sockets {
            asked += 1;
            socket.send(asked.to_string().as_bytes())?;
            let length = socket.recv(&mut buffer).with_context(|| format!("question {asked}"))?;
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            ensure!(answer.ends_with(&format!(" {asked}")), "question {asked}: {answer}");
            let name = answer.split(' ').next().unwrap_or_default().to_owned();
            let first = backend.get_or_insert_with(|| name.clone());
            ensure!(*first == name, "question {asked}: first {first}, now {name}");
        }
        pause(Duration::from_millis(5));
    }
    Ok(asked)
}
