//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (`cilium.io/v2`): subjects, sections,
//! ports, and what a missing list means against an empty one.

use serde_json::Value;

use super::{Action, Hit, Protocol, Question, cilium_peers, items, name_object, ports};

/// Whether what no rule allows is denied because of this policy.
pub fn is_isolating(question: &Question, policy: &Value) -> bool {
    let section = question.section();
    specs(policy).into_iter().any(|(_, spec)| {
        let has_rules = |name: String| !items(&spec[name.as_str()]).is_empty();
        let has_rules = has_rules(section.into()) || has_rules(format!("{section}Deny"));
        // "If not specified, the default is true for each traffic direction that has rules."
        let wish = spec["enableDefaultDeny"][section].as_bool();
        cilium_peers::is_subject(question, policy, spec) && wish.unwrap_or(has_rules)
    })
}

/// Its rules that match.
pub fn hits(question: &Question, policy: &Value) -> Vec<Hit> {
    let section = question.section();
    let mut hits = Vec::new();
    for (path, spec) in specs(policy) {
        if !cilium_peers::is_subject(question, policy, spec) {
            continue;
        }
        let lists = [(section.to_string(), false), (format!("{section}Deny"), true)];
        for (list, is_deny) in lists {
            for (at, rule) in items(&spec[list.as_str()]).iter().enumerate() {
                let origin = format!("{}: {path}.{list}[{at}]", name_object(policy));
                let actions = actions(question, policy, rule, is_deny).into_iter();
                hits.extend(actions.map(|action| Hit { action, origin: origin.clone() }));
            }
        }
    }
    hits
}

/// `spec` and each of `specs`, with their paths.
fn specs(policy: &Value) -> Vec<(String, &Value)> {
    let one = policy.get("spec").map(|it| ("spec".to_string(), it));
    let several = items(&policy["specs"]).iter().enumerate();
    one.into_iter().chain(several.map(|(at, it)| (format!("specs[{at}]"), it))).collect()
}

/// What a rule does with the connection: nothing, one thing, or both to let it through and to give
/// it to a proxy.
fn actions(question: &Question, policy: &Value, rule: &Value, is_deny: bool) -> Vec<Action> {
    let has_ports = !items(&rule["toPorts"]).is_empty();
    let has_icmps = !items(&rule["icmps"]).is_empty();
    match cilium_peers::has_peers(question, rule) {
        // Nobody named and no port either: nobody is meant, neither to be let in nor to be denied.
        false if !has_ports && !has_icmps => return Vec::new(),
        true if !cilium_peers::is_peer(question, policy, rule, is_deny) => return Vec::new(),
        _ => {}
    }
    let plain = if is_deny { Action::Deny } else { Action::Allow };
    if !has_ports && !has_icmps {
        return vec![plain];
    }
    let mut actions = Vec::new();
    for list in items(&rule["toPorts"]) {
        if items(&list["ports"]).iter().any(|it| is_port(question, policy, rule, it)) {
            actions.push(if needs_proxy(list) { Action::Redirect } else { plain });
        }
    }
    let mut fields = items(&rule["icmps"]).iter().flat_map(|it| items(&it["fields"]));
    if fields.any(|it| is_icmp(question, it)) {
        actions.push(plain);
    }
    actions
}

/// Ports with rules above TCP, with server names, or with a listener of their own.
fn needs_proxy(list: &Value) -> bool {
    let rules = list["rules"].as_object();
    let has_rules = rules.is_some_and(|it| it.values().any(|each| !items(each).is_empty()));
    let others = ["serverNames", "listener", "terminatingTLS", "originatingTLS"];
    has_rules || others.iter().any(|it| list.get(it).is_some())
}

/// `{port, endPort, protocol}`. ANY, and no protocol, are all that have ports.
fn is_port(question: &Question, policy: &Value, rule: &Value, port: &Value) -> bool {
    let protocol = match port["protocol"].as_str() {
        None | Some("" | "ANY") => None,
        Some(name) => Some(ports::parse_protocol(name)),
    };
    let is_protocol = match protocol {
        None => question.protocol.has_ports(),
        Some(protocol) => protocol == question.protocol,
    };
    let text = port["port"].as_str().unwrap();
    match text.parse::<u16>() {
        Ok(0) => is_protocol,
        Ok(first) => {
            let last = port["endPort"].as_u64().unwrap_or(u64::from(first));
            let last = last.max(u64::from(first));
            is_protocol && (u64::from(first)..=last).contains(&u64::from(question.port))
        }
        Err(_) => question.is_named_port(&text.to_lowercase(), protocol, |pod| {
            cilium_peers::is_pod_chosen(question, policy, rule, pod)
        }),
    }
}

/// `{family, type}`; the family is IPv4 where it is missing.
fn is_icmp(question: &Question, field: &Value) -> bool {
    let family = match field["family"].as_str() {
        None | Some("IPv4") => Protocol::Icmp,
        Some("IPv6") => Protocol::Icmpv6,
        Some(other) => panic!("no family {other}"),
    };
    let number = match &field["type"] {
        Value::String(name) => match (family, name.as_str()) {
            (_, name) if name.parse::<u64>().is_ok() => name.parse().unwrap(),
            (Protocol::Icmp, "EchoReply") => 0,
            (Protocol::Icmp, "DestinationUnreachable") => 3,
            (Protocol::Icmp, "EchoRequest" | "Echo") => 8,
            (Protocol::Icmp, "TimeExceeded") => 11,
            (Protocol::Icmpv6, "DestinationUnreachable") => 1,
            (Protocol::Icmpv6, "PacketTooBig") => 2,
            (Protocol::Icmpv6, "EchoRequest") => 128,
            (Protocol::Icmpv6, "EchoReply") => 129,
            other => panic!("no ICMP type {other:?}"),
        },
        number => number.as_u64().unwrap(),
    };
    family == question.protocol && number == u64::from(question.port)
}
