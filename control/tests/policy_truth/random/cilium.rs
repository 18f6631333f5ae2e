//! Random CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy objects.

use serde_json::{Value, json};

use super::dice::Dice;
use super::objects::{GROUPS, NAMESPACES, PORTS, RANGES};
use super::selectors;

const SUBJECT_KEYS: [(&str, [&str; 2]); 5] = [
    ("app", ["web", "db"]),
    ("k8s:tier", ["front", "back"]),
    ("any:pod", ["p1", "p2"]),
    ("io.cilium.k8s.policy.serviceaccount", ["alpha", "default"]),
    ("k8s:io.cilium.k8s.namespace.labels.team", ["red", "blue"]),
];
const PEER_KEYS: [(&str, [&str; 2]); 7] = [
    ("app", ["web", "db"]),
    ("k8s:tier", ["front", "back"]),
    ("pod", ["p1", "p2"]),
    ("io.cilium.k8s.policy.serviceaccount", ["alpha", "default"]),
    ("io.kubernetes.pod.namespace", ["one", "two"]),
    ("k8s:io.kubernetes.pod.namespace", ["one", "three"]),
    ("io.cilium.k8s.namespace.labels.env", ["dev", "prod"]),
];
const ENTITIES: [&str; 8] =
    ["all", "world", "cluster", "host", "remote-node", "none", "health", "init"];

pub fn draw(dice: &mut Dice, number: usize) -> Value {
    let is_clusterwide = dice.one_in(3);
    let mut policy = if is_clusterwide {
        let metadata = json!({"name": format!("ccnp-{number}")});
        json!({"kind": "CiliumClusterwideNetworkPolicy", "metadata": metadata})
    } else {
        let namespace = dice.choose(&NAMESPACES);
        let metadata = json!({"name": format!("cnp-{number}"), "namespace": namespace});
        json!({"kind": "CiliumNetworkPolicy", "metadata": metadata})
    };
    policy["apiVersion"] = json!("cilium.io/v2");
    if dice.one_in(4) {
        policy["specs"] = dice.several(1, 2, draw_spec).into();
    } else {
        policy["spec"] = draw_spec(dice);
    }
    policy
}

fn draw_spec(dice: &mut Dice) -> Value {
    let mut spec = json!({"endpointSelector": selectors::draw(dice, &SUBJECT_KEYS)});
    if dice.one_in(3) {
        let value = dice.one_in(4);
        spec["enableDefaultDeny"] = json!({*dice.choose(&["ingress", "egress"]): value});
    }
    let sections = dice.some(&["ingress", "ingressDeny", "egress", "egressDeny"], 1);
    for section in sections {
        spec[section] = dice.several(1, 3, |dice| draw_rule(dice, section)).into();
    }
    // At least one section must say something; an empty list beside it says nothing.
    for section in ["ingress", "egress"] {
        if spec.get(section).is_none() && dice.one_in(8) {
            spec[section] = json!([]);
        }
    }
    spec
}

fn draw_rule(dice: &mut Dice, section: &str) -> Value {
    let is_deny = section.ends_with("Deny");
    let is_egress = section.starts_with("egress");
    let list = |name: &str| format!("{}{name}", if is_egress { "to" } else { "from" });
    let mut rule = json!({});
    let mut may_name = true;
    let mut may_port = true;
    match dice.below(12) {
        0 => {}
        1 => {
            let name = dice.choose::<&str>(&["Endpoints", "CIDR", "CIDRSet", "Entities"]);
            rule[list(name)] = json!([]);
        }
        2..6 => {
            let selectors = dice.several(1, 2, |dice| selectors::draw(dice, &PEER_KEYS));
            rule[list("Endpoints")] = selectors.into();
        }
        6 | 7 => {
            rule[list("Entities")] =
                dice.several(1, 2, |dice| json!(dice.choose(&ENTITIES))).into();
            may_name = !is_egress;
        }
        8 => {
            rule[list("CIDR")] = dice.several(1, 2, |dice| json!(dice.choose(&RANGES))).into();
            may_name = !is_egress;
        }
        9 => {
            rule[list("CIDRSet")] = dice.several(1, 2, draw_set).into();
            may_name = !is_egress;
        }
        10 if is_egress => {
            rule["toServices"] = json!([draw_service(dice)]);
            may_port = false;
        }
        11 if is_egress && !is_deny => {
            rule["toFQDNs"] = json!([{"matchName": "example.com"}]);
            may_name = false;
        }
        _ => {
            let selector = selectors::draw(dice, &[("zone", ["east", "west"])]);
            rule[list("Nodes")] = json!([selector]);
            may_name = !is_egress;
        }
    }
    match dice.below(5) {
        0 | 1 if may_port => {
            let lists = dice.several(1, 2, |dice| draw_ports(dice, is_deny, may_name));
            rule["toPorts"] = lists.into();
        }
        2 if may_port => rule["icmps"] = json!([{"fields": dice.several(1, 2, draw_icmp)}]),
        _ => {}
    }
    rule
}

fn draw_set(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({"cidrGroupRef": dice.choose(&GROUPS)}),
        1 => {
            let selector = selectors::draw(dice, &[("role", ["partner", "branch"])]);
            json!({"cidrGroupSelector": selector})
        }
        _ => selectors::draw_block(dice),
    }
}

fn draw_service(dice: &mut Dice) -> Value {
    if dice.one_in(3) {
        let selector = selectors::draw(dice, &[("tier", ["front", "back"])]);
        let choice = json!({"selector": selector, "namespace": dice.choose(&NAMESPACES)});
        return json!({"k8sServiceSelector": choice});
    }
    let name = dice.choose(&["app", "outside", "missing"]);
    json!({"k8sService": {"serviceName": name, "namespace": dice.choose(&NAMESPACES)}})
}

fn draw_ports(dice: &mut Dice, is_deny: bool, may_name: bool) -> Value {
    if !is_deny && dice.one_in(2) {
        let port = dice.choose(&["80", "81", "8080"]);
        let ports = json!([{"port": port, "protocol": "TCP"}]);
        return json!({"ports": ports, "rules": {"http": [{"method": "GET"}]}});
    }
    json!({"ports": dice.several(1, 2, |dice| draw_port(dice, may_name))})
}

fn draw_port(dice: &mut Dice, may_name: bool) -> Value {
    let mut port = json!({});
    if !dice.one_in(4) {
        port["protocol"] = json!(dice.choose(&["TCP", "UDP", "SCTP", "ANY"]));
    }
    match dice.below(5) {
        0 => port["port"] = json!("0"),
        1 if may_name => port["port"] = json!(dice.choose(&PORTS).0),
        2 => {
            port["port"] = json!(dice.choose(&["1", "53", "79"]));
            port["endPort"] = json!(dice.choose(&[80, 81, 65535]));
        }
        _ => port["port"] = json!(dice.choose(&["53", "80", "81", "8080"])),
    }
    port
}

fn draw_icmp(dice: &mut Dice) -> Value {
    match dice.below(5) {
        0 => json!({"type": 8}),
        1 => json!({"type": "EchoRequest", "family": "IPv6"}),
        2 => json!({"type": 0, "family": "IPv4"}),
        3 => json!({"type": 128, "family": "IPv6"}),
        _ => json!({"type": "EchoRequest", "family": "IPv4"}),
    }
}
