//! What happens when a part of weir dies, hangs or is lied to: real processes, real signals.

mod common;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{sys::signal, unistd::Pid};
use serde::Deserialize;
use weir_lab::{
    Host, Process, Testbed, TestbedOptions,
    clock::{Stopwatch, pause, wait_until},
    program,
    report::DownloadReport,
    testbed::{
        Addresses, CLIENT, ECHO_PORT, HTTP_PORT, LOAD_PORT, NODE, Service, UPLINK, pod_addresses,
    },
};

use common::{
    Downloads, PATIENCE, ask, ensure_drops_only, ensure_no_connection_is_stuck, get, ping, serve,
    try_ask, wait_for_connections, with_testbed,
};

const BACKENDS: [&str; 2] = ["web-1", "web-2"];
const ASKER: &str = "shell";

/// What the kernel needs to notice that no heartbeat comes (1 s), on a machine that is busy.
const FAILURE_MODE_WITHIN: Duration = Duration::from_secs(5);

/// The Services, their backends and a pod that asks; weir runs already.
fn add_everything(testbed: &mut Testbed) -> Result<()> {
    testbed.add_pod(ASKER)?;
    for name in BACKENDS {
        testbed.add_backend(name, "web")?;
    }
    for service in [Service::http(), Service::udp()] {
        testbed.apply(service.name, &service.yaml())?;
        testbed.wait_for_backends(service.name, BACKENDS.len())?;
    }
    Ok(())
}

fn start_apart(testbed: &mut Testbed) -> Result<()> {
    testbed.start_dataplane()?;
    testbed.start_agent()?;
    testbed.wait_until_settled()?;
    add_everything(testbed)
}

fn at(addresses: Addresses, family: usize, port: u16) -> SocketAddr {
    SocketAddr::new(addresses.both()[family], port)
}

// The agent dies.

/// What the tests read of `weir-pktgen run --json`.
#[derive(Deserialize)]
struct LoadReport {
    failures: Vec<String>,
    account: Account,
}

#[derive(Deserialize)]
struct Account {
    sent: u64,
    received: u64,
    losses: BTreeMap<String, u64>,
}

impl LoadReport {
    fn is_whole(&self) -> bool {
        self.failures.is_empty() && self.account.sent == self.account.received
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Account { sent, received, losses } = &self.account;
        write!(f, "sent {sent}, received {received}")?;
        if self.is_whole() { Ok(()) } else { write!(f, ", {losses:?}, {:?}", self.failures) }
    }
}

const LOAD_SECONDS: u64 = 4;

fn start_load(testbed: &Testbed, rate: u32) -> Result<Process> {
    let mut command = Command::new(program("weir-pktgen")?);
    let to = at(Service::udp().load_balancer(), 0, 9).to_string();
    command.args(["run", "--json", "--interface", "eth0", "--dst", &to, "--flows", "200"]);
    command.args([format!("--rate={rate}"), format!("--duration={LOAD_SECONDS}")]);
    // Spinning for sharp times would cost weir half of a small machine.
    command.args([format!("--sink-port={LOAD_PORT}"), "--spin-us=0".into()]);
    command.arg(format!("--watch={}:{UPLINK}", testbed.node().namespace()));
    for name in BACKENDS {
        command.arg(format!("--sink={}:eth0", testbed.pod(name)?.host().namespace()));
    }
    command.arg("--dataplane-socket").arg(testbed.run_folder().join("dataplane.sock"));
    command.arg("--dataplane-pins").arg(testbed.lab().pin_folder());
    Ok(testbed.client().spawn(command)?)
}

fn end_load(process: &Process) -> Result<LoadReport> {
    let status = process.wait(PATIENCE)?;
    let said = process.stderr();
    serde_json::from_str(&process.stdout()).with_context(|| format!("pktgen {status}: {said}"))
}

