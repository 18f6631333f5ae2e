//! Many services: how long manifests take to load, and that one change costs one service's work.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use weir_control::clock::Clock;
use weir_control::desired::{Desired, NodeSettings};
use weir_control::source::{Batch, ManifestStore};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const FILES: u32 = 100;

/// As `kubectl get -o yaml` writes them, without what weir does not read.
fn write_service(text: &mut String, i: u32) {
    let (high, low) = (i >> 8, i & 255);
    write!(
        text,
        "---
apiVersion: v1
kind: Service
metadata:
  name: s{i}
  namespace: default
spec:
  type: ClusterIP
  clusterIP: 10.96.{high}.{low}
  clusterIPs:
  - 10.96.{high}.{low}
  sessionAffinity: None
  ports:
  - name: http
    port: 80
    protocol: TCP
    targetPort: 8080
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: s{i}-x
  namespace: default
  labels:
    kubernetes.io/service-name: s{i}
addressType: IPv4
ports:
- name: http
  port: 8080
  protocol: TCP
endpoints:
"
    )
    .unwrap();
    for endpoint in 0..ENDPOINTS {
        let node = (i + endpoint) % 500;
        write!(
            text,
            "- addresses:
  - 10.{}.{high}.{low}
  conditions:
    ready: true
    serving: true
    terminating: false
  nodeName: n{node}
  zone: z{}
",
            100 + endpoint,
            node % 3
        )
        .unwrap();
    }
}

fn apply(desired: &mut Desired, batch: Batch) -> usize {
    for object in batch.upserts {
        desired.upsert(object);
    }
    for key in &batch.removes {
        desired.remove(key);
    }
    desired.recompute().len()
}

#[test]
fn ten_thousand_services_load_in_seconds_and_change_one_by_one() {
    let mut files = vec![String::new(); FILES as usize];
    for i in 0..SERVICES {
        write_service(&mut files[(i % FILES) as usize], i);
    }
    let bytes: usize = files.iter().map(String::len).sum();
    let settings = NodeSettings { name: "n1".into(), ..NodeSettings::default() };
    let (mut store, mut desired) = (ManifestStore::default(), Desired::new(settings));
    let clock = Clock::start();
    for (i, text) in files.iter().enumerate() {
        store.put_file(Path::new(&format!("{i:03}.yaml")), Ok(text));
    }
    let batch = store.settle();
    assert_eq!(batch.problems, []);
    let read = clock.elapsed();
    let objects = apply(&mut desired, batch);
    let took = clock.elapsed();
    println!(
        "{SERVICES} services, {} endpoints, {} MB of YAML: {read:.2?} to read, {took:.2?} in all",
        SERVICES * ENDPOINTS,
        bytes >> 20
    );
    assert!(took < Duration::from_secs(60), "{took:?}");
    // The node, the reserved identities, and a frontend and a backend set per service.
    assert_eq!(objects, 1 + 9 + 2 * SERVICES as usize);

    let clock = Clock::start();
    let file = files[7].replacen("ready: true", "ready: false", 1);
    store.put_file(Path::new("007.yaml"), Ok(&file));
    let batch = store.settle();
    let read = clock.elapsed();
    assert_eq!(apply(&mut desired, batch), 1, "one set changes");
    let took = clock.elapsed();
    let computed = took - read;
    println!("one endpoint: {read:.2?} to read its file, {computed:.2?} to compute");
    // Far below what all of them take, far above what one takes.
    assert!(computed < Duration::from_millis(50), "{computed:?}");
}
