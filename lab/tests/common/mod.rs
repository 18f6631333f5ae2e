//! Real traffic between the hosts of a testbed, checked: what the end-to-end tests share.
#![allow(dead_code, reason = "every test binary uses a part")]

pub mod transfer;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use weir_lab::{
    Cluster, ClusterOptions, Host, Node, Process, Testbed, TestbedOptions,
    clock::wait_until,
    program,
    report::{DownloadReport, GetReport, UdpReport},
    skipped,
    testbed::{ECHO_PORT, HTTP_PORT},
};

/// For whatever must happen, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Drops that any node has: kernels of pods speak on their links by themselves.
pub const ORDINARY_DROPS: [&str; 1] = ["link_local"];

/// Workers and packet generators need the cores: one testbed at a time.
static SERIAL: Mutex<()> = Mutex::new(());

const PORT_RANGE: &str = "net.ipv4.ip_local_port_range";

/// How many ranges of ports were used for questions.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Runs a test over a new testbed, alone; one that fails shows what every program said.
#[track_caller]
pub fn with_testbed(
    name: &str,
    options: TestbedOptions,
    test: impl FnOnce(&mut Testbed) -> Result<()>,
) {
    if skipped() {
        return;
    }
    let _alone = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = Testbed::new(name, options).map(|mut testbed| match test(&mut testbed) {
        Ok(()) => (),
        // Before the testbed goes: it prints what its processes said.
        Err(error) => panic!("{name}: {error:#}; drops: {:?}", testbed.drops()),
    });
    if let Err(error) = outcome {
        panic!("{name}: {error}");
    }
}

/// Runs a test over a new cluster whose nodes all run weir, as [`with_testbed`] does.
#[track_caller]
pub fn with_cluster(
    name: &str,
    options: &ClusterOptions,
    test: impl FnOnce(&mut Cluster) -> Result<()>,
) {
    with_idle_cluster(name, options, |cluster| {
        cluster.start_up()?;
        test(cluster)
    });
}

/// The same where nothing runs yet.
#[track_caller]
pub fn with_idle_cluster(
    name: &str,
    options: &ClusterOptions,
    test: impl FnOnce(&mut Cluster) -> Result<()>,
) {
    if skipped() {
        return;
    }
    let _alone = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cluster = Cluster::new(name, options).unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = test(&mut cluster) {
        // Before the cluster goes: it prints what its processes said.
        let drops: Vec<_> = cluster.nodes().iter().map(Node::drops).collect();
        panic!("{name}: {error:#}; drops: {drops:?}");
    }
}

/// So many HTTP requests, each on a new connection; all must succeed.
pub fn get(host: &Host, to: SocketAddr, requests: u64) -> Result<GetReport> {
    let report = try_get(host, to, requests, 10.0)?;
    let GetReport { failed, failures, .. } = &report;
    let from = host.name();
    ensure!(*failed == 0, "{failed} of {requests} from {from} to {to} failed: {failures:?}");
    Ok(report)
}

/// The same, whatever comes of it.
pub fn try_get(host: &Host, to: SocketAddr, requests: u64, timeout_s: f64) -> Result<GetReport> {
    let (url, requests) = (format!("http://{to}/"), requests.to_string());
    let timeout = timeout_s.to_string();
    let arguments = ["get", "--url", &url, "--requests", &requests, "--concurrency", "8"];
    run_json(host, "weir-lab-http", &[&arguments[..], &["--timeout-s", &timeout]].concat())
}

/// So many UDP questions, each from a new source port; all must be answered, once.
pub fn ask(host: &Host, to: SocketAddr, count: u64) -> Result<UdpReport> {
    let report = try_ask(host, to, count, 5000)?;
    let UdpReport { lost, losses, extra, .. } = &report;
    let from = host.name();
    ensure!(*lost == 0, "{lost} of {count} from {from} to {to} lost: {losses:?}");
    ensure!(*extra == 0, "{from}: {extra} answers of {to} came twice");
    Ok(report)
}

/// The same, whatever comes of it.
///
/// No question has the source port of an earlier one: a UDP flow is over only when it was idle for
/// a while, and until then its port leads to one address of a backend alone.
pub fn try_ask(host: &Host, to: SocketAddr, count: u64, timeout_ms: u64) -> Result<UdpReport> {
    let first = 10_000 + ASKED.fetch_add(1, Ordering::Relaxed) % 200 * 100;
    host.sysctl(PORT_RANGE, &format!("{first} {}", first + 99))?;
    let (to, count, timeout) = (to.to_string(), count.to_string(), timeout_ms.to_string());
    let arguments = ["ask", "--to", &to, "--count", &count, "--timeout-ms", &timeout];
    let arguments = [&arguments[..], &["--new-socket-each"]].concat();
    let report = run_json(host, "weir-lab-udp", &arguments);
    // The kernel's own, for everything else.
    host.sysctl(PORT_RANGE, "32768 60999")?;
    report
}

/// Three pings, all answered, however late: once it has an answer, ping waits for others no longer
/// than its interval.
pub fn ping(host: &Host, to: IpAddr) -> Result<()> {
    let to = to.to_string();
    for _ in 0..3 {
        let answered = host.run(["ping", "-q", "-c", "1", "-W", "10", &to]);
        answered.with_context(|| format!("from {}", host.name()))?;
    }
    Ok(())
}

