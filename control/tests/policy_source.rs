//! Runs `scripts/policy/*.txt`: manifests in, the policies as the model has them and the problems
//! out.
//!
//! `UPDATE=1 cargo test -p weir-control --test policy_source` writes what comes out into them.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use weir_control::model::{
    GroupChoice, NamePattern, Object, ObjectKey, Peers, Policy, PolicyAction, PolicyPeer,
    PolicyPort, PolicyProtocol, PolicyRule, PolicySpec, PortChoice, Section, ServiceChoice,
    Subject,
};
use weir_control::source::ManifestStore;

#[path = "common/script.rs"]
mod script;

#[test]
fn scripts_give_what_they_say() {
    script::run_folder("scripts/policy", 14, World::default);
}

#[derive(Default)]
struct World {
    store: ManifestStore,
    live: BTreeMap<ObjectKey, Object>,
}

impl script::World for World {
    fn put(&mut self, name: &str, content: &str) {
        self.store.put_file(Path::new(name), Ok(content));
    }

    fn remove(&mut self, name: &str) {
        self.store.remove_file(Path::new(name));
    }

    fn settle(&mut self) -> String {
        let batch = self.store.settle();
        for object in batch.upserts {
            self.live.insert(object.key(), object);
        }
        for key in batch.removes {
            self.live.remove(&key);
        }
        let mut text: String = self.live.values().map(describe_model).collect();
        for problem in batch.problems {
            writeln!(text, "! {problem}").unwrap();
        }
        text
    }
}

/// Objects of other kinds are nothing.
fn describe_model(object: &Object) -> String {
    match object {
        Object::Policy(it) => describe_policy(it),
        Object::Namespace(it) => {
            let labels = it.labels.iter().map(|(key, value)| format!("{key}={value}"));
            let labels: Vec<String> = labels.collect();
            format!("namespace {}: {}\n", it.name, labels.join(", "))
        }
        Object::CidrGroup(it) => {
            let labels = it.labels.iter().map(|(key, value)| format!("{key}={value}"));
            let labels: Vec<String> = labels.collect();
            format!("group {} ({}): {}\n", it.name, labels.join(", "), join(&it.cidrs, " "))
        }
        Object::Pod(it) => {
            let mut line = format!("pod {}, account {}", it.name, it.service_account);
            line += if it.is_host_network { ", in the host's network" } else { "" };
            line += if it.is_policy_audited { ", audited" } else { "" };
            line + "\n"
        }
        _ => String::new(),
    }
}

fn join<T: ToString>(items: &[T], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

fn describe_policy(policy: &Policy) -> String {
    let mut text = String::new();
    for spec in &policy.specs {
        text += &describe_spec(policy, spec);
    }
    text
}

fn describe_spec(policy: &Policy, spec: &PolicySpec) -> String {
    let mut text = format!("{}, {:?}", policy.key, spec.tier);
    if spec.priority > 0 {
        write!(text, " {}", spec.priority).unwrap();
    }
    match &spec.subject {
        Subject::Endpoints(it) => write!(text, ": [{it}]").unwrap(),
        Subject::Nodes(it) => write!(text, ": nodes [{it}]").unwrap(),
    }
    if !spec.log.is_empty() {
        write!(text, ", log {:?}", spec.log).unwrap();
    }
    text += "\n";
    for (direction, section) in [("ingress", &spec.ingress), ("egress", &spec.egress)] {
        if let Some(section) = section {
            text += &describe_section(direction, section);
        }
    }
    text
}

fn describe_section(direction: &str, section: &Section) -> String {
    let mut text = format!("  {direction}");
    text += if section.is_default_deny { ", default deny\n" } else { "\n" };
    for rule in &section.rules {
        text += &describe_rule(rule);
    }
    text
}

fn describe_rule(rule: &PolicyRule) -> String {
    let action = match rule.action {
        PolicyAction::Allow => "allow",
        PolicyAction::Deny => "deny",
        PolicyAction::Pass => "pass",
    };
    let mut text = format!("    {}: {action} ", rule.path);
    match &rule.peers {
        Peers::Any => text += "anybody",
        Peers::Of(peers) if peers.is_empty() => text += "nobody",
        Peers::Of(peers) => {
            let peers: Vec<String> = peers.iter().map(describe_peer).collect();
            text += &peers.join(" | ");
        }
    }
    if !rule.ports.is_empty() {
        let ports: Vec<String> = rule.ports.iter().map(describe_port).collect();
        write!(text, " on {}", ports.join(", ")).unwrap();
    }
    if let Some(it) = &rule.l7 {
        write!(text, " by {} {} {}", it.parser, it.priority, it.json).unwrap();
    }
    if let Some(it) = &rule.unsupported {
        write!(text, ", unsupported: {it}").unwrap();
    }
    text + "\n"
}

fn describe_peer(peer: &PolicyPeer) -> String {
    let mut text = match peer {
        PolicyPeer::Identities(it) => format!("[{it}]"),
        PolicyPeer::Block(it) => {
            let what = if it.is_world_only { "world " } else { "" };
            format!("{what}{}", it.cidr)
        }
        PolicyPeer::CidrGroup { groups: GroupChoice::Name(it), .. } => format!("group {it}"),
        PolicyPeer::CidrGroup { groups: GroupChoice::Labels(it), .. } => format!("groups [{it}]"),
        PolicyPeer::Fqdn(NamePattern::Name(it)) => format!("name {it}"),
        PolicyPeer::Fqdn(NamePattern::Pattern(it)) => format!("names {it}"),
        PolicyPeer::Services(ServiceChoice::Name(it)) => format!("service {it}"),
        PolicyPeer::Services(ServiceChoice::Labels { namespace, selector }) => {
            let namespace = namespace.as_ref().map(|it| format!(" of {it}")).unwrap_or_default();
            format!("services{namespace} [{selector}]")
        }
    };
    let except = match peer {
        PolicyPeer::Block(it) => &it.except[..],
        PolicyPeer::CidrGroup { except, .. } => except,
        _ => &[],
    };
    if !except.is_empty() {
        write!(text, " except {}", join(except, " ")).unwrap();
    }
    text
}

fn describe_port(port: &PolicyPort) -> String {
    let protocol = match port.protocol {
        PolicyProtocol::Tcp => "TCP".into(),
        PolicyProtocol::Udp => "UDP".into(),
        PolicyProtocol::Sctp => "SCTP".into(),
        PolicyProtocol::Any => "ANY".into(),
        PolicyProtocol::Icmp => "ICMP".into(),
        PolicyProtocol::Icmpv6 => "ICMPv6".into(),
        PolicyProtocol::Other(number) => format!("protocol {number}"),
    };
    match &port.port {
        PortChoice::All => protocol,
        PortChoice::Range(first, last) if first == last => format!("{first}/{protocol}"),
        PortChoice::Range(first, last) => format!("{first}-{last}/{protocol}"),
        PortChoice::Named(name) => format!("{name}/{protocol}"),
    }
}
