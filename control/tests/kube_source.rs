//! The API server as a source, against one in memory and in virtual time: what it tells, and that
//! no fault makes it withdraw what is live.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "kube_source/outage.rs"]
mod outage;
#[path = "kube_source/run.rs"]
mod run;
#[path = "kube_source/server.rs"]
mod server;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use run::Run;
use serde_json::{Value, json};
use server::{Fault, Server};
use tokio::time::sleep;
use weir_control::model::{Kind, Object};

fn namespace(value: usize) -> Value {
    json!({"metadata": {"labels": {"value": value.to_string()}}})
}

fn service(value: usize) -> Value {
    let address = format!("10.96.{}.{}", value / 256, value % 256);
    json!({"metadata": {}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
}

fn policy(value: usize) -> Value {
    let labels = json!({"app": value.to_string()});
    json!({"metadata": {}, "spec": {"podSelector": {"matchLabels": labels}}})
}

fn pod(value: usize) -> Value {
    json!({
        "metadata": {"labels": {"value": value.to_string()}, "annotations": {"x": "y"}},
        "spec": {"nodeName": "n1", "containers": [{
            "name": "c", "image": "i", "env": [{"name": "A", "value": "B"}],
            "ports": [{"name": "http", "containerPort": 8080}],
        }]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    })
}

async fn start(server: &Server) -> Run {
    let mut run = Run::start(server, 1);
    assert!(run.next().await, "no first batch: {}", run.state.borrow().clone());
    run
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_is_everything_and_then_come_changes() {
    let server = Server::default();
    server.lock().page_max = Some(2);
    for i in 0..5 {
        server.lock().put(Kind::Namespace, &format!("n{i}"), namespace(i));
        server.lock().put(Kind::Pod, &format!("p{i}"), pod(i));
    }
    let mut run = start(&server).await;
    assert_eq!(run.objects, run.expected());
    assert_eq!(run.objects.len(), 10);
    assert_eq!(run.state.borrow().as_str(), "");
    server.lock().put(Kind::Service, "web", service(1));
    server.lock().delete(Kind::Pod, "p3");
    assert!(run.next().await);
    assert_eq!((run.received, run.objects.len()), (2, 10));
    assert_eq!(run.objects, run.expected());
    // What nobody reads changes nothing.
    let mut other = pod(1);
    other["status"]["startTime"] = "2026-01-01T00:00:00Z".into();
    other["metadata"]["annotations"]["x"] = "z".into();
    server.lock().put(Kind::Pod, "p1", other);
    let before = run.objects.clone();
    run.run_for(Duration::from_secs(1)).await;
    assert_eq!((run.received, &run.objects), (2, &before));
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_few_batches_and_waits_for_the_agent() {
    let server = Server::default();
    let mut run = start(&server).await;
    for i in 0..50_000 {
        server.lock().put(Kind::Namespace, &format!("n{}", i % 20_000), namespace(i));
    }
    // Nobody takes them meanwhile: one waits, and the rest is merged into the next.
    sleep(Duration::from_secs(60)).await;
    run.run_for(Duration::from_secs(60)).await;
    assert!(run.received < 20, "{} batches", run.received);
    assert_eq!(run.objects, run.expected());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_withdraws_nothing() {
    let server = Server::default();
    for i in 0..3 {
        server.lock().put(Kind::Service, &format!("s{i}"), service(i));
    }
    let mut run = start(&server).await;
    let before = run.objects.clone();
    server.lock().is_down = true;
    server.lock().hang_up(Some(Fault::Cut));
    run.run_for(Duration::from_secs(300)).await;
    assert_eq!(run.objects, before);
    let problem = "API server https://api:6443: refused: Connection refused (os error 111); state \
                   is kept, trying again";
    assert_eq!(run.problems, [problem]);
    assert!(run.state.borrow().contains("Connection refused"));
    // One batch for all kinds and all attempts: problems that stay the same are no news.
    assert_eq!(run.received, 2);

    server.lock().delete(Kind::Service, "s1");
    server.lock().put(Kind::Service, "s3", service(9));
    server.lock().compact();
    server.lock().is_down = false;
    run.run_for(Duration::from_secs(60)).await;
    assert_eq!(run.names(), ["Service default/s0", "Service default/s2", "Service default/s3"]);
    assert!(run.problems.is_empty() && run.state.borrow().is_empty());
    assert_eq!(run.objects, run.expected());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_or_is_empty_is_not_believed() {
    let server = Server::default();
    server.lock().page_max = Some(1);
    server.lock().put(Kind::Namespace, "a", namespace(1));
    server.lock().put(Kind::Namespace, "b", namespace(2));
    let mut run = start(&server).await;
    let before = run.objects.clone();
    for fault in [Fault::Cut, Fault::Truncate, Fault::Status(500), Fault::Refuse, Fault::Empty] {
        server.lock().compact();
        server.lock().hang_up(None);
        // Every watch is told to list again; some of the pages fail.
        server.lock().faults = (0..40).map(|i| (i % 3 == 0).then_some(fault)).collect();
        run.run_for(Duration::from_secs(120)).await;
        assert_eq!(run.objects, before, "{fault:?}");
        assert!(run.problems.is_empty(), "{fault:?}: {:?}", run.problems);
    }
    // One that is empty twice is.
    server.lock().delete(Kind::Namespace, "a");
    server.lock().delete(Kind::Namespace, "b");
    server.lock().compact();
    server.lock().hang_up(None);
    run.run_for(Duration::from_secs(60)).await;
    assert!(run.objects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_installed_is_looked_for() {
    let server = Server::default();
    server.lock().absent = vec![Kind::CiliumNetworkPolicy, Kind::ClusterNetworkPolicy];
    server.lock().put(Kind::Namespace, "a", namespace(1));
    let mut run = start(&server).await;
    assert!(run.problems.is_empty());
    let allow = json!({"metadata": {}, "spec": {"endpointSelector": {}, "ingress": [{}]}});
    server.lock().put(Kind::CiliumNetworkPolicy, "p", allow);
    server.lock().absent.clear();
    run.run_for(Duration::from_secs(40)).await;
    assert_eq!(run.names(), ["Namespace a", "CiliumNetworkPolicy default/p"]);
    // Gone again: believed after it was said three times.
    server.lock().absent = vec![Kind::CiliumNetworkPolicy];
    server.lock().hang_up(None);
    run.run_for(Duration::from_secs(10)).await;
    assert_eq!(run.objects.len(), 2);
    assert!(run.problems[0].contains("does not know the kind any more"), "{:?}", run.problems);
    let key = run.objects.keys().nth(1).unwrap().clone();
    server.lock().deleted.insert(key, 1);
    run.run_for(Duration::from_secs(120)).await;
    assert_eq!(run.names(), ["Namespace a"]);
    assert!(run.problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_forbidden_is_named() {
    let server = Server::default();
    server.lock().forbidden = vec![Kind::CiliumCidrGroup];
    let run = start(&server).await;
    let problem = "ClusterRole weir-agent: refused: must allow list of ciliumcidrgroups in API \
                   group \"cilium.io\": user \"weir\" cannot list resource; what is known of them \
                   is kept";
    assert_eq!(run.problems, [problem]);

    // Without a kind of Kubernetes itself there is no first batch.
    server.lock().forbidden = vec![Kind::Node];
    let mut run = Run::start(&server, 2);
    run.run_for(Duration::from_secs(120)).await;
    assert_eq!(run.received, 0);
    let state = run.state.borrow().clone();
    assert!(state.starts_with("reading nodes; ClusterRole weir-agent: must allow list"), "{state}");
    server.lock().forbidden.clear();
    assert!(run.next().await);
    assert!(run.state.borrow().is_empty() && run.problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_version_leaves_the_one_before() {
    let server = Server::default();
    server.lock().put(Kind::Service, "web", service(1));
    let mut run = start(&server).await;
    let mut wrong = service(2);
    wrong["spec"]["ports"][0]["port"] = 70_000.into();
    server.lock().put(Kind::Service, "web", wrong.clone());
    server.lock().put(Kind::Service, "new", wrong);
    assert!(run.next().await);
    let expected = [
        "Service default/new: refused: spec.ports[0].port: 70000 is outside 1..65535",
        "Service default/web: refused: spec.ports[0].port: 70000 is outside 1..65535; the version \
         before stays",
    ];
    assert_eq!(run.problems, expected);
    let Some(Object::Service(web)) = run.objects.values().next() else { panic!() };
    assert_eq!(web.cluster_ips, ["10.96.0.1".parse::<std::net::IpAddr>().unwrap()]);
    server.lock().delete(Kind::Service, "web");
    server.lock().put(Kind::Service, "new", service(3));
    assert!(run.next().await);
    assert!(run.problems.is_empty());
    assert_eq!(run.names(), ["Service default/new"]);
}

/// Makes an object of a kind with a value that tells its versions apart.
type Make = fn(usize) -> Value;

/// One step of a random history.
fn disturb(server: &Server, random: &mut StdRng, installed: Kind) {
    let mut state = server.lock();
    let kinds: [(Kind, Make); 5] = [
        (Kind::Namespace, namespace),
        (Kind::Service, service),
        (Kind::NetworkPolicy, policy),
        (Kind::Pod, pod),
        (installed, |value| {
            json!({"metadata": {"labels": {"value": value.to_string()}},
                "spec": {"externalCIDRs": ["192.0.2.0/24"]}})
        }),
    ];
    let (kind, make) = kinds[random.random_range(0..kinds.len())];
    let name = format!("x{}", random.random_range(0..6));
    let faults =
        [Fault::Refuse, Fault::Status(500), Fault::Cut, Fault::Truncate, Fault::Status(429)];
    match random.random_range(0..100) {
        0..45 => state.put(kind, &name, make(random.random_range(0..100))),
        45..65 => state.delete(kind, &name),
        65..70 => state.compact(),
        70..75 => state.bookmark(),
        75..80 => state.repeat(random.random_range(1..5)),
        80..86 => {
            let how = [None, Some(Fault::Cut), Some(Fault::Truncate)];
            state.hang_up(how[random.random_range(0..3)]);
        }
        86..96 => {
            for _ in 0..random.random_range(1..6) {
                let fault = random.random_bool(0.7);
                let fault = fault.then(|| faults[random.random_range(0..faults.len())]);
                state.faults.push_back(fault);
            }
        }
        _ => {
            state.is_down = !state.is_down;
            if state.is_down {
                state.hang_up(Some(Fault::Cut));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_end_is_what_the_server_has() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let server = Server::default();
        server.lock().page_max = Some(random.random_range(1..4));
        for _ in 0..20 {
            disturb(&server, &mut random, Kind::CiliumCidrGroup);
        }
        let mut run = Run::start(&server, seed);
        for _ in 0..60 {
            disturb(&server, &mut random, Kind::CiliumCidrGroup);
            let pause_ms = [0, 0, 5, 50, 2_000, 40_000][random.random_range(0..6)];
            run.run_for(Duration::from_millis(pause_ms)).await;
        }
        {
            let mut state = server.lock();
            (state.is_down, state.faults) = (false, Default::default());
        }
        run.run_for(Duration::from_secs(120)).await;
        assert_eq!(run.objects, run.expected(), "seed {seed}");
        assert!(run.problems.is_empty(), "seed {seed}: {:?}", run.problems);
        assert_eq!(run.state.borrow().as_str(), "", "seed {seed}");
    }
}
