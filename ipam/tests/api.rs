//! The operator's I/O against an API server that answers as told.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use weir_ipam::error::is_conflict;
use weir_ipam::leader::Timing;
use weir_ipam::lease::Election;
use weir_ipam::node_controller::write_node;
use weir_ipam::nodes::{NodeWrite, Nodes};

type Request = (String, String, Value);

/// A Lease with optimistic locking; other requests are answered from a list.
#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    is_away: bool,
    conflicts: u32,
    answers: VecDeque<(u16, Value)>,
    seen: Vec<Request>,
}

impl Server {
    fn answer(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.seen.push((method.into(), path.into(), body.clone()));
        if self.is_away {
            return failure(503);
        }
        if !path.contains("/leases") {
            return self.answers.pop_front().unwrap();
        }
        let sent = body["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let known = self.lease.as_ref().map(|it| it["metadata"]["resourceVersion"].clone());
        match (method, known) {
            ("GET", Some(_)) => (200, self.lease.clone().unwrap()),
            ("GET", None) => failure(404),
            ("PUT" | "POST", _) if self.conflicts > 0 => {
                self.conflicts -= 1;
                failure(409)
            }
            ("POST", None) => self.store(body),
            ("PUT", Some(known)) if known.as_str() == sent.as_deref() => self.store(body),
            _ => failure(409),
        }
    }

    fn store(&mut self, mut lease: Value) -> (u16, Value) {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        (200, lease)
    }

    fn holder(&self) -> String {
        let holder = self.lease.as_ref().map(|it| it["spec"]["holderIdentity"].clone());
        holder.and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

fn failure(code: u16) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Failure",
    };
    (code, json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason }))
}

fn client(server: &Arc<Mutex<Server>>) -> Client {
    let server = server.clone();
    let service = tower::service_fn(move |request: hyper::Request<Body>| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let answer =
                server.lock().unwrap().answer(parts.method.as_str(), parts.uri.path(), body);
            let body = Body::from(serde_json::to_vec(&answer.1).unwrap());
            let response = hyper::Response::builder().status(answer.0).body(body).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    Client::new(service, "weir-system")
}

const QUICK: Timing = Timing {
    lease: Duration::from_millis(1000),
    renew: Duration::from_millis(500),
    retry: Duration::from_millis(50),
};

fn wall_clock() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// Takes part until `stop` is dropped; counts how often it led, and shows whether it does.
fn spawn_candidate(
    server: &Arc<Mutex<Server>>,
    name: &str,
) -> (watch::Receiver<bool>, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let (sender, receiver) = watch::channel(false);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let election = Election::new(
        Api::namespaced(client(server), "weir-system"),
        "weir-operator".into(),
        name.into(),
        QUICK,
        wall_clock,
        sender,
    );
    let task = tokio::spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        election.run(std::future::pending::<anyhow::Error>, stop).await;
    });
    (receiver, stop, task)
}

async fn wait_until(receiver: &mut watch::Receiver<bool>, wanted: bool) {
    let wait = receiver.wait_for(|it| *it == wanted);
    tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap().unwrap();
}

#[tokio::test]
async fn leading_goes_on_through_conflicts_and_is_handed_over_at_the_end() {
    let server = Arc::new(Mutex::new(Server { conflicts: 2, ..Server::default() }));
    let (mut a, stop_a, task_a) = spawn_candidate(&server, "a");
    wait_until(&mut a, true).await;
    let (mut b, stop_b, task_b) = spawn_candidate(&server, "b");
    server.lock().unwrap().conflicts = 3;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(*a.borrow() && !*b.borrow());
    assert_eq!(server.lock().unwrap().holder(), "a");
    drop(stop_a);
    task_a.await.unwrap();
    assert!(!*a.borrow());
    // Without waiting for the Lease to run out.
    let wait = wait_until(&mut b, true);
    tokio::time::timeout(Duration::from_millis(500), wait).await.unwrap();
    drop(stop_b);
    task_b.await.unwrap();
    assert_eq!(server.lock().unwrap().holder(), "");
    assert_eq!(server.lock().unwrap().lease.as_ref().unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_leader_stops_without_the_api_server_and_comes_back_with_it() {
    let server = Arc::new(Mutex::new(Server::default()));
    let (mut a, stop, task) = spawn_candidate(&server, "a");
    wait_until(&mut a, true).await;
    server.lock().unwrap().is_away = true;
    let wait = wait_until(&mut a, false);
    tokio::time::timeout(QUICK.lease, wait).await.expect("before anybody else may start");
    server.lock().unwrap().is_away = false;
    wait_until(&mut a, true).await;
    drop(stop);
    task.await.unwrap();
}

#[tokio::test]
async fn taints_are_replaced_only_where_the_node_is_as_it_was_seen() {
    let server = Arc::new(Mutex::new(Server::default()));
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    server.lock().unwrap().answers = [failure(409), (200, node)].into();
    let nodes: Api<Node> = Api::all(client(&server));
    let write = NodeWrite::Taints { version: "7".into(), taints: Vec::new() };
    let error = write_node(&nodes, "n1", &write, wall_clock).await.unwrap_err();
    assert!(is_conflict(&error), "{error}");
    let condition = NodeWrite::Condition {
        is_unavailable: false,
        is_transition: true,
        reason: "WeirIsUp",
        message: "up",
    };
    write_node(&nodes, "n1", &condition, wall_clock).await.unwrap();
    let seen = server.lock().unwrap().seen.clone();
    assert_eq!(seen[0].2["metadata"]["resourceVersion"], "7");
    assert_eq!(seen[0].2["spec"]["taints"], json!([]));
    assert_eq!(seen[1].1, "/api/v1/nodes/n1/status");
    let condition = &seen[1].2["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("NetworkUnavailable"), &json!("False"))
    );
}

/// One that another network wrote, of the same status: since when it is so stays as it was.
#[tokio::test]
async fn the_time_of_a_conditions_transition_is_that_of_its_status() {
    for (status, expected) in [("False", Value::Null), ("True", json!("2026-01-01T00:00:00Z"))] {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": "n1", "resourceVersion": "7" },
            "status": { "conditions": [
                { "type": "NetworkUnavailable", "status": status, "reason": "CalicoIsUp" },
            ] },
        });
        let agent = json!({
            "metadata": { "name": "weir-x" },
            "spec": { "nodeName": "n1", "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        let mut state = Nodes::default();
        state.put_node(&serde_json::from_value(node.clone()).unwrap());
        state.put_agent(&serde_json::from_value(agent).unwrap());
        let (name, write) = state.review(Duration::ZERO).remove(0);
        let server = Arc::new(Mutex::new(Server::default()));
        server.lock().unwrap().answers = [(200, node)].into();
        write_node(&Api::all(client(&server)), &name, &write, wall_clock).await.unwrap();
        let condition = server.lock().unwrap().seen[0].2["status"]["conditions"][0].clone();
        assert_eq!(condition["reason"], "WeirIsUp");
        assert_eq!(condition["lastHeartbeatTime"], "2026-01-01T00:00:00Z");
        assert_eq!(condition["lastTransitionTime"], expected, "it was {status}");
    }
}
