//! The leader's work while changes never stop coming, against an API server that sends them.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use weir_ipam::balancers::Balancers;
use weir_ipam::events::Events;
use weir_ipam::metrics::{Counters, PoolReport};
use weir_ipam::node_controller::run_node_controller;

/// Far less than changes settle in.
const PERIOD: Duration = Duration::from_millis(5);
/// Far more.
const PATIENCE: Duration = Duration::from_secs(5);

type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Paths that were written to.
type Writes = Arc<Mutex<Vec<String>>>;

fn wall_clock() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// The only object of its kind, if there is one.
fn object(kind: &str) -> Option<Value> {
    match kind {
        "nodes" => Some(json!({ "metadata": { "name": "n1" } })),
        "pods" => Some(json!({
            "metadata": { "name": "weir-x", "namespace": "weir-system" },
            "spec": { "nodeName": "n1", "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        })),
        "services" => Some(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "ports": [{ "port": 80 }] },
        })),
        _ => None,
    }
}

fn list(kind: &str) -> Value {
    let items: Vec<Value> = object(kind).into_iter().collect();
    json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" },
        "items": items })
}

/// The object changes for ever, but nothing of what counts.
fn stream(kind: &str) -> Body {
    let Some(object) = object(kind) else {
        return StreamBody::new(futures::stream::pending()).boxed_unsync();
    };
    let lines = futures::stream::unfold(2, move |version: u64| {
        let mut object = object.clone();
        async move {
            tokio::time::sleep(PERIOD).await;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let line = format!("{}\n", json!({ "type": "MODIFIED", "object": object }));
            Some((Ok(Frame::data(Bytes::from(line))), version + 1))
        }
    });
    StreamBody::new(lines.boxed()).boxed_unsync()
}

fn client(writes: &Writes) -> Client {
    let writes = writes.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let path = request.uri().path().to_owned();
        let kind = path.rsplit('/').next().unwrap();
        let is_watch = request.uri().query().is_some_and(|it| it.contains("watch="));
        let body = match (request.method().as_str(), is_watch) {
            ("GET", true) => stream(kind),
            ("GET", false) => Full::new(Bytes::from(list(kind).to_string())).boxed_unsync(),
            _ => {
                let node = object("nodes").unwrap().to_string();
                writes.lock().unwrap().push(path);
                Full::new(Bytes::from(node)).boxed_unsync()
            }
        };
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    Client::new(service, "weir-system")
}

#[tokio::test]
async fn a_steady_stream_of_changes_does_not_put_off_services() {
    let client = client(&Writes::default());
    let (report, mut reports) = watch::channel(PoolReport::default());
    let balancers = Balancers {
        client: client.clone(),
        is_default_class: true,
        events: Events::new(client, "operator-1".into()),
        wall_clock,
        counters: Counters::default(),
        report,
    };
    tokio::select! {
        () = balancers.run() => panic!("it ended"),
        changed = tokio::time::timeout(PATIENCE, reports.changed()) => changed.unwrap().unwrap(),
    }
}

#[tokio::test]
async fn a_steady_stream_of_changes_does_not_put_off_nodes() {
    let writes = Writes::default();
    let run =
        run_node_controller(client(&writes), "weir-system".into(), wall_clock, Counters::default());
    let is_written = async {
        while writes.lock().unwrap().is_empty() {
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::select! {
        () = run => panic!("it ended"),
        done = tokio::time::timeout(PATIENCE, is_written) => done.unwrap(),
    }
    assert_eq!(writes.lock().unwrap()[0], "/api/v1/nodes/n1/status");
}
