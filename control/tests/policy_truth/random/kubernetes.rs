//! Random NetworkPolicy objects.

use serde_json::{Value, json};

use super::dice::Dice;
use super::objects::{NAMESPACES, PORTS};
use super::selectors::{self, NAMESPACE_KEYS, POD_KEYS};

pub fn draw(dice: &mut Dice, number: usize) -> Value {
    let mut spec = json!({"podSelector": selectors::draw(dice, &POD_KEYS)});
    match dice.below(6) {
        0 => {}
        1 => spec["policyTypes"] = json!([]),
        2 => spec["policyTypes"] = json!(["Ingress"]),
        3 => spec["policyTypes"] = json!(["Egress"]),
        _ => spec["policyTypes"] = json!(["Ingress", "Egress"]),
    }
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        if !dice.one_in(5) {
            let rules = dice.several(0, 3, |dice| draw_rule(dice, peers));
            spec[section] = rules.into();
        }
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("knp-{number}"), "namespace": dice.choose(&NAMESPACES)},
        "spec": spec,
    })
}

fn draw_rule(dice: &mut Dice, list: &str) -> Value {
    let mut rule = json!({});
    let mut may_name = true;
    if !dice.one_in(4) {
        let peers = dice.several(0, 3, draw_peer);
        // At addresses no container has named a port.
        may_name = list == "from" || !peers.iter().any(|it| it.get("ipBlock").is_some());
        rule[list] = peers.into();
    }
    if dice.one_in(2) {
        rule["ports"] = dice.several(0, 3, |dice| draw_port(dice, may_name)).into();
    }
    rule
}

fn draw_peer(dice: &mut Dice) -> Value {
    let mut peer = json!({});
    match dice.below(4) {
        0 => peer["podSelector"] = selectors::draw(dice, &POD_KEYS),
        1 => peer["namespaceSelector"] = selectors::draw(dice, &NAMESPACE_KEYS),
        2 => {
            peer["podSelector"] = selectors::draw(dice, &POD_KEYS);
            peer["namespaceSelector"] = selectors::draw(dice, &NAMESPACE_KEYS);
        }
        _ => peer["ipBlock"] = selectors::draw_block(dice),
    }
    peer
}

fn draw_port(dice: &mut Dice, may_name: bool) -> Value {
    let mut port = json!({});
    if !dice.one_in(3) {
        port["protocol"] = json!(dice.choose(&["TCP", "UDP", "SCTP"]));
    }
    match dice.below(5) {
        0 => {}
        1 if may_name => {
            let (name, _, protocol) = *dice.choose(&PORTS);
            port["port"] = json!(name);
            if !dice.one_in(4) {
                port["protocol"] = json!(protocol);
            }
        }
        2 => {
            port["port"] = json!(dice.choose(&[1, 53, 79, 80]));
            port["endPort"] = json!(dice.choose(&[80, 81, 1000, 65535]));
        }
        _ => port["port"] = json!(dice.choose(&[53, 80, 81, 8080])),
    }
    port
}