#[test]
fn killing_the_agent_loses_no_packet() {
    with_testbed("agentdies", TestbedOptions::default(), |testbed| {
        start_apart(testbed)?;
        for rate in [20_000, 10_000, 5_000, 2_000, 1_000] {
            let control = end_load(&start_load(testbed, rate)?)?;
            println!("{rate}/s, nothing happens: {control}");
            if !control.is_whole() {
                continue;
            }
            let load = start_load(testbed, rate)?;
            pause(Duration::from_millis(1500));
            testbed.agent().context("an agent")?.kill();
            ensure!(!agent_answers(testbed)?, "the agent is dead");
            pause(Duration::from_millis(1000));
            testbed.start_agent()?;
            let report = end_load(&load)?;
            println!("{rate}/s, the agent dies and starts again: {report}");
            testbed.wait_until_settled()?;
            if report.is_whole() {
                ensure!(report.account.sent > 0, "nothing was sent");
                return Ok(());
            }
            // What the machine itself lost by chance is not lost again at half the rate.
        }
        bail!("packets are lost at every rate")
    });
}

fn agent_answers(testbed: &Testbed) -> Result<bool> {
    Ok(testbed.status()?.agent.is_some())
}

// The dataplane dies.

/// 100 downloads through weir, and the host's own traffic, which is none of weir's business.
struct Traffic {
    downloads: Vec<Downloads>,
    own: Vec<Downloads>,
    pings: Vec<Process>,
    _server: Process,
}

/// Each download lasts some 4 s.
const CHUNKS: u64 = 40;
const PACE_MS: u64 = 100;

impl Traffic {
    fn start(testbed: &Testbed) -> Result<Self> {
        let server = serve(testbed.node(), NODE.both())?;
        let web = Service::http();
        let (client, asker) = (testbed.client(), testbed.pod(ASKER)?.host());
        let start =
            |host: &Host, to: SocketAddr, count| Downloads::start(host, to, count, CHUNKS, PACE_MS);
        let (mut downloads, mut own, mut pings) = (Vec::new(), Vec::new(), Vec::new());
        for family in [0, 1] {
            downloads.push(start(asker, at(web.cluster_ip(), family, 80), 25)?);
            downloads.push(start(client, at(web.load_balancer(), family, 80), 25)?);
            own.push(start(client, at(NODE, family, HTTP_PORT), 5)?);
            let mut ping = Command::new("ping");
            ping.args(["-q", "-i", "0.002", "-w", "4", &NODE.both()[family].to_string()]);
            pings.push(client.spawn(ping)?);
        }
        wait_for_connections(testbed, &BACKENDS, 100)?;
        // Well into the transfers.
        pause(Duration::from_millis(700));
        Ok(Self { downloads, own, pings, _server: server })
    }

    /// Everything finishes, and the host has lost nothing; gives the longest gap of each download.
    fn finish(self) -> Result<()> {
        for ping in self.pings {
            let printed = ping.wait_for_success(PATIENCE)?;
            let line = printed.lines().find(|line| line.contains(" received")).context("ping")?;
            println!("the host's own pings: {line}");
            let mut counts =
                line.split(", ").map_while(|part| part.split(' ').next()?.parse().ok());
            let [sent, received]: [u32; 2] =
                [counts.next(), counts.next()].map(Option::unwrap_or_default);
            // The last may still be under way at the end.
            ensure!(received > 100 && received + 1 >= sent, "the host's own pings: {line}");
        }
        let finish = |all: Vec<Downloads>| -> Result<Vec<DownloadReport>> {
            all.into_iter().map(Downloads::finish).collect()
        };
        let (downloads, own) = (finish(self.downloads)?, finish(self.own)?);
        let longest = |reports: &[DownloadReport]| {
            reports.iter().map(|report| report.longest_gap_ms).max().unwrap_or(0)
        };
        let (through, own) = (longest(&downloads), longest(&own));
        println!("100 downloads finished; longest gap {through} ms (the host's own: {own} ms)");
        Ok(())
    }
}

