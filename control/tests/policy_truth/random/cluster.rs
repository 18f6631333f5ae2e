//! Random ClusterNetworkPolicy objects.

use serde_json::{Value, json};

use super::dice::Dice;
use super::objects::{PORTS, RANGES};
use super::selectors::{self, NAMESPACE_KEYS, POD_KEYS};

pub fn draw(dice: &mut Dice, number: usize) -> Value {
    let mut spec = json!({
        "tier": dice.choose(&["Admin", "Baseline"]),
        "priority": dice.choose(&[0, 9, 10, 1000]),
        "subject": draw_pods(dice),
    });
    for (section, list) in [("ingress", "from"), ("egress", "to")] {
        if !dice.one_in(4) {
            spec[section] = dice.several(1, 4, |dice| draw_rule(dice, list)).into();
        }
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("tier-{number}")}, "spec": spec,
    })
}

/// `namespaces` or `pods`.
fn draw_pods(dice: &mut Dice) -> Value {
    if dice.one_in(2) {
        return json!({"namespaces": selectors::draw(dice, &NAMESPACE_KEYS)});
    }
    let namespaces = selectors::draw(dice, &NAMESPACE_KEYS);
    let pods = selectors::draw(dice, &POD_KEYS);
    json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
}

fn draw_rule(dice: &mut Dice, list: &str) -> Value {
    let action = *dice.choose(&["Accept", "Deny", "Pass"]);
    let is_egress = list == "to";
    let peers = dice.several(1, 3, |dice| match dice.below(6) {
        0 if is_egress => {
            let mut networks = dice.several(1, 3, |dice| *dice.choose(&RANGES));
            networks.sort_unstable();
            networks.dedup();
            json!({"networks": networks})
        }
        1 if is_egress => json!({"nodes": selectors::draw(dice, &[("zone", ["east", "west"])])}),
        2 if is_egress && action == "Accept" => json!({"domainNames": ["*.example.com"]}),
        _ => draw_pods(dice),
    });
    let are_pods = peers.iter().all(|it| it.get("namespaces").or(it.get("pods")).is_some());
    let mut rule = json!({"action": action, list: peers});
    if dice.one_in(2) {
        rule["protocols"] = dice.several(1, 3, |dice| draw_protocol(dice, are_pods)).into();
    }
    rule
}

fn draw_protocol(dice: &mut Dice, may_name: bool) -> Value {
    let protocol = *dice.choose(&["tcp", "udp", "sctp"]);
    match dice.below(4) {
        0 if may_name => json!({"destinationNamedPort": dice.choose(&PORTS).0}),
        1 => {
            let start = dice.choose(&[1, 53, 79]);
            let end = dice.choose(&[80, 81, 8080]);
            json!({protocol: {"destinationPort": {"range": {"start": start, "end": end}}}})
        }
        _ => json!({protocol: {"destinationPort": {"number": dice.choose(&[53, 80, 81, 8080])}}}),
    }
}
