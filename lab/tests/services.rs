//! Services end to end: YAML in, real connections through a real node, from and to every side.

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use weir_lab::{
    Host, Process, Testbed, TestbedOptions,
    clock::{Stopwatch, pause, wait_until},
    testbed::{
        Addresses, CLIENT, ECHO_PORT, Frontend, HTTP_PORT, NODE, Service, ServicePort, pod_yaml,
    },
};

use common::{
    Downloads, PATIENCE, ask, ensure_drops_only, ensure_no_connection_is_stuck, ensure_split, get,
    ping, serve, try_ask, try_get, wait_for_connections, with_testbed,
};

/// By name on both of two workers.
const BACKENDS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Pods that only ask; one on each of two workers.
const ASKERS: [&str; 2] = ["ask-1", "ask-2"];

const REQUESTS: u64 = 60;

#[test]
fn one_worker() {
    with_testbed("services1", TestbedOptions::default(), |testbed| {
        check_everything(testbed)?;
        check_bad_input(testbed)
    });
}

#[test]
fn two_workers() {
    let options = TestbedOptions { workers: 2, ..Default::default() };
    with_testbed("services2", options, check_everything);
}

#[test]
fn two_workers_behind_an_uplink_of_two_queues() {
    let options = TestbedOptions { workers: 2, uplink_queues: Some(2), ..Default::default() };
    with_testbed("services2q", options, |testbed| {
        check_everything(testbed)?;
        let status: serde_json::Value = testbed.weir_json(&["status"])?;
        let devices = status["dataplane"]["devices"].as_array().context("devices")?;
        let uplinks = devices.iter().filter(|device| device["name"] == "uplink0");
        let received: Vec<u64> =
            uplinks.filter_map(|it| it["counters"]["rx_packets"].as_u64()).collect();
        ensure!(received.len() == 2, "two queues, two sockets: {devices:?}");
        ensure!(received.iter().all(|packets| *packets > 0), "both receive: {received:?}");
        Ok(())
    });
}

fn check_everything(testbed: &mut Testbed) -> Result<()> {
    testbed.start_up()?;
    for name in ASKERS {
        testbed.add_pod(name)?;
    }
    for name in BACKENDS {
        testbed.add_backend(name, "web")?;
    }
    for service in [Service::http(), Service::udp()] {
        testbed.apply(service.name, &service.yaml())?;
        testbed.wait_for_backends(service.name, BACKENDS.len())?;
    }
    let _servers = start_servers(testbed)?;
    for family in [0, 1] {
        check_services(testbed, family)?;
        check_direct(testbed, family)?;
        check_pings(testbed, family)?;
    }
    check_workers(testbed)?;
    ensure_drops_only(testbed, &[])?;
    check_refusals(testbed)?;
    check_a_label_removed(testbed)?;
    check_a_service_deleted(testbed)?;
    // Of these no_route: a pod asked where the service had been.
    ensure_drops_only(testbed, &["no_frontend", "backend_gone", "no_route"])?;
    ensure_no_connection_is_stuck(testbed)
}

/// On the node's own address, and outside.
fn start_servers(testbed: &Testbed) -> Result<[Process; 2]> {
    Ok([serve(testbed.node(), NODE.both())?, serve(testbed.client(), CLIENT.both())?])
}

fn at(addresses: Addresses, family: usize, port: u16) -> SocketAddr {
    SocketAddr::new(addresses.both()[family], port)
}

/// Everybody, with a name for messages.
fn everybody(testbed: &Testbed) -> Result<Vec<&Host>> {
    let askers = ASKERS.iter().chain(&BACKENDS[..1]).map(|name| testbed.pod(name));
    let askers = askers.map(|pod| pod.map(|pod| pod.host()));
    let outside = [Ok(testbed.client()), Ok(testbed.node())];
    Ok(outside.into_iter().chain(askers).collect::<weir_lab::Result<_>>()?)
}