#[test]
fn killing_the_dataplane_breaks_no_connection() {
    let options = TestbedOptions { workers: 2, ..Default::default() };
    with_testbed("dies", options, |testbed| {
        start_apart(testbed)?;
        testbed.agent().context("an agent")?.kill();
        let traffic = Traffic::start(testbed)?;
        testbed.dataplane().context("a dataplane")?.kill();
        let watch = Stopwatch::start();
        testbed.start_dataplane()?;
        println!("killed, without an agent: ready again after {} ms", watch.elapsed().as_millis());
        traffic.finish()?;
        let dataplane = testbed.status()?.dataplane.context("a dataplane")?;
        ensure!(dataplane.from_disk, "its state is the one on disk: {dataplane:?}");
        ensure!(dataplane.adopted_flows >= 200, "a hundred connections: {dataplane:?}");
        get(testbed.client(), at(Service::http().load_balancer(), 0, 80), 50)?;
        ensure_no_connection_is_stuck(testbed)
    });
}

#[test]
fn a_dataplane_that_stands_by_takes_over_and_breaks_no_connection() {
    let options = TestbedOptions { workers: 2, ..Default::default() };
    with_testbed("rolls", options, |testbed| {
        start_apart(testbed)?;
        let health = testbed.run_folder().join("health.sock");
        let pid = testbed.dataplane().context("a dataplane")?.pid();
        let standby = testbed.start_standby(&health)?;
        ensure!(check_health(&health)? == format!("standby: waiting for pid {pid}\n"));
        ensure!(testbed.status()?.dataplane.is_some_and(|it| it.pid == pid), "it only waits");
        let traffic = Traffic::start(testbed)?;
        let watch = Stopwatch::start();
        testbed.take_over(standby)?;
        println!("SIGTERM to ready: {} ms", watch.elapsed().as_millis());
        ensure!(check_health(&health)? == "ready\n");
        traffic.finish()?;
        let dataplane = testbed.status()?.dataplane.context("a dataplane")?;
        ensure!(dataplane.pid != pid && dataplane.adopted_flows >= 200, "{dataplane:?}");
        testbed.wait_until_settled()?;
        get(testbed.client(), at(Service::http().load_balancer(), 0, 80), 50)?;
        ensure_no_connection_is_stuck(testbed)
    });
}

