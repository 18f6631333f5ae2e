//! Peers by the names that DNS answered.

use std::time::Duration;

use weir_control::policy::Enforcement;
use weir_tables::policy::PolicyAction;

use crate::engine::{Egress, Engine, ip, name, tcp};

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: default, labels: {app: a}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.0.0.1}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: a}}
  egress:
  - toFQDNs: [{matchName: api.example.com}, {matchPattern: '*.cdn.example'}]
";

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn reaches(engine: &Engine, address: &str) -> bool {
    engine.judge(&name("default/a"), Egress, ip(address), tcp(443)).0 == PolicyAction::Allow
}

#[test]
fn an_answer_opens_its_addresses_while_it_lasts() {
    let mut engine = Engine::new(Enforcement::Default);
    engine.read(MANIFEST);
    let pod = name("default/a");
    assert!(!reaches(&engine, "198.51.100.1"));
    let addresses = [ip("198.51.100.1"), ip("2001:db8::1")];
    engine.state.learn_name(&pod, "API.example.com.", &addresses, seconds(30), seconds(10));
    engine.state.learn_name(&pod, "x.cdn.example", &[ip("198.51.100.2")], seconds(5), seconds(10));
    engine.state.learn_name(
        &pod,
        "a.b.cdn.example",
        &[ip("198.51.100.3")],
        seconds(5),
        seconds(10),
    );
    engine.settle();
    assert!(reaches(&engine, "198.51.100.1"));
    assert!(reaches(&engine, "2001:db8::1"));
    assert!(reaches(&engine, "198.51.100.2"));
    assert!(!reaches(&engine, "198.51.100.3"), "a star is within one label");
    let labels = engine.labels_of(ip("198.51.100.2"));
    assert_eq!(labels, ["fqdn:*.cdn.example", "reserved:world", "reserved:world-ipv4"]);

    engine.state.expire_names(seconds(15));
    engine.settle();
    assert!(reaches(&engine, "198.51.100.1"));
    assert!(!reaches(&engine, "198.51.100.2"));
    engine.state.keep_names([ip("198.51.100.1")], seconds(40));
    engine.state.expire_names(seconds(40));
    engine.settle();
    assert!(reaches(&engine, "198.51.100.1"), "a connection keeps it");
    assert!(!reaches(&engine, "2001:db8::1"));
    engine.state.keep_names([], seconds(50));
    engine.state.expire_names(seconds(50));
    engine.settle();
    assert!(!reaches(&engine, "198.51.100.1"));
    assert_eq!(engine.labels_of(ip("198.51.100.1")), ["reserved:world", "reserved:world-ipv4"]);
}

#[test]
fn names_go_with_the_endpoint_that_learned_them() {
    let mut engine = Engine::new(Enforcement::Default);
    engine.read(MANIFEST);
    let pod = name("default/a");
    engine.state.learn_name(
        &name("default/b"),
        "api.example.com",
        &[ip("198.51.100.9")],
        seconds(60),
        seconds(0),
    );
    engine.settle();
    assert!(!reaches(&engine, "198.51.100.9"), "b is not here");
    engine.state.learn_name(
        &pod,
        "api.example.com",
        &[ip("198.51.100.1")],
        seconds(60),
        seconds(0),
    );
    engine.settle();
    assert!(reaches(&engine, "198.51.100.1"));
    engine.state.set_local(&pod, false);
    engine.state.set_local(&pod, true);
    engine.settle();
    assert!(!reaches(&engine, "198.51.100.1"));
}
