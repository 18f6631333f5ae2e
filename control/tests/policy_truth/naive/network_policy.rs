//! NetworkPolicy (`networking.k8s.io/v1`), as its API reference has it.

use serde_json::Value;

use super::{Action, Direction, Hit, Question, address, ends, items, labels, name_object, ports};

/// Whether the policy is about the pod in this direction, so that what it does not allow is denied.
pub fn is_isolating(question: &Question, policy: &Value) -> bool {
    let spec = &policy["spec"];
    let is_selected = policy["metadata"]["namespace"] == question.pod["metadata"]["namespace"]
        && labels::is_selected(&spec["podSelector"], &question.pod["metadata"]["labels"]);
    is_selected && has_type(spec, question.direction)
}

/// `policyTypes`; without it Ingress always, and Egress if there are rules of it.
fn has_type(spec: &Value, direction: Direction) -> bool {
    let types = items(&spec["policyTypes"]);
    match direction {
        Direction::Ingress if types.is_empty() => true,
        Direction::Egress if types.is_empty() => !items(&spec["egress"]).is_empty(),
        Direction::Ingress => types.iter().any(|it| it == "Ingress"),
        Direction::Egress => types.iter().any(|it| it == "Egress"),
    }
}

/// Its rules that allow the connection. The policy must be isolating.
pub fn hits(question: &Question, policy: &Value) -> Vec<Hit> {
    let section = question.section();
    let rules = items(&policy["spec"][section]).iter().enumerate();
    let matching = rules.filter(|(_, rule)| is_match(question, policy, rule));
    let name = name_object(policy);
    let hit = |at| Hit { action: Action::Allow, origin: format!("{name}: spec.{section}[{at}]") };
    matching.map(|(at, _)| hit(at)).collect()
}

fn is_match(question: &Question, policy: &Value, rule: &Value) -> bool {
    let peers = match question.direction {
        Direction::Ingress => items(&rule["from"]),
        Direction::Egress => items(&rule["to"]),
    };
    // Missing or empty: everybody.
    let is_peer = peers.is_empty() || peers.iter().any(|it| is_peer(question, policy, it));
    is_peer && is_port(question, policy, rule, peers)
}

fn is_peer(question: &Question, policy: &Value, peer: &Value) -> bool {
    if let Some(block) = peer.get("ipBlock") {
        return address::is_in_block(block, question.peer.address);
    }
    question.peer.pod.is_some_and(|pod| is_pod_selected(question, policy, peer, pod))
}

/// By selectors: without one of namespaces, pods of the policy's namespace; without one of pods,
/// all pods of the namespaces.
fn is_pod_selected(question: &Question, policy: &Value, peer: &Value, pod: &Value) -> bool {
    let is_namespace = match peer.get("namespaceSelector") {
        Some(selector) => labels::is_namespace_selected(question.world, selector, pod),
        None => policy["metadata"]["namespace"] == pod["metadata"]["namespace"],
    };
    let is_pod = match peer.get("podSelector") {
        Some(selector) => labels::is_selected(selector, &pod["metadata"]["labels"]),
        None => true,
    };
    is_namespace && is_pod && !ends::is_on_host_network(pod)
}

fn is_port(question: &Question, policy: &Value, rule: &Value, peers: &[Value]) -> bool {
    let ports = items(&rule["ports"]);
    let is_chosen = |pod: &Value| {
        let mut selecting = peers.iter().filter(|it| it.get("ipBlock").is_none());
        peers.is_empty() || selecting.any(|it| is_pod_selected(question, policy, it, pod))
    };
    // Missing or empty: all ports of all protocols.
    ports.is_empty()
        || ports.iter().any(|it| {
            let protocol = ports::parse_protocol(it["protocol"].as_str().unwrap_or("TCP"));
            let is_protocol = protocol == question.protocol;
            match &it["port"] {
                Value::Null => is_protocol,
                Value::String(name) => question.is_named_port(name, Some(protocol), is_chosen),
                first => {
                    let first = first.as_u64().unwrap();
                    let last = it["endPort"].as_u64().unwrap_or(first);
                    is_protocol && (first..=last).contains(&u64::from(question.port))
                }
            }
        })
}
