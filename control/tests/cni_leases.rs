//! Leases on disk: restarts, boots, files that are damaged.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::BOOT;
use weir_control::cni::{CniState, KnownNode, Lease, LeaseStore, PodCidrIpam};
use weir_control::endpoints::AttachedEndpoint;

fn open(path: &Path, boot: &str) -> LeaseStore {
    LeaseStore::open(path, boot, std::iter::empty()).unwrap()
}

fn lease(name: &str, address: &str) -> Lease {
    Lease {
        host_interface: name.into(),
        container_id: "4b1d6c0123456789".into(),
        ifname: "eth0".into(),
        addresses: vec![address.parse().unwrap()],
        ..Lease::default()
    }
}

fn names(store: &LeaseStore) -> Vec<&str> {
    store.iter().map(|it| it.host_interface.as_str()).collect()
}

#[test]
fn leases_survive_a_restart_and_the_order_survives_a_boot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/leases.json");
    let mut store = open(&path, BOOT);
    let last = vec!["10.0.0.2".parse().unwrap()];
    store.put(lease("weirp0000000001", "10.0.0.1"), vec![]).unwrap();
    store.put(lease("weirp0000000002", "10.0.0.2"), last.clone()).unwrap();
    let node = KnownNode {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pod_ranges: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
    };
    store.put_node(node.clone()).unwrap();
    store.remove(&BTreeSet::from(["weirp0000000001".into(), "absent".into()])).unwrap();

    let restarted = open(&path, BOOT);
    assert_eq!(names(&restarted), ["weirp0000000002"]);
    assert_eq!((restarted.last(), restarted.node()), (&last[..], &node));
    let booted = open(&path, "boot-2");
    assert_eq!(names(&booted), [] as [&str; 0]);
    assert_eq!(booted.last(), last, "addresses go on behind the last one");
    assert_eq!(booted.node(), &KnownNode::default(), "it may be another one by now");
    let state = CniState::new(restarted, Box::<PodCidrIpam>::default());
    drop(state);
}

#[test]
fn a_damaged_file_is_kept_aside_and_leases_come_from_attached_pods() {
    let endpoint = AttachedEndpoint {
        name: "shop/db".into(),
        interface: "weirp0000000007".into(),
        ifindex: 7,
        mac: "0a:00:00:00:00:07".into(),
        addresses: vec!["10.0.0.7".parse().unwrap()],
        port_mappings: Vec::new(),
        bandwidth: None,
    };
    let by_hand = AttachedEndpoint { interface: "veth1".into(), ..endpoint.clone() };
    let duplicate = "{\"host_interface\": \"a\", \"container_id\": \"\", \"ifname\": \"\", \
        \"pod_namespace\": \"\", \"pod_name\": \"\", \"pod_uid\": \"\", \"addresses\": [], \
        \"mac\": \"\", \"mtu\": 0, \"since\": \"\"}";
    let twice = format!(
        "{{\"version\": 1, \"boot_id\": \"{BOOT}\", \"last\": [], \
         \"leases\": [{duplicate}, {duplicate}]}}"
    );
    let no_range = format!(
        "{{\"version\": 1, \"boot_id\": \"{BOOT}\", \"last\": [], \"leases\": [], \
         \"node\": {{\"addresses\": [], \"pod_ranges\": [\"10.0.0.0\"]}}}}"
    );
    for text in [
        "",
        "{\"version\": 1",
        "{\"version\": 9, \"boot_id\": \"\", \"last\": [], \
        \"leases\": []}",
        twice.as_str(),
        no_range.as_str(),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases.json");
        std::fs::write(&path, text).unwrap();
        let endpoints = [&endpoint, &by_hand].into_iter();
        let store = LeaseStore::open(&path, BOOT, endpoints).unwrap();
        assert_eq!(names(&store), ["weirp0000000007"], "{text}");
        let lease = store.find("weirp0000000007").unwrap();
        assert_eq!(
            (lease.endpoint_name().as_str(), &lease.addresses),
            ("shop/db", &endpoint.addresses)
        );
        assert_eq!(std::fs::read_to_string(path.with_extension("damaged")).unwrap(), text);
    }
}

#[test]
fn a_file_that_cannot_be_read_or_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.json");
    std::fs::create_dir(&path).unwrap();
    let error = LeaseStore::open(&path, BOOT, std::iter::empty()).unwrap_err().to_string();
    assert!(error.contains("leases.json: cannot read the leases"), "{error}");
    std::fs::remove_dir(&path).unwrap();
    let mut store = open(&path, BOOT);
    store.put(lease("weirp0000000001", "10.0.0.1"), vec![]).unwrap();
    // A folder in the way of the new file: also root cannot write it.
    std::fs::create_dir(path.with_extension("new")).unwrap();
    assert!(store.put(lease("weirp0000000002", "10.0.0.2"), vec![]).is_err());
    assert!(store.remove(&BTreeSet::from(["weirp0000000001".into()])).is_err());
    assert_eq!(names(&store), ["weirp0000000001"], "nothing has changed");
}

#[test]
fn a_file_of_an_earlier_version_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.json");
    let lease = serde_json::to_string(&lease("weirp0000000001", "10.0.0.1")).unwrap();
    let text =
        format!("{{\"version\": 1, \"boot_id\": \"{BOOT}\", \"last\": [], \"leases\": [{lease}]}}");
    std::fs::write(&path, text).unwrap();
    let store = open(&path, BOOT);
    assert_eq!((names(&store), store.node()), (vec!["weirp0000000001"], &KnownNode::default()));
}

#[test]
fn containers_of_other_runtimes_have_names_too() {
    assert_eq!(lease("weirp0000000001", "10.0.0.1").endpoint_name(), "cni/4b1d6c0123456-eth0");
    let odd = Lease { container_id: "A_b".into(), ..lease("weirp0000000001", "10.0.0.1") };
    assert_eq!(odd.endpoint_name(), "cni/a-b-eth0");
}
