//! When numbers run out.

use std::path::Path;

use weir_tables::policy::IdentityId;

use super::*;
use crate::model::Object;
use crate::source::ManifestStore;

fn read(text: &str) -> Vec<Object> {
    let mut store = ManifestStore::default();
    store.put_file(Path::new("a.yaml"), Ok(text));
    let batch = store.settle();
    assert_eq!(batch.problems, []);
    batch.upserts
}

fn pod(name: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: {name}}}}}
spec: {{containers: [{{name: c, image: i}}]}}
"
    )
}

#[test]
fn a_pod_without_a_number_is_closed_until_there_is_one() {
    let settings = PolicySettings {
        enforcement: Enforcement::Default,
        cluster: CLUSTER_DEFAULT.into(),
        node: None,
        node_addresses: Vec::new(),
    };
    let mut state = PolicyState::new(settings);
    state.peers.identities.limit_pods(2);
    // As `c` but for its name.
    let twin = pod("c").replace("name: c, namespace", "name: d, namespace");
    for object in read(&(pod("a") + &pod("b") + &pod("c") + &twin)) {
        state.upsert(&object);
    }
    let names = ["a", "b", "c", "d"].map(|it| Name::new("default", it));
    for name in &names {
        state.set_local(name, true);
    }
    state.recompute();
    let identity = |state: &PolicyState, at: usize| state.endpoint(&names[at]).identity;
    assert_eq!(identity(&state, 0), IdentityId(256));
    assert_eq!(identity(&state, 1), IdentityId(257));
    assert_eq!(state.endpoint(&names[0]).rules, None);
    assert_eq!(identity(&state, 2), identities::INIT);
    let rules = state.endpoint(&names[2]).rules.expect("it is isolated");
    assert!(state.explain_rules(&rules).contains("default/c"), "{rules}");
    let problems = state.problems();
    let objects: Vec<&str> = problems.iter().map(|it| it.object.as_str()).collect();
    assert_eq!(objects, ["Pod default/c", "Pod default/d"]);

    state.remove(&ObjectKey { kind: crate::model::Kind::Pod, name: names[0].clone() });
    state.recompute();
    assert_eq!(identity(&state, 2), IdentityId(256), "the number that was freed");
    assert_eq!(identity(&state, 3), IdentityId(256), "the labels are the same");
    assert_eq!(state.endpoint(&names[2]).rules, None);
    assert_eq!(state.problems(), []);
}

#[test]
fn one_node_that_changes_is_looked_at_alone() {
    let node = |name: &str, zone: &str| {
        let metadata = format!("{{name: {name}, labels: {{zone: {zone}}}}}");
        format!("---\napiVersion: v1\nkind: Node\nmetadata: {metadata}\n")
    };
    let mut state = PolicyState::new(PolicySettings {
        enforcement: Enforcement::Default,
        cluster: CLUSTER_DEFAULT.into(),
        node: None,
        node_addresses: Vec::new(),
    });
    for object in read(&(node("n1", "a") + &node("n2", "a"))) {
        state.upsert(&object);
    }
    state.recompute();
    for object in read(&(node("n1", "a") + &node("n2", "b"))) {
        state.upsert(&object);
    }
    assert_eq!(state.dirty.nodes, BTreeSet::from(["n2".to_owned()]));
    assert!(!state.dirty.all_nodes);
}
