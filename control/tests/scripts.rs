//! Runs `scripts/*.txt`: manifests in, this node's desired state and the problems out.
//!
//! A script is a list of steps. A step is files (`-- NAME`, then the text; `-- NAME gone` removes
//! it) and, after `==`, what is then desired: one line per object and per problem. Later steps
//! change files.
//! `UPDATE=1 cargo test -p weir-control --test scripts` writes what comes out into the scripts.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use weir_api::convert::parse_address;
use weir_api::v1::{Algorithm, BackendState, FrontendType, Object, Protocol, object};
use weir_control::desired::{Desired, DesiredKey, NodeSettings};
use weir_control::source::ManifestStore;

#[test]
fn scripts_give_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "the scripts are gone: {paths:?}");
    let is_update = std::env::var_os("UPDATE").is_some();
    let mut failures = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let result = run_script(&text);
        if result == text {
            continue;
        }
        if is_update {
            std::fs::write(&path, result).unwrap();
        } else {
            failures.push(format!("{}:\n{}", path.display(), show_difference(&text, &result)));
        }
    }
    assert!(failures.is_empty(), "{}\nUPDATE=1 accepts the change", failures.join("\n"));
}

/// The script with the results that come out.
fn run_script(text: &str) -> String {
    let mut world = World::new();
    let mut result = String::new();
    let mut file: Option<(String, String)> = None;
    let mut is_in_result = false;
    for line in text.split_inclusive('\n') {
        let header = line.strip_prefix("-- ").map(str::trim_end);
        if header.is_some() || line.trim_end() == "==" {
            world.finish_file(file.take());
            is_in_result = false;
        }
        if let Some(header) = header {
            match header.strip_suffix(" gone") {
                Some(name) => world.store.remove_file(Path::new(name)),
                None => file = Some((header.to_owned(), String::new())),
            }
        }
        if line.trim_end() == "==" {
            result.push_str(line);
            result.push_str(&world.settle());
            is_in_result = true;
            continue;
        }
        // A blank line ends a result, so that steps stand apart.
        is_in_result &= !line.trim().is_empty();
        if is_in_result {
            continue;
        }
        result.push_str(line);
        if header.is_none()
            && let Some((_, content)) = &mut file
        {
            content.push_str(line);
        }
    }
    result
}

struct World {
    store: ManifestStore,
    desired: Desired,
    /// What a dataplane has that applied every change.
    applied: BTreeMap<DesiredKey, Object>,
}

impl World {
    fn new() -> Self {
        let settings = NodeSettings {
            name: "n1".into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            service_ranges: Vec::new(),
        };
        let (store, desired) = (ManifestStore::default(), Desired::new(settings));
        Self { store, desired, applied: BTreeMap::new() }
    }

    fn finish_file(&mut self, file: Option<(String, String)>) {
        if let Some((name, content)) = file {
            // The blank line before the next step is not the file's.
            let content = content.strip_suffix("\n\n").map_or(content.clone(), |it| it.to_owned());
            self.store.put_file(Path::new(&name), Ok(&content));
        }
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
        let mut problems = batch.problems;
        problems.extend(self.desired.problems());
        problems.sort();
        for problem in problems {
            writeln!(text, "! {problem}").unwrap();
        }
        text
    }
}

fn describe(object: &Object) -> Option<String> {
    let address = |bytes: &Vec<u8>| parse_address(bytes).unwrap().to_string();
    Some(match object.kind.as_ref().unwrap() {
        object::Kind::Frontend(it) => {
            let type_ = match it.r#type() {
                FrontendType::ClusterIp => "ClusterIP",
                FrontendType::LoadBalancer => "LoadBalancer",
                FrontendType::NodePort => "NodePort",
                FrontendType::ExternalIp => "ExternalIP",
                FrontendType::HostPort => "HostPort",
                FrontendType::Unspecified => "?",
            };
            let key = it.key.as_ref().unwrap();
            format!("frontend {key} {type_} {} -> {}\n", it.service, it.backend_set)
        }
        object::Kind::BackendSet(it) => {
            let algorithm = match it.algorithm() {
                Algorithm::Maglev => "maglev",
                Algorithm::Hash => "hash",
                Algorithm::Unspecified => "?",
            };
            let protocol = Protocol::try_from(it.protocol).unwrap();
            let mut line = format!("set {} {algorithm} {}:", it.name, protocol.as_str_name());
            line = line.replace("PROTOCOL_", "");
            for backend in &it.backends {
                let ip = parse_address(&backend.address).unwrap();
                let port = u16::try_from(backend.l4_port).unwrap();
                write!(line, " {}", std::net::SocketAddr::new(ip, port)).unwrap();
                match backend.state() {
                    BackendState::Active => {}
                    state => write!(line, "={}", &state.as_str_name()[14..]).unwrap(),
                }
                if backend.weight != 100 {
                    write!(line, "*{}", backend.weight).unwrap();
                }
            }
            line + "\n"
        }
        // Shown where a script is about it.
        object::Kind::Node(it) if it.addresses.len() == 1 => return None,
        object::Kind::Node(it) => {
            let addresses: Vec<String> = it.addresses.iter().map(address).collect();
            format!("node {} {}\n", it.name, addresses.join(" "))
        }
        object::Kind::Endpoint(it) => format!("endpoint {}\n", it.name),
    })
}

fn show_difference(expected: &str, got: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
    let mut text = String::new();
    for line in old.iter().filter(|line| !new.contains(line)) {
        writeln!(text, "  - {line}").unwrap();
    }
    for line in new.iter().filter(|line| !old.contains(line)) {
        writeln!(text, "  + {line}").unwrap();
    }
    text
}
