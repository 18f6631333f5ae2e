//! Runs `scripts/*.txt`: manifests in, this node's desired state and the problems out, one line
//! per object and per problem.
//!
//! Two names are no files: `-- flags` are the agent's, before anything else, and `-- attached` are
//! the pods attached to this node, `n1`, one per line.
//! `UPDATE=1 cargo test -p weir-control --test scripts` writes what comes out into the scripts.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use clap::Parser;
use weir_api::convert::parse_address;
use weir_api::v1::{
    Algorithm, Backend, BackendSet, BackendState, DsrDispatch, Endpoint, Forwarding, Frontend,
    FrontendType, NodeConfig, Object, Prefix, Protocol, object,
};
use weir_control::cli::AgentCommand;
use weir_control::desired::{Desired, DesiredKey};
use weir_control::source::ManifestStore;

#[path = "common/script.rs"]
mod script;

#[test]
fn scripts_give_what_they_say() {
    script::run_folder("scripts", 20, World::new);
}

struct World {
    store: ManifestStore,
    desired: Desired,
    attached: BTreeSet<String>,
    /// What a dataplane has that applied every change.
    applied: BTreeMap<DesiredKey, Object>,
}

impl World {
    fn new() -> Self {
        let (store, desired) = (ManifestStore::default(), start_desired(""));
        Self { store, desired, attached: BTreeSet::new(), applied: BTreeMap::new() }
    }

    fn attach(&mut self, names: BTreeSet<String>) {
        for gone in self.attached.difference(&names) {
            self.desired.remove_endpoint(gone);
        }
        for name in &names {
            let endpoint = Endpoint { name: name.clone(), ..Endpoint::default() };
            self.desired.put_endpoint(endpoint);
        }
        self.attached = names;
    }
}

impl script::World for World {
    fn put(&mut self, name: &str, content: &str) {
        match name {
            "flags" => self.desired = start_desired(content),
            "attached" => self.attach(content.split_whitespace().map(str::to_owned).collect()),
            _ => self.store.put_file(Path::new(name), Ok(content)),
        }
    }

    fn remove(&mut self, name: &str) {
        self.store.remove_file(Path::new(name));
    }

    fn settle(&mut self) -> String {
        let batch = self.store.settle();
        for object in batch.upserts {
            self.desired.upsert(object);
        }
        for key in &batch.removes {
            self.desired.remove(key);
        }
        for (key, object) in self.desired.recompute() {
            match object {
                Some(object) => drop(self.applied.insert(key, object)),
                None => drop(self.applied.remove(&key)),
            }
        }
        assert_eq!(&self.applied, self.desired.objects(), "changes do not add up to the state");
        let mut text: String = self.desired.objects().values().filter_map(describe).collect();
        for (port, service, count) in self.desired.health_checks() {
            writeln!(text, "health {port} {service} {count}").unwrap();
        }
        let mut problems = batch.problems;
        problems.extend(self.desired.problems());
        problems.sort();
        for problem in problems {
            writeln!(text, "! {problem}").unwrap();
        }
        text
    }
}

fn start_desired(flags: &str) -> Desired {
    let own = ["weir-agent", "--manifests=/", "--node=n1", "--node-address=192.0.2.1"];
    let command = AgentCommand::try_parse_from(own.into_iter().chain(flags.split_whitespace()));
    Desired::new(command.unwrap().into_config().unwrap().node)
}

fn describe(object: &Object) -> Option<String> {
    match object.kind.as_ref().unwrap() {
        object::Kind::Frontend(it) => Some(describe_frontend(it)),
        object::Kind::BackendSet(it) => Some(describe_set(it)),
        object::Kind::Node(it) => describe_node(it),
        object::Kind::Endpoint(it) => Some(format!("endpoint {}\n", it.name)),
        object::Kind::Identity(_)
        | object::Kind::PeerAddress(_)
        | object::Kind::CidrSelector(_)
        | object::Kind::PolicyRules(_) => None,
    }
}

