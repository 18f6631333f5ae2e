//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`), as its API reference has it.

use serde_json::Value;

use super::{Action, Direction, Hit, Question, address, ends, items, labels, name_object, ports};

/// The first of its rules that matches, if the policy is about the pod.
pub fn first_hit(question: &Question, policy: &Value) -> Option<Hit> {
    let spec = &policy["spec"];
    let subject = &spec["subject"];
    let is_about = match subject.get("namespaces") {
        Some(selector) => labels::is_namespace_selected(question.world, selector, question.pod),
        None => is_namespaced_pod(question, &subject["pods"], question.pod),
    };
    if !is_about || ends::is_on_host_network(question.pod) {
        return None;
    }
    let section = question.section();
    let mut rules = items(&spec[section]).iter().enumerate();
    let (at, rule) = rules.find(|(_, rule)| is_match(question, rule))?;
    let action = match rule["action"].as_str().unwrap() {
        "Accept" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        other => panic!("no action {other}"),
    };
    Some(Hit { action, origin: format!("{}: spec.{section}[{at}]", name_object(policy)) })
}

fn is_match(question: &Question, rule: &Value) -> bool {
    let peers = match question.direction {
        Direction::Ingress => items(&rule["from"]),
        Direction::Egress => items(&rule["to"]),
    };
    peers.iter().any(|it| is_peer(question, it)) && is_protocol(question, rule, peers)
}

fn is_peer(question: &Question, peer: &Value) -> bool {
    if let Some(networks) = peer.get("networks") {
        // About traffic inside the cluster as well.
        let mut networks = items(networks).iter().map(|it| it.as_str().unwrap());
        return networks.any(|it| address::contains(it, question.peer.address));
    }
    if let Some(selector) = peer.get("nodes") {
        let node = question.peer.node;
        return node.is_some_and(|it| labels::is_selected(selector, &it["metadata"]["labels"]));
    }
    // Names need answers of DNS: `domainNames` are nobody here.
    question.peer.pod.is_some_and(|pod| is_pod(question, peer, pod))
}

fn is_pod(question: &Question, peer: &Value, pod: &Value) -> bool {
    if let Some(selector) = peer.get("namespaces") {
        return labels::is_namespace_selected(question.world, selector, pod);
    }
    peer.get("pods").is_some_and(|it| is_namespaced_pod(question, it, pod))
}

fn is_namespaced_pod(question: &Question, selectors: &Value, pod: &Value) -> bool {
    labels::is_namespace_selected(question.world, &selectors["namespaceSelector"], pod)
        && labels::is_selected(&selectors["podSelector"], &pod["metadata"]["labels"])
}

fn is_protocol(question: &Question, rule: &Value, peers: &[Value]) -> bool {
    let Some(protocols) = rule.get("protocols") else { return true };
    let is_chosen = |pod: &Value| peers.iter().any(|it| is_pod(question, it, pod));
    items(protocols).iter().any(|it| {
        if let Some(name) = it.get("destinationNamedPort") {
            return question.is_named_port(name.as_str().unwrap(), None, is_chosen);
        }
        let (protocol, fields) = it.as_object().unwrap().iter().next().unwrap();
        let is_protocol = ports::parse_protocol(&protocol.to_uppercase()) == question.protocol;
        is_protocol && is_port(&fields["destinationPort"], question.port)
    })
}

fn is_port(choice: &Value, port: u16) -> bool {
    let (number, range) = (&choice["number"], &choice["range"]);
    match (number.as_u64(), range["start"].as_u64(), range["end"].as_u64()) {
        (Some(number), ..) => number == u64::from(port),
        (None, Some(start), Some(end)) => (start..=end).contains(&u64::from(port)),
        _ => true,
    }
}