/// From outside to the load balancer; from the node and pods, also one that is its own backend, to
/// it and to the address inside the cluster.
fn check_services(testbed: &Testbed, family: usize) -> Result<()> {
    let (web, echo) = (Service::http(), Service::udp());
    for host in everybody(testbed)? {
        let mut addresses = vec![(web.load_balancer(), echo.load_balancer())];
        if host.name() != testbed.client().name() {
            addresses.push((web.cluster_ip(), echo.cluster_ip()));
        }
        for (web, echo) in addresses {
            let report = get(host, at(web, family, 80), REQUESTS)?;
            ensure_split(&report.backends, &BACKENDS)?;
            let report = ask(host, at(echo, family, 7), REQUESTS)?;
            ensure_split(&report.backends, &BACKENDS)?;
        }
    }
    Ok(())
}

/// Everybody to the pods' own addresses, to the node's and to the world's.
fn check_direct(testbed: &Testbed, family: usize) -> Result<()> {
    for host in everybody(testbed)? {
        for name in BACKENDS {
            let pod = testbed.pod(name)?.addresses();
            get(host, at(pod, family, HTTP_PORT), 5)?;
            ask(host, at(pod, family, ECHO_PORT), 5)?;
        }
        for server in [NODE, CLIENT] {
            get(host, at(server, family, HTTP_PORT), 10)?;
        }
    }
    Ok(())
}

fn check_pings(testbed: &Testbed, family: usize) -> Result<()> {
    let (web, asker, backend) =
        (Service::http(), testbed.pod(ASKERS[0])?, testbed.pod(BACKENDS[0])?);
    let pod = |address: Addresses| address.both()[family];
    let outside = [web.load_balancer(), asker.addresses(), NODE].map(pod);
    outside.iter().try_for_each(|to| ping(testbed.client(), *to))?;
    let inside = [web.cluster_ip(), web.load_balancer(), backend.addresses()].map(pod);
    inside.iter().try_for_each(|to| ping(testbed.node(), *to))?;
    let others = [CLIENT, NODE, backend.addresses(), web.cluster_ip(), web.load_balancer()];
    others.map(pod).iter().try_for_each(|to| ping(asker.host(), *to))
}

#[derive(Deserialize)]
struct Flow {
    worker: u32,
    source: String,
    destination: String,
}

/// Every worker had packets, and the two askers are on different ones where there are two.
fn check_workers(testbed: &Testbed) -> Result<()> {
    let workers = testbed.status()?.dataplane.context("a dataplane")?.workers;
    for worker in &workers {
        ensure!(worker.rx_packets > 0 && worker.flows > 0, "worker {} idles", worker.worker);
    }
    let flows: Vec<Flow> = testbed.weir_json(&["flow", "list", "--limit=100000"])?;
    let service = at(Service::udp().cluster_ip(), 0, 7).to_string();
    let mut seen = BTreeSet::new();
    for name in ASKERS {
        let address = testbed.pod(name)?.addresses().v4.to_string();
        let own = flows.iter().filter(|flow| {
            flow.destination == service && flow.source.starts_with(&format!("{address}:"))
        });
        let on: BTreeSet<u32> = own.map(|flow| flow.worker).collect();
        ensure!(on.len() == 1, "{name} has flows to {service} on workers {on:?}");
        seen.extend(on);
    }
    ensure!(seen.len() == workers.len().min(2), "the askers are on workers {seen:?}");
    Ok(())
}

/// A port that the service has not is refused at once.
fn check_refusals(testbed: &Testbed) -> Result<()> {
    let web = Service::http();
    for family in [0, 1] {
        let refused = try_get(testbed.client(), at(web.load_balancer(), family, 81), 3, 10.0)?;
        ensure!(refused.failures.get("connect refused") == Some(&3), "{:?}", refused.failures);
        let to = at(web.load_balancer(), family, 82);
        let refused = try_ask(testbed.client(), to, 3, 5000)?;
        ensure!(refused.losses.get("refused") == Some(&3), "{:?}", refused.losses);
    }
    let drops = ensure_drops_only(testbed, &["no_frontend"])?;
    ensure!(drops.get("no_frontend") == Some(&12), "{drops:?}");
    Ok(())
}

