//! `healthCheckNodePort`: what a load balancer sees, by the real agent.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod common;

use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::process::{Process, agent_command, http_get};
use common::{FakeDataplane, dataplane_socket};

/// A service with as many ready endpoints here, and one elsewhere.
fn manifest(port: u16, local_endpoints: u8) -> String {
    let local = (1..=local_endpoints)
        .map(|i| format!("- {{addresses: [10.0.0.{i}], nodeName: n1}}\n"))
        .collect::<String>();
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: {{service.cilium.io/forwarding-mode: dsr}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  externalTrafficPolicy: Local
  healthCheckNodePort: {port}
  externalIPs: [198.51.100.1]
  loadBalancerSourceRanges: [192.0.2.0/24]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 60}}}}
  ports: [{{port: 80, nodePort: 30080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-4, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints:
- {{addresses: [10.0.1.1], nodeName: n2}}
- {{addresses: [10.0.0.99], nodeName: n1, conditions: {{ready: false, terminating: true}}}}
{local}"
    )
}

fn save(folder: &Path, text: &str) {
    std::fs::write(folder.join("manifests/web.yaml"), text).unwrap();
}

/// Waits for a state of the port, within bounds.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("never: {what}");
}

fn is_open(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

/// What `weir service list` tells about the same service.
fn check_service_list(folder: &Path) {
    let list = |more: &[&str]| {
        let run_dir = format!("--run-dir={}", folder.display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        let output = command.arg(run_dir).args(["service", "list"]).args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&list(&["-o", "json"])).unwrap();
    let by_type = |type_: &str| {
        let services = json.as_array().unwrap();
        services.iter().find(|it| it["type"] == type_).unwrap_or_else(|| panic!("{json:#}"))
    };
    let cluster = by_type("ClusterIP");
    assert_eq!(cluster["backends"].as_array().unwrap().len(), 4);
    assert_eq!(cluster["external_backends"], serde_json::Value::Null);
    assert_eq!(cluster["forwarding"], "");
    let node_port = by_type("NodePort");
    assert_eq!(node_port["frontend"], "0.0.0.0:30080/TCP");
    assert_eq!(node_port["external_backends"].as_array().unwrap().len(), 3);
    assert_eq!(node_port["affinity_timeout_s"], 60);
    assert_eq!(node_port["forwarding"], "dsr");
    let external = by_type("ExternalIP");
    assert_eq!(external["source_ranges"], serde_json::json!(["192.0.2.0/24"]));
    let table = list(&[]);
    let line = table.lines().find(|line| line.contains("ExternalIP")).unwrap();
    assert!(line.contains("dsr, affinity 60 s, from 192.0.2.0/24"), "{table}");
    assert!(line.contains("; for clients outside: 10.0.0.1:8080, 10.0.0.2:8080, "), "{table}");
}

#[test]
fn load_balancers_are_told_how_many_endpoints_are_here() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("manifests")).unwrap();
    // Taken by something else at first.
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    save(folder, &manifest(port, 2));
    let fake = FakeDataplane::new();
    let _server = fake.serve(&dataplane_socket(folder));
    let mut agent = Process::start(&mut agent_command(folder));
    let problem = agent.wait_for("cannot listen on port");
    assert!(
        problem.contains("web.yaml:1: Service shop/web: refused: spec.healthCheckNodePort: "),
        "{problem}"
    );

    // It is tried again.
    drop(taken);
    agent.wait_for(&format!("Service shop/web: health check on port {port}"));
    agent.wait_for("solved: ");
    wait_until("a healthy proxy", || http_get(&address, "/").starts_with("HTTP/1.1 200"));
    let answer = http_get(&address, "/any/path");
    assert!(answer.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    let body = "{\"service\":{\"namespace\":\"shop\",\"name\":\"web\"},\
                \"localEndpoints\":2,\"serviceProxyHealthy\":true}";
    assert!(answer.ends_with(body), "{answer}");
    assert!(http_get(&format!("[::1]:{port}"), "/").starts_with("HTTP/1.1 200"));

    check_service_list(folder);

    save(folder, &manifest(port, 0));
    wait_until("no endpoint", || http_get(&address, "/").starts_with("HTTP/1.1 503"));
    let answer = http_get(&address, "/");
    assert!(answer.contains("x-load-balancing-endpoint-weight: 0\r\n"), "{answer}");
    assert!(answer.contains("\"localEndpoints\":0,\"serviceProxyHealthy\":true"), "{answer}");

    // With the policy the port goes.
    save(folder, &manifest(port, 2).replace("Policy: Local", "Policy: Cluster"));
    wait_until("closed", || !is_open(&address));
    save(folder, &manifest(port, 2));
    wait_until("open again", || is_open(&address));
    std::fs::remove_file(folder.join("manifests/web.yaml")).unwrap();
    wait_until("closed again", || !is_open(&address));
    assert!(agent.terminate().success());
}
