//! Namespaces, nodes, pods, services and groups of ranges.

use serde_json::{Map, Value, json};

use super::dice::Dice;

pub const NAMESPACES: [&str; 3] = ["one", "three", "two"];
pub const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
pub const GROUPS: [&str; 3] = ["near", "far", "missing"];

/// Names of ports, their numbers on different pods, and their protocol.
pub const PORTS: [(&str, [u16; 2], &str); 4] = [
    ("http", [80, 8080], "TCP"),
    ("admin", [8080, 81], "TCP"),
    ("dns", [53, 5353], "UDP"),
    ("assoc", [80, 81], "SCTP"),
];

/// Ranges, so that each is in others or holds others: of pods, of nodes and of the world.
pub const RANGES: [&str; 20] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/30",
    "10.0.0.1/32",
    "10.0.0.2/31",
    "10.0.0.4/32",
    "172.18.0.0/24",
    "172.18.0.2/32",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "203.0.113.0/25",
    "203.0.113.10/32",
    "203.0.0.0/16",
    "::/0",
    "fd00::/8",
    "fd00:0:0:1::2/127",
    "fd00:18::/32",
    "2001:db8::/32",
    "2001:db8::1/128",
];

pub fn draw(dice: &mut Dice) -> Vec<Value> {
    let mut objects = Vec::new();
    for (number, name) in NODES.iter().enumerate() {
        let (ipv4, ipv6) = (format!("172.18.0.{}", number + 1), format!("fd00:18::{}", number + 1));
        let mut labels = draw_labels(dice, &[("zone", &["east", "west"])]);
        labels.insert("kubernetes.io/os".into(), json!("linux"));
        objects.push(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "status": {"addresses": [
                {"type": "InternalIP", "address": ipv4},
                {"type": "InternalIP", "address": ipv6},
            ]},
        }));
    }
    for name in NAMESPACES {
        let mut labels = draw_labels(dice, &[("team", &["red", "blue"]), ("env", &["dev"])]);
        labels.insert("kubernetes.io/metadata.name".into(), json!(name));
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        }));
    }
    let pods_len = 4 + dice.below(6);
    let pods: Vec<Value> = (1..=pods_len).map(|number| draw_pod(dice, number)).collect();
    objects.extend(draw_services(dice, &pods));
    objects.extend(pods);
    for name in &GROUPS[..2] {
        let labels = draw_labels(dice, &[("role", &["partner", "branch"])]);
        let cidrs = dice.several(1, 3, |dice| *dice.choose(&RANGES));
        let mut cidrs: Vec<&str> = cidrs;
        cidrs.dedup();
        objects.push(json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
            "metadata": {"name": name, "labels": labels}, "spec": {"externalCIDRs": cidrs},
        }));
    }
    objects
}

fn draw_labels(dice: &mut Dice, keys: &[(&str, &[&str])]) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, values) in keys {
        if !dice.one_in(3) {
            labels.insert((*key).into(), json!(dice.choose(values)));
        }
    }
    labels
}

fn draw_pod(dice: &mut Dice, number: usize) -> Value {
    let node = dice.below(NODES.len());
    let is_host = dice.one_in(10);
    let addresses = if is_host {
        vec![format!("172.18.0.{}", node + 1)]
    } else {
        let both = [format!("10.0.0.{number}"), format!("fd00:0:0:1::{number}")];
        let len = 1 + usize::from(!dice.one_in(3));
        both[..len].to_vec()
    };
    // The same number twice in a pod would be two names of one port.
    let mut seen = Vec::new();
    let mut ports = Vec::new();
    for (name, numbers, protocol) in PORTS {
        let number = *dice.choose(&numbers);
        if !is_host && dice.one_in(2) && !seen.contains(&(number, protocol)) {
            seen.push((number, protocol));
            ports.push(json!({"name": name, "containerPort": number, "protocol": protocol}));
        }
    }
    let mut labels = draw_labels(dice, &[("app", &["web", "db"]), ("tier", &["front", "back"])]);
    labels.insert("pod".into(), json!(format!("p{number}")));
    let ips: Vec<Value> = addresses.iter().map(|it| json!({"ip": it})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("p{number}"), "namespace": dice.choose(&NAMESPACES), "labels": labels,
        },
        "spec": {
            "nodeName": NODES[node], "hostNetwork": is_host,
            "serviceAccountName": dice.choose(&["default", "alpha"]),
            "containers": [{"name": "main", "ports": ports}],
        },
        "status": {
            "phase": "Running", "podIP": addresses[0], "podIPs": ips,
            "hostIP": format!("172.18.0.{}", node + 1),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// In each namespace one with a selector, whose slice has the pods it selects, and one without.
fn draw_services(dice: &mut Dice, pods: &[Value]) -> Vec<Value> {
    let mut objects = Vec::new();
    for (number, namespace) in NAMESPACES.iter().enumerate() {
        let app = *dice.choose(&["web", "db"]);
        let labels = draw_labels(dice, &[("tier", &["front", "back"])]);
        let backends = pods.iter().filter(|it| {
            it["metadata"]["namespace"] == *namespace
                && it["metadata"]["labels"]["app"] == app
                && it["spec"]["hostNetwork"] == false
        });
        let backends: Vec<Value> =
            backends.map(|it| json!({"addresses": [it["status"]["podIP"]]})).collect();
        let outside = vec![json!({"addresses": ["203.0.113.10"]})];
        let both = [("app", 1, Some(json!({"app": app})), backends), ("outside", 2, None, outside)];
        for (name, host, selector, endpoints) in both {
            let address = format!("10.96.{number}.{host}");
            let mut service = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]},
            });
            if let Some(selector) = selector {
                service["spec"]["selector"] = selector;
            }
            objects.push(service);
            objects.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-1"), "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}],
            }));
        }
    }
    objects
}