/// A backend whose pod no longer has the label: its connections end, no other does.
fn check_a_label_removed(testbed: &Testbed) -> Result<()> {
    const CONNECTIONS: usize = 40;
    const GONE: &str = BACKENDS[2];
    let (web, pod) = (Service::http(), testbed.pod(GONE)?);
    let to = at(web.load_balancer(), 0, 80);
    let downloads = Downloads::start(testbed.client(), to, CONNECTIONS as u64, 50, 40)?;
    wait_for_connections(testbed, &BACKENDS, CONNECTIONS)?;
    pause(Duration::from_millis(300));
    let lost = pod.count_established(HTTP_PORT)?;
    let watch = Stopwatch::start();
    testbed.apply(GONE, &pod_yaml(GONE, "other", pod.addresses()))?;
    testbed.wait_for_backends("web", BACKENDS.len() - 1)?;
    println!("a label removed: {} ms until every worker knows", watch.elapsed().as_millis());

    let report = downloads.end()?;
    let stayed = (CONNECTIONS - lost) as u64;
    ensure!(lost > 0, "no download was on {GONE}");
    ensure!(report.finished == stayed, "{} of {stayed}: {report:?}", report.finished);
    ensure!(!report.failures.contains_key("timeout"), "not told at once: {:?}", report.failures);
    let report = get(testbed.client(), to, REQUESTS)?;
    ensure_split(&report.backends, &BACKENDS[..2])?;

    testbed.apply(GONE, &pod_yaml(GONE, "web", pod.addresses()))?;
    testbed.wait_for_backends("web", BACKENDS.len())?;
    let report = get(testbed.client(), to, REQUESTS)?;
    ensure_split(&report.backends, &BACKENDS)
}

/// A Service deleted answers no more; the other's connections do not notice.
fn check_a_service_deleted(testbed: &Testbed) -> Result<()> {
    let (web, echo) = (Service::http(), Service::udp());
    let others = [
        Downloads::start(testbed.client(), at(web.load_balancer(), 0, 80), 10, 40, 40)?,
        Downloads::start(testbed.node(), at(web.cluster_ip(), 1, 80), 10, 40, 40)?,
        Downloads::start(testbed.pod(ASKERS[1])?.host(), at(web.cluster_ip(), 0, 80), 10, 40, 40)?,
    ];
    wait_for_connections(testbed, &BACKENDS, 30)?;
    let watch = Stopwatch::start();
    testbed.delete(echo.name)?;
    wait_until("the service to go", PATIENCE, || {
        let report = try_ask(testbed.client(), at(echo.load_balancer(), 0, 7), 1, 50).ok()?;
        (report.answered == 0).then_some(())
    })?;
    println!("a service deleted: {} ms until it does not answer", watch.elapsed().as_millis());
    let frontends: Vec<Frontend> = testbed.weir_json(&["service", "list"])?;
    ensure!(frontends.iter().all(|it| it.service() != "default/echo"), "{frontends:?}");
    for family in [0, 1] {
        let client = try_ask(testbed.client(), at(echo.load_balancer(), family, 7), 3, 200)?;
        let asker = testbed.pod(ASKERS[0])?.host();
        let pod = try_ask(asker, at(echo.cluster_ip(), family, 7), 3, 200)?;
        ensure!((client.lost, pod.lost) == (3, 3), "answered: {client:?}, {pod:?}");
    }
    others.into_iter().try_for_each(|downloads| downloads.finish().map(drop))?;
    testbed.apply(echo.name, &echo.yaml())?;
    testbed.wait_for_backends(echo.name, BACKENDS.len())?;
    ask(testbed.client(), at(echo.load_balancer(), 0, 7), REQUESTS).map(drop)
}