/// What is not the default stands at the end.
fn describe_frontend(it: &Frontend) -> String {
    let type_ = match it.r#type() {
        FrontendType::ClusterIp => "ClusterIP",
        FrontendType::LoadBalancer => "LoadBalancer",
        FrontendType::NodePort => "NodePort",
        FrontendType::ExternalIp => "ExternalIP",
        FrontendType::HostPort => "HostPort",
        FrontendType::Unspecified => "?",
    };
    let key = it.key.as_ref().unwrap();
    let mut line = format!("frontend {key} {type_} {} -> {}", it.service, it.backend_set);
    if !it.external_backend_set.is_empty() {
        write!(line, ", outside -> {}", it.external_backend_set).unwrap();
    }
    if it.affinity_timeout_s > 0 {
        write!(line, ", affinity {} s", it.affinity_timeout_s).unwrap();
    }
    if !it.source_ranges.is_empty() {
        let what = if it.source_ranges_deny { "not from" } else { "from" };
        write!(line, ", {what}{}", list_ranges(&it.source_ranges)).unwrap();
    }
    let is_internal = it.r#type() == FrontendType::ClusterIp;
    match it.forwarding() {
        Forwarding::Unspecified => assert!(is_internal, "{line}"),
        Forwarding::Snat => assert!(!is_internal, "{line}"),
        Forwarding::Dsr => {
            assert!(!is_internal, "{line}");
            line += ", dsr";
        }
    }
    line + "\n"
}

fn describe_set(it: &BackendSet) -> String {
    let algorithm = match it.algorithm() {
        Algorithm::Maglev => "maglev",
        Algorithm::Hash => "hash",
        Algorithm::Unspecified => "?",
    };
    let protocol = Protocol::try_from(it.protocol).unwrap();
    let protocol = protocol.as_str_name().replace("PROTOCOL_", "");
    let mut line = format!("set {} {algorithm} {protocol}:", it.name);
    for backend in &it.backends {
        line += " ";
        line += &describe_backend(backend);
    }
    line + "\n"
}

fn describe_backend(backend: &Backend) -> String {
    let ip = parse_address(&backend.address).unwrap();
    let port = u16::try_from(backend.l4_port).unwrap();
    let mut text = std::net::SocketAddr::new(ip, port).to_string();
    if !backend.node_address.is_empty() {
        write!(text, "@{}", parse_address(&backend.node_address).unwrap()).unwrap();
    }
    match backend.state() {
        BackendState::Active => {}
        state => write!(text, "={}", &state.as_str_name()[14..]).unwrap(),
    }
    if backend.weight != 100 {
        write!(text, "*{}", backend.weight).unwrap();
    }
    text
}

/// Shown where a script is about it: more than the one address that this node has anyway.
fn describe_node(it: &NodeConfig) -> Option<String> {
    let addresses = it.addresses.iter().map(|it| parse_address(it).unwrap().to_string());
    let addresses: Vec<String> = addresses.collect();
    let mut line = format!("node {} {}", it.name, addresses.join(" "));
    let mut is_plain = addresses.len() == 1;
    let mut add = |is_said: bool, text: String| {
        if is_said {
            line += &text;
            is_plain = false;
        }
    };
    let cluster = list_ranges(&it.cluster_ranges);
    add(it.cluster_ranges.len() > 1, format!(", cluster{cluster}"));
    add(it.masquerade, ", masquerade".into());
    let exclusions = list_ranges(&it.masquerade_exclusions);
    add(!exclusions.is_empty(), format!(", but not to{exclusions}"));
    let (min, max) = (it.snat_port_min, it.snat_port_max);
    add(max > 0, format!(", snat ports {min}-{max}"));
    let (min, max) = (it.node_port_min, it.node_port_max);
    add(max > 0, format!(", node ports {min}-{max}"));
    let dispatch = it.dsr_dispatch().as_str_name()[13..].to_lowercase();
    add(it.dsr_dispatch() != DsrDispatch::Geneve, format!(", dsr by {dispatch}"));
    add(it.maglev_table_size > 0, format!(", maglev size {}", it.maglev_table_size));
    add(!it.maglev_seed.is_empty(), format!(", maglev seed {:02x?}", it.maglev_seed));
    (!is_plain).then_some(line + "\n")
}

fn list_ranges(ranges: &[Prefix]) -> String {
    let write = |it: &Prefix| format!(" {}/{}", parse_address(&it.address).unwrap(), it.length);
    ranges.iter().map(write).collect()
}