fn run_json<R: DeserializeOwned>(host: &Host, name: &str, arguments: &[&str]) -> Result<R> {
    let mut command = Command::new(program(name)?);
    command.args(arguments).args(["--json", "--allow-failures"]);
    let printed = host.spawn(command)?.wait_for_success(PATIENCE)?;
    serde_json::from_str(&printed).with_context(|| format!("{name} printed {printed:?}"))
}

/// Servers of HTTP on these addresses, at the port of the pods' servers.
pub fn serve(host: &Host, addresses: [IpAddr; 2]) -> Result<Process> {
    start_server(host, "weir-lab-http", host.name(), addresses, HTTP_PORT)
}

/// Servers of HTTP and UDP on these addresses, under that name, at the ports of the pods' servers.
pub fn serve_as(host: &Host, name: &str, addresses: [IpAddr; 2]) -> Result<Vec<Process>> {
    let servers = [("weir-lab-http", HTTP_PORT), ("weir-lab-udp", ECHO_PORT)];
    let start = |(server, port)| start_server(host, server, name, addresses, port);
    servers.into_iter().map(start).collect()
}

fn start_server(
    host: &Host,
    server: &str,
    name: &str,
    addresses: [IpAddr; 2],
    port: u16,
) -> Result<Process> {
    let mut command = Command::new(program(server)?);
    command.args(["serve", "--name", name]);
    for address in addresses {
        command.args(["--listen", &SocketAddr::new(address, port).to_string()]);
    }
    let process = host.spawn(command)?;
    let last = SocketAddr::new(addresses[1], port);
    process.wait_for_output(&format!("listening on {last}"), PATIENCE)?;
    Ok(process)
}

/// Parallel downloads that run.
pub struct Downloads {
    process: Process,
    connections: u64,
    what: String,
}

impl Downloads {
    /// Each of `chunks` pieces of 16 KiB, with a pause of `pace_ms` before each.
    pub fn start(
        host: &Host,
        to: SocketAddr,
        connections: u64,
        chunks: u64,
        pace_ms: u64,
    ) -> Result<Self> {
        let mut command = Command::new(program("weir-lab-http")?);
        let url = format!("http://{to}/bytes/{}?pace_ms={pace_ms}", chunks * 16 * 1024);
        command.args(["download", "--json", "--allow-failures", "--timeout-s", "50", "--url"]);
        command.args([&url, "--connections", &connections.to_string()]);
        let what = format!("downloads from {} by {}", to, host.name());
        Ok(Self { process: host.spawn(command)?, connections, what })
    }

    /// Waits for their end, whatever comes of them.
    pub fn end(self) -> Result<DownloadReport> {
        let printed = self.process.wait_for_success(PATIENCE)?;
        serde_json::from_str(&printed).context(self.what)
    }

    /// Waits for their end; all must have finished with every byte right.
    pub fn finish(self) -> Result<DownloadReport> {
        let (connections, what) = (self.connections, self.what.clone());
        let report = self.end()?;
        let DownloadReport { finished, failures, .. } = &report;
        ensure!(*finished == connections, "{what}: {finished} of {connections}: {failures:?}");
        Ok(report)
    }
}

/// Waits until the pods hold so many connections to their HTTP servers.
pub fn wait_for_connections(testbed: &Testbed, pods: &[&str], count: usize) -> Result<()> {
    let what = format!("{count} connections to {pods:?}");
    wait_until(&what, PATIENCE, || {
        let counts = pods.iter().map(|pod| testbed.pod(pod)?.count_established(HTTP_PORT));
        let total: usize = counts.flatten().sum();
        (total == count).then_some(())
    })?;
    Ok(())
}

/// Every backend had a part, and nobody else had any.
pub fn ensure_split(split: &BTreeMap<String, u64>, backends: &[&str]) -> Result<()> {
    let names: Vec<&str> = split.keys().map(String::as_str).collect();
    ensure!(names == backends, "answers came from {split:?} instead of {backends:?}");
    Ok(())
}

/// What was dropped for these reasons and the ordinary ones only.
pub fn ensure_drops_only(testbed: &Node, reasons: &[&str]) -> Result<BTreeMap<String, u64>> {
    let mut drops = testbed.drops()?;
    drops.retain(|reason, _| !ORDINARY_DROPS.contains(&reason.as_str()));
    let is_expected = |reason: &String| reasons.contains(&reason.as_str());
    ensure!(drops.keys().all(is_expected), "dropped beside {reasons:?}: {drops:?}");
    Ok(drops)
}

/// Waits until no host holds a connection, other than in TIME_WAIT.
pub fn ensure_no_connection_is_stuck(testbed: &Testbed) -> Result<()> {
    let outside = [testbed.client(), testbed.node()].into_iter();
    ensure_none_is_stuck(outside.chain(testbed.pods().map(|pod| pod.host())))
}

/// The same for these hosts.
pub fn ensure_none_is_stuck<'a>(hosts: impl Iterator<Item = &'a Host>) -> Result<()> {
    for host in hosts {
        let mut held = String::new();
        let free = wait_until("no connections", Duration::from_secs(10), || {
            let states = ["exclude", "listening", "exclude", "time-wait", "exclude", "closed"];
            held = host.run(["ss", "-Htan"].into_iter().chain(states)).ok()?;
            held.is_empty().then_some(())
        });
        ensure!(free.is_ok(), "{} still holds connections:\n{held}", host.name());
    }
    Ok(())
}
