//! Tells in the cluster which objects weir refuses, and why: everything is read as agents read it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};
use weir_control::desired::{Desired, NodeSettings};
use weir_control::model::{Kind, Object, Problem, Service};
use weir_control::settings::PortRange;
use weir_control::source::Batch;
use weir_control::source::kube::KubeSource;
use weir_control::source::kube::report::Reporter;

/// Before the next part of many objects is told of.
const NEXT: Duration = Duration::from_secs(1);
/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Works until it is dropped; `instance` is the name of this process. `server` is the API server's
/// URL, for messages; `seed` is that of the random part of waiting times.
pub async fn run_watchdog(
    client: kube::Client,
    server: String,
    instance: String,
    seed: u64,
) -> anyhow::Error {
    let (sender, batches) = mpsc::channel(1);
    let (state, _) = watch::channel(String::new());
    let source = KubeSource { client: client.clone(), server, kinds: Kind::ALL.into(), seed };
    tokio::select! {
        () = source.run(sender, state) => anyhow::anyhow!("the watches of all kinds have ended"),
        () = tell(Reporter::new(client, instance), batches) => {
            anyhow::anyhow!("the reporter has ended")
        }
    }
}

/// What of many objects is wrong with each other, as every node sees it: Services that want the
/// same address and port, and policies about groups that are not there.
///
/// It follows from policies, groups, and Services with addresses or ports that people choose: about
/// 3 kB a policy and 11 kB such a Service. The API server itself keeps cluster IPs apart, and a
/// pod's host port against a Service is one node's affair.
struct Conflicts(Desired);

impl Conflicts {
    fn new() -> Self {
        // The range of node ports is the agents' to know.
        let node_ports = Some(PortRange { min: 1, max: u16::MAX });
        Self(Desired::new(NodeSettings { node_ports, ..NodeSettings::default() }))
    }

    /// Takes what is new; returns all that is wrong.
    fn take(&mut self, batch: Batch) -> Vec<Problem> {
        for object in batch.upserts {
            match &object {
                Object::Service(it) if is_internal(it) => self.0.remove(&object.key()),
                Object::Service(_) | Object::Policy(_) | Object::CidrGroup(_) => {
                    self.0.upsert(object);
                }
                Object::Pod(_) | Object::Slice(_) | Object::Node(_) | Object::Namespace(_) => {}
            }
        }
        for key in &batch.removes {
            self.0.remove(key);
        }
        self.0.recompute();
        let mut problems = batch.problems;
        // Of the node that is none.
        let of_objects = self.0.problems().into_iter().filter(|it| !it.object.starts_with("Node "));
        problems.extend(of_objects);
        problems
    }
}

/// Its only addresses are cluster IPs.
fn is_internal(service: &Service) -> bool {
    service.external_ips.is_empty()
        && service.load_balancer_ips.is_empty()
        && service.ports.iter().all(|it| it.node_port.is_none())
        && service.policy.health_check_port.is_none()
}

async fn tell(mut reporter: Reporter, mut batches: mpsc::Receiver<Batch>) {
    let mut conflicts = Conflicts::new();
    let mut problems: Vec<Problem> = Vec::new();
    let mut again_at: Option<Instant> = None;
    let mut last_error = String::new();
    loop {
        tokio::select! {
            batch = batches.recv() => match batch {
                Some(batch) => {
                    let all = conflicts.take(batch);
                    if all == problems {
                        continue;
                    }
                    problems = all;
                }
                None => return,
            },
            () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {}
        }
        let again_in = match reporter.update(&problems).await {
            Ok(true) => None,
            Ok(false) => Some(NEXT),
            Err(error) => {
                let error = error.to_string();
                match error == last_error {
                    true => debug!("{error}"),
                    false => warn!("{error}"),
                }
                last_error = error;
                Some(RETRY)
            }
        };
        again_at = again_in.map(|pause| Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full};
    use hyper::body::Bytes;
    use hyper::{Request, Response};
    use serde_json::{Value, json};
    use weir_control::model::{Name, Object};
    use weir_control::source::kubernetes::convert;

    use super::*;

    /// Objects and what is said of them.
    type Notes = Arc<Mutex<Vec<(String, String)>>>;

    fn client(notes: &Notes) -> kube::Client {
        let notes = notes.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let notes = notes.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let name = parts.uri.path().rsplit('/').next().unwrap().to_owned();
                let answer = match parts.method.as_str() {
                    "GET" => json!({ "metadata": { "name": name }, "items": [] }),
                    _ => serde_json::from_slice::<Value>(&body).unwrap(),
                };
                if let (Some(name), Some(note)) =
                    (answer["regarding"]["name"].as_str(), answer["note"].as_str())
                {
                    notes.lock().unwrap().push((name.to_owned(), note.to_owned()));
                }
                let body = Full::new(Bytes::from(answer.to_string()));
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        kube::Client::new(service, "default")
    }

    fn object(kind: Kind, name: &str, spec: Value) -> Object {
        let value = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
        let converted = convert(kind, Name::new("default", name), None, &value);
        assert!(converted.findings.is_empty(), "{:?}", converted.findings);
        converted.object.unwrap()
    }

    fn service(name: &str, mut spec: Value, port: Value) -> Object {
        spec["ports"] = json!([port]);
        spec["clusterIP"] = json!(format!("10.96.0.{}", name.as_bytes()[0]));
        object(Kind::Service, name, spec)
    }

    /// No object of these is wrong by itself.
    #[tokio::test]
    async fn objects_that_are_in_each_others_way_are_told() {
        let external = || json!({ "externalIPs": ["192.0.2.1"] });
        let on_nodes = || json!({ "type": "NodePort" });
        let local = || {
            json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 32_000 })
        };
        let web = || json!({ "port": 80 });
        // The operator does not know the range that the agents have.
        let outside = || json!({ "port": 80, "nodePort": 40_000 });
        let group = json!({ "endpointSelector": {},
            "ingress": [{ "fromCIDRSet": [{ "cidrGroupRef": "office" }] }] });
        let upserts = vec![
            service("a", external(), web()),
            service("b", external(), web()),
            service("c", external(), json!({ "port": 81 })),
            service("d", on_nodes(), outside()),
            service("e", on_nodes(), outside()),
            service("f", local(), web()),
            service("g", local(), web()),
            object(Kind::CiliumNetworkPolicy, "h", group),
        ];
        let notes = Notes::default();
        let (sender, batches) = mpsc::channel(1);
        let feed = async move {
            sender.send(Batch { upserts, ..Batch::default() }).await.unwrap();
            let upserts = vec![service("b", json!({}), web())];
            sender.send(Batch { upserts, ..Batch::default() }).await.unwrap();
        };
        tokio::join!(tell(Reporter::new(client(&notes), "operator-1".into()), batches), feed);
        let notes = notes.lock().unwrap();
        let names: Vec<&str> = notes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "e", "g", "h", "b"], "{notes:?}");
        for ((_, note), part) in notes.iter().zip([
            "192.0.2.1:80/TCP belongs to Service default/a",
            "0.0.0.0:40000/TCP belongs to Service default/d",
            "32000 belongs to Service default/f",
            "CiliumCIDRGroup office does not exist",
            "it applies in full",
        ]) {
            assert!(note.contains(part), "{note}");
        }
    }
}
