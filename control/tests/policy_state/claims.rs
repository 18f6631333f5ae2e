//! Whose an address is, where several could say so.

use weir_control::policy::Enforcement;

use crate::engine::{Engine, ip};

fn pod(name: &str, metadata: &str, spec: &str, address: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: {name}}}{metadata}}}
spec: {{containers: [{{name: c, image: i}}]{spec}}}
status: {{podIP: {address}}}
"
    )
}

/// None is attached: only their objects say which addresses they have.
fn engine(yaml: &str) -> Engine {
    let mut engine = Engine::new(Enforcement::Default);
    read(&mut engine, yaml);
    engine
}

fn read(engine: &mut Engine, yaml: &str) {
    engine.read(yaml);
    for name in ["a", "b", "c", "host", "own"] {
        engine.state.attach(&crate::engine::name(&format!("default/{name}")), None);
    }
    engine.settle();
}

fn app_at(engine: &Engine, address: &str) -> String {
    let labels = engine.labels_of(ip(address));
    labels.into_iter().find(|it| it.starts_with("k8s:app=")).unwrap_or_default()
}

#[test]
fn the_newest_pod_that_is_not_going_has_the_address() {
    let [first, second, third] =
        ["1", "2", "3"].map(|day| format!(", creationTimestamp: '2024-01-0{day}T00:00:00Z'"));
    let going = ", deletionTimestamp: '2024-01-09T00:00:00Z'";
    let a = pod("a", &first, "", "10.0.0.1");
    let b = pod("b", &second, "", "10.0.0.1");
    let c = pod("c", &format!("{third}{going}"), "", "10.0.0.1");
    let mut engine = engine(&format!("{a}{b}{c}"));
    assert_eq!(app_at(&engine, "10.0.0.1"), "k8s:app=b");
    let b_going = pod("b", &format!("{second}{going}"), "", "10.0.0.1");
    read(&mut engine, &format!("{a}{b_going}{c}"));
    assert_eq!(app_at(&engine, "10.0.0.1"), "k8s:app=a", "the only one that stays");
    read(&mut engine, &format!("{b_going}{c}"));
    assert_eq!(app_at(&engine, "10.0.0.1"), "k8s:app=c");
    read(&mut engine, &pod("a", "", "", "10.0.0.2"));
    assert_eq!(app_at(&engine, "10.0.0.1"), "", "nobody has it any more");
}

#[test]
fn a_pod_in_its_nodes_network_says_where_the_node_is() {
    let host = pod("host", "", ", hostNetwork: true, nodeName: n3", "192.0.2.3");
    let own = pod("own", "", ", hostNetwork: true, nodeName: n1", "192.0.2.9");
    let mut engine = engine(&format!("{host}{own}"));
    assert_eq!(engine.labels_of(ip("192.0.2.3")), ["reserved:remote-node"]);
    assert_eq!(engine.labels_of(ip("192.0.2.9")), ["reserved:host"]);

    let server = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{name: https, port: 6443}]
endpoints: [{addresses: [192.0.2.3]}]
";
    read(&mut engine, &format!("{host}{server}"));
    let labels = ["reserved:kube-apiserver", "reserved:remote-node"];
    assert_eq!(engine.labels_of(ip("192.0.2.3")), labels);
    let world = ["reserved:world", "reserved:world-ipv4"];
    assert_eq!(engine.labels_of(ip("192.0.2.9")), world, "the pod is gone");

    // The node's own object is believed first.
    let node = "---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.9}]}
";
    read(&mut engine, &format!("{own}{node}"));
    assert_eq!(engine.labels_of(ip("192.0.2.9")), ["reserved:remote-node"]);
    assert_eq!(engine.labels_of(ip("192.0.2.3")), world);
}
