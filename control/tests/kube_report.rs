//! What the reporter writes into a cluster, against an API server that only takes notes.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response};
use serde_json::{Value, json};
use tower::service_fn;
use weir_control::model::{Problem, Severity};
use weir_control::source::kube::report::Reporter;

/// Method, path and body of every request that writes.
type Notes = Arc<Mutex<Vec<(String, String, Value)>>>;

fn client(notes: &Notes) -> kube::Client {
    let notes = notes.clone();
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let notes = notes.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let path = parts.uri.path().to_owned();
            let mut code = if path.ends_with("/gone") { 404 } else { 200 };
            let answer = match parts.method.as_str() {
                "GET" if path.ends_with("policies") => list_policies(&path),
                "GET" if code == 404 => json!({"kind": "Status", "code": 404, "reason": "NotFound",
                    "message": "gone"}),
                "GET" => {
                    let name = path.rsplit('/').next().unwrap();
                    json!({"apiVersion": "v1", "kind": "X", "metadata":
                        {"name": name, "namespace": "default", "uid": "u-1", "generation": 4}})
                }
                method => {
                    let mut body: Value = serde_json::from_slice(&body).unwrap();
                    if body["regarding"]["name"].as_str().is_some_and(|it| it.starts_with("end")) {
                        code = 403;
                        body = json!({"kind": "Status", "status": "Failure", "code": 403,
                            "reason": "Forbidden", "message": "the namespace is being terminated"});
                    }
                    notes.lock().unwrap().push((method.to_owned(), path, body.clone()));
                    body
                }
            };
            let body = Full::new(hyper::body::Bytes::from(answer.to_string()));
            Ok::<_, io::Error>(Response::builder().status(code).body(body).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

/// One that a leader before us called invalid.
fn list_policies(path: &str) -> Value {
    let old = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "old", "namespace": "default"},
        "status": {"conditions": [{"type": "Valid", "status": "False"}]}});
    let items = if path.contains("clusterwide") { json!([]) } else { json!([old]) };
    json!({"apiVersion": "cilium.io/v2", "kind": "List", "metadata": {}, "items": items})
}

fn problem(object: &str, reason: &str, severity: Severity) -> Problem {
    Problem { location: None, object: object.into(), reason: reason.into(), severity }
}

fn take(notes: &Notes) -> Vec<(String, String, Value)> {
    std::mem::take(&mut *notes.lock().unwrap())
}

#[tokio::test]
async fn each_object_is_told_once_of_what_is_new() {
    let notes = Notes::default();
    let mut reporter = Reporter::new(client(&notes), "weir-operator-1".into());
    let web = problem("Service default/web", "spec.ports: wrong", Severity::Refused);
    let node = problem("Node n1", "not supported yet", Severity::Ignored);
    let gone = problem("Pod default/gone", "wrong", Severity::Refused);
    let server = problem("API server https://x", "refused", Severity::Refused);
    let problems = [web.clone(), node, gone, server];
    assert!(reporter.update(&problems).await.unwrap());
    let told = take(&notes);
    let brief: Vec<_> = told
        .iter()
        .map(|(_, path, event)| {
            (path.as_str(), event["reason"].as_str().unwrap_or_default(), event["type"].as_str())
        })
        .collect();
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let status = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/old/status";
    let expected = [
        (events, "Refused", Some("Warning")),
        (events, "Unsupported", Some("Warning")),
        (events, "Accepted", Some("Normal")),
        (status, "", None),
    ];
    assert_eq!(brief, expected);
    let (_, _, event) = &told[0];
    assert_eq!(event["note"], "spec.ports: wrong");
    assert_eq!(event["regarding"]["uid"], "u-1");
    assert_eq!(event["reportingInstance"], "weir-operator-1");
    let condition = &told[3].2["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Valid"), &json!("True")));

    assert!(reporter.update(&problems).await.unwrap());
    assert!(take(&notes).is_empty(), "nothing new");
    assert!(reporter.update(&[]).await.unwrap());
    let reasons: Vec<_> = take(&notes).into_iter().map(|it| it.2["reason"].clone()).collect();
    assert_eq!(reasons, ["Accepted", "Accepted"], "the pod that is gone needs no word");
    // The same again is one more of a series.
    reporter.update(&[web]).await.unwrap();
    let told = take(&notes);
    assert_eq!((told[0].0.as_str(), &told[0].2["series"]["count"]), ("PATCH", &json!(2)));
}

#[tokio::test]
async fn many_are_told_of_in_portions() {
    let notes = Notes::default();
    let mut reporter = Reporter::new(client(&notes), "weir-operator-1".into());
    let policy = |i| {
        let object = format!("CiliumNetworkPolicy default/p{i}");
        problem(&object, "spec.x: unknown field", Severity::Refused)
    };
    let problems: Vec<Problem> = (0..25).map(policy).collect();
    let mut calls = 0;
    while !reporter.update(&problems).await.unwrap() {
        calls += 1;
    }
    let told = take(&notes);
    let refused = told.iter().filter(|it| it.2["reason"] == "Refused").count();
    assert_eq!((calls, refused), (2, 25));
    let condition = &told[1].2["status"]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["observedGeneration"]),
        (&json!("False"), &json!(4))
    );
    assert_eq!(condition["message"], "spec.x: unknown field");
}

/// As in a namespace that ends: the API server makes nothing new there.
#[tokio::test]
async fn what_is_refused_of_some_objects_holds_up_no_other() {
    let notes = Notes::default();
    let mut reporter = Reporter::new(client(&notes), "weir-operator-1".into());
    let service = |name: &str| problem(&format!("Service {name}"), "wrong", Severity::Refused);
    // More than one call tells of, and first in order.
    let mut problems: Vec<Problem> =
        (0..25).map(|i| service(&format!("default/ending-{i}"))).collect();
    problems.extend(["web", "zone"].map(|it| service(&format!("default/{it}"))));
    let mut told = Vec::new();
    for _ in 0..4 {
        let error = reporter.update(&problems).await.unwrap_err();
        assert!(error.to_string().contains("Service default/ending-"), "{error}");
        let notes = take(&notes);
        assert!(notes.len() <= 11, "failures count too: {}", notes.len());
        told.extend(notes.into_iter().map(|it| it.2["regarding"]["name"].clone()));
    }
    told.retain(|it| !it.is_null());
    assert_eq!(told, ["web", "zone", "old"], "once each; the last is solved");
    assert!(reporter.update(&problems[25..]).await.unwrap());
    assert!(take(&notes).is_empty());
}