#[derive(Debug, Deserialize)]
struct Problem {
    object: String,
    location: String,
    severity: String,
    reason: String,
}

fn service(name: &'static str, number: u8, port: u16) -> Service {
    let port = ServicePort { name: "http", protocol: "TCP", port, target_port: HTTP_PORT };
    Service { name, number, app: "web", ports: vec![port] }
}

/// A Service without a selector, and a slice with one endpoint of another family than it says.
fn sliced_yaml(good: IpAddr, bad: IpAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{name: sliced, namespace: default}}
spec: {{clusterIP: 10.96.0.82, ports: [{{name: http, port: 80, targetPort: {HTTP_PORT}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: sliced-1
  namespace: default
  labels: {{kubernetes.io/service-name: sliced}}
addressType: IPv4
ports: [{{name: http, port: {HTTP_PORT}, protocol: TCP}}]
endpoints:
  - addresses: ["{good}"]
  - addresses: ["{bad}"]
"#
    )
}

/// What is wrong is refused by file and line or by name; everything else applies.
fn check_bad_input(testbed: &Testbed) -> Result<()> {
    let pod = testbed.pod(BACKENDS[0])?.addresses();
    let impossible = service("impossible", 83, 7).yaml().replace("port: 7,", "port: 70000,");
    let impossible = format!("{}---\n{impossible}", service("good", 81, 80).yaml());
    // Its addresses are web's.
    let second = service("web-too", 80, 80).yaml();
    let sliced = sliced_yaml(pod.v4.into(), pod.v6.into());
    let broken = "apiVersion: v1\nkind: Service\nmetadata: {name: broken\nspec: [}\n";
    let line_of = |text: &str, part: &str| {
        1 + text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}"))
    };
    let wrong = format!("[\"{}\"]", pod.v6);
    let expected = [
        ("broken", broken, line_of(broken, "spec"), ""),
        ("impossible", &*impossible, line_of(&impossible, "70000"), "Service default/impossible"),
        ("sliced", &*sliced, line_of(&sliced, &wrong), "EndpointSlice default/sliced-1"),
        ("web-too", &*second, 0, "Service default/web-too"),
    ];
    for (file, text, ..) in expected {
        testbed.apply(file, text)?;
    }
    testbed.wait_for_backends("good", BACKENDS.len())?;
    testbed.wait_for_backends("sliced", 1)?;
    let problems = refused(testbed)?;
    for (file, _, line, object) in expected {
        let file = if line > 0 { format!("{file}.yaml:{line}") } else { format!("{file}.yaml:") };
        let is_it = |it: &&Problem| it.location.contains(&file) && it.object.contains(object);
        let found = problems.iter().find(is_it);
        let found = found.with_context(|| format!("no word of {file} {object}: {problems:#?}"))?;
        println!("{} {}: {}", found.location, found.object, found.reason);
    }
    for (to, backends) in [
        (at(Service::http().load_balancer(), 0, 80), &BACKENDS[..]),
        (at(service("good", 81, 80).load_balancer(), 1, 80), &BACKENDS),
    ] {
        ensure_split(&get(testbed.client(), to, REQUESTS)?.backends, backends)?;
    }
    let sliced = get(testbed.node(), "10.96.0.82:80".parse()?, 5)?;
    ensure_split(&sliced.backends, &BACKENDS[..1])?;
    for (file, ..) in expected {
        testbed.delete(file)?;
    }
    wait_until("no problems", PATIENCE, || refused(testbed).ok()?.is_empty().then_some(()))?;
    Ok(())
}

fn refused(testbed: &Testbed) -> Result<Vec<Problem>> {
    let status: serde_json::Value = testbed.weir_json(&["status"])?;
    let mut problems: Vec<Problem> =
        serde_json::from_value(status["agent"]["problems"].clone()).context("problems")?;
    problems.retain(|problem| problem.severity == "refused");
    Ok(problems)
}