/// What a probe is told; it fails if that is not that all is well.
fn check_health(socket: &Path) -> Result<String> {
    let program = program("weir-dataplane")?;
    let output = Command::new(program).arg("--check-health").arg(socket).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn weir_up_starts_a_killed_dataplane_again() {
    with_testbed("updies", TestbedOptions::default(), |testbed| {
        testbed.start_up()?;
        add_everything(testbed)?;
        let traffic = Traffic::start(testbed)?;
        let pid = testbed.status()?.dataplane.context("a dataplane")?.pid;
        signal::kill(Pid::from_raw(pid.cast_signed()), signal::Signal::SIGKILL)?;
        let watch = Stopwatch::start();
        wait_until("another dataplane", PATIENCE, || {
            let dataplane = testbed.status().ok()?.dataplane?;
            (dataplane.pid != pid).then_some(())
        })?;
        println!("killed, under weir up: answers again after {} ms", watch.elapsed().as_millis());
        traffic.finish()?;
        wait_until("the agent to be heard again", PATIENCE, || {
            let agent = testbed.status().ok()?.agent?;
            let is_heard = agent.acknowledged_revision == agent.sent_revision;
            (agent.dataplane_connected && is_heard).then_some(())
        })?;
        get(testbed.client(), at(Service::http().load_balancer(), 1, 80), 50)?;
        ensure_no_connection_is_stuck(testbed)
    });
}

// The dataplane hangs.

#[test]
fn a_hanging_dataplane_fails_open() {
    hang("open", true);
}

#[test]
fn a_hanging_dataplane_fails_closed() {
    hang("closed", false);
}

#[test]
fn auto_is_open_where_no_policy_selects_the_pod() {
    hang("auto", true);
}

fn hang(failure_mode: &'static str, is_open: bool) {
    let options = TestbedOptions { failure_mode, ..Default::default() };
    with_testbed(&format!("hangs{failure_mode}"), options, |testbed| {
        start_apart(testbed)?;
        check_all_ways(testbed)?;
        let dataplane = testbed.dataplane().context("a dataplane")?;
        dataplane.signal("SIGSTOP")?;
        let watch = Stopwatch::start();
        // The first still wait for the worker: they are what it finds stale.
        let (asker, pod) = (testbed.pod(ASKER)?.host(), testbed.pod(BACKENDS[0])?.addresses());
        let first = try_ask(asker, at(pod, 0, ECHO_PORT), 5, 50)?;
        ensure!(first.answered == 0, "a stopped dataplane forwards: {first:?}");
        if is_open {
            wait_until("the failure mode", FAILURE_MODE_WITHIN, || {
                let report = try_ask(asker, at(pod, 0, ECHO_PORT), 1, 50).ok()?;
                (report.answered == 1).then_some(())
            })?;
            println!("{failure_mode}: open after {} ms", watch.elapsed().as_millis());
        } else {
            pause(Duration::from_millis(1500));
        }
        check_direct_ways(testbed, is_open)?;
        check_services_time_out(testbed)?;
        pause(Duration::from_millis(3000).saturating_sub(watch.elapsed()));

        testbed.dataplane().context("a dataplane")?.signal("SIGCONT")?;
        let watch = Stopwatch::start();
        wait_until("the service again", PATIENCE, || {
            let to = at(Service::udp().load_balancer(), 0, 7);
            let report = try_ask(testbed.client(), to, 1, 50).ok()?;
            (report.answered == 1).then_some(())
        })?;
        println!("{failure_mode}: serves again after {} ms", watch.elapsed().as_millis());
        check_all_ways(testbed)?;
        let drops = ensure_drops_only(testbed, &["stale"])?;
        println!("{failure_mode}: {drops:?}");
        ensure!(drops.get("stale").is_some_and(|packets| *packets >= 5), "{drops:?}");
        ensure_no_connection_is_stuck(testbed)
    });
}

/// Pods, the host and the client, to services and to pods, over both families.
fn check_all_ways(testbed: &Testbed) -> Result<()> {
    let (web, echo) = (Service::http(), Service::udp());
    let (asker, pod) = (testbed.pod(ASKER)?.host(), testbed.pod(BACKENDS[0])?.addresses());
    for family in [0, 1] {
        get(testbed.client(), at(web.load_balancer(), family, 80), 10)?;
        ask(testbed.client(), at(echo.load_balancer(), family, 7), 10)?;
        for host in [asker, testbed.node()] {
            get(host, at(web.cluster_ip(), family, 80), 10)?;
            ask(host, at(echo.cluster_ip(), family, 7), 10)?;
            get(host, at(pod, family, HTTP_PORT), 10)?;
        }
    }
    Ok(())
}

/// Between pods, the host and the client, without a service: all of it, or nothing.
fn check_direct_ways(testbed: &Testbed, is_open: bool) -> Result<()> {
    let asker = testbed.pod(ASKER)?;
    let pod = testbed.pod(BACKENDS[1])?.addresses();
    let hosts = [asker.host(), testbed.node(), testbed.client()];
    for family in [0, 1] {
        for host in hosts {
            let (expected, timeout_ms) = if is_open { (2, 5000) } else { (0, 100) };
            let report = try_ask(host, at(pod, family, ECHO_PORT), 2, timeout_ms)?;
            let from = host.name();
            ensure!(report.answered == expected, "IPv{} from {from}: {report:?}", 4 + 2 * family);
        }
        // The host's own traffic is never weir's.
        ping(testbed.client(), NODE.both()[family])?;
        if is_open {
            ping(asker.host(), NODE.both()[family])?;
            get(asker.host(), at(pod, family, HTTP_PORT), 5)?;
        }
    }
    Ok(())
}

fn check_services_time_out(testbed: &Testbed) -> Result<()> {
    let echo = Service::udp();
    for (host, to) in [
        (testbed.client(), at(echo.load_balancer(), 0, 7)),
        (testbed.client(), at(echo.load_balancer(), 1, 7)),
        (testbed.pod(ASKER)?.host(), at(echo.cluster_ip(), 0, 7)),
        (testbed.pod(ASKER)?.host(), at(echo.cluster_ip(), 1, 7)),
        (testbed.node(), at(echo.cluster_ip(), 0, 7)),
        (testbed.node(), at(echo.cluster_ip(), 1, 7)),
    ] {
        let report = try_ask(host, to, 1, 100)?;
        ensure!(report.answered == 0, "{to} answers {}: {report:?}", host.name());
    }
    Ok(())
}

// A pod lies.

#[test]
fn a_pod_that_sends_from_anothers_address_reaches_nobody() {
    with_testbed("lies", TestbedOptions::default(), |testbed| {
        start_apart(testbed)?;
        let (liar, victim) = (testbed.pod(ASKER)?, testbed.pod(BACKENDS[0])?);
        let stranger = pod_addresses(400);
        let mut lies = 0;
        for family in [0, 1] {
            let length = if family == 0 { 32 } else { 128 };
            // Nobody's address, and one of a pod that exists.
            for address in [stranger, testbed.pod(BACKENDS[1])?.addresses()] {
                let address = address.both()[family];
                liar.host().addr("eth0", &format!("{address}/{length}"))?;
                for (to, receiver) in
                    [(victim.addresses(), victim.host()), (CLIENT, testbed.client())]
                {
                    let to = at(to, family, LOAD_PORT);
                    let is_heard = arrives(liar.host(), address, to, receiver, to, SHORT)?;
                    ensure!(!is_heard, "{address} to {to}");
                    lies += 1;
                    let own = liar.addresses().both()[family];
                    let is_heard = arrives(liar.host(), own, to, receiver, to, PATIENCE)?;
                    ensure!(is_heard, "{own} to {to}");
                }
                // A service does not help either.
                let service = at(Service::udp().cluster_ip(), family, 9);
                let to = at(victim.addresses(), family, LOAD_PORT);
                let is_heard = arrives(liar.host(), address, service, victim.host(), to, SHORT)?;
                ensure!(!is_heard, "{address} to {service}");
                lies += 1;
                liar.host().ip(&format!("addr del {address}/{length} dev eth0"))?;
            }
        }
        let drops = ensure_drops_only(testbed, &["source_spoofed"])?;
        let spoofed = drops.get("source_spoofed").copied().unwrap_or(0);
        println!("{lies} lies, {spoofed} counted");
        ensure!(spoofed >= lies, "{spoofed} of {lies}");

        // Another MAC address, with the right IP address.
        liar.host().ip("link set dev eth0 address 02:00:00:00:00:99")?;
        let (own, to) = (liar.addresses().v4.into(), at(victim.addresses(), 0, LOAD_PORT));
        let is_heard = arrives(liar.host(), own, to, victim.host(), to, SHORT)?;
        ensure!(!is_heard, "from a MAC that is not its own");
        ensure!(testbed.drops()?.get("source_spoofed") > Some(&spoofed), "not counted");
        Ok(())
    });
}

/// For what should never come.
const SHORT: Duration = Duration::from_millis(150);

/// Whether a datagram that `sender` sends from an address arrives at a socket of `receiver`.
fn arrives(
    sender: &Host,
    from: IpAddr,
    to: SocketAddr,
    receiver: &Host,
    at: SocketAddr,
    within: Duration,
) -> Result<bool> {
    let receiver = receiver.enter(|| UdpSocket::bind(at))??;
    receiver.set_read_timeout(Some(within))?;
    let socket = sender.enter(|| UdpSocket::bind((from, 0)))??;
    socket.send_to(b"a lie", to)?;
    match receiver.recv_from(&mut [0; 64]) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
