//! The store of attached endpoints: restarts, boots, interfaces that are not what they were.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::io;
use std::path::Path;

use common::{BOOT, FakeInterfaces};
use weir_api::v1::AttachEndpointRequest;
use weir_control::endpoints::{EndpointError, EndpointStore, Interfaces, KernelInterfaces};

fn open(path: &Path, boot: &str) -> EndpointStore {
    EndpointStore::open(path, boot, Box::new(FakeInterfaces)).unwrap()
}

fn request(name: &str, interface: &str, addresses: &[&str]) -> AttachEndpointRequest {
    AttachEndpointRequest {
        name: name.into(),
        interface: interface.into(),
        mac: "02:00:00:00:00:01".into(),
        addresses: addresses.iter().map(|&it| it.into()).collect(),
        ..AttachEndpointRequest::default()
    }
}

fn names(store: &EndpointStore) -> Vec<&str> {
    store.iter().map(|it| it.name.as_str()).collect()
}

#[test]
fn endpoints_survive_a_restart_of_the_agent_but_not_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/endpoints.json");
    let mut store = open(&path, BOOT);
    let attached = store.attach(&request("default/a", "veth1", &["10.0.0.1", "fd00::1"])).unwrap();
    assert_eq!(attached.ifindex, 11);
    store.attach(&request("default/b", "veth2", &["10.0.0.2"])).unwrap();
    assert!(store.detach("default/b").unwrap());
    assert!(!store.detach("default/b").unwrap());

    let restarted = open(&path, BOOT);
    assert_eq!(restarted.iter().collect::<Vec<_>>(), [&attached]);
    assert_eq!(names(&open(&path, "boot-2")), [] as [&str; 0]);
}

#[test]
fn the_same_call_twice_writes_once_and_other_values_replace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.json");
    let mut store = open(&path, BOOT);
    store.attach(&request("default/a", "veth1", &["10.0.0.1"])).unwrap();
    std::fs::remove_file(&path).unwrap();
    store.attach(&request("default/a", "veth1", &["10.0.0.1"])).unwrap();
    assert!(!path.exists(), "written without a change");
    let replaced = store.attach(&request("default/a", "veth2", &["10.0.0.3"])).unwrap();
    assert_eq!((replaced.ifindex, store.iter().count()), (12, 1));
    store.attach(&request("default/b", "veth1", &["10.0.0.1"])).unwrap();
    assert_eq!(names(&open(&path, BOOT)), ["default/a", "default/b"]);
}

#[test]
fn an_interface_that_is_gone_or_another_drops_its_endpoint_at_start() {
    struct Changed;
    impl Interfaces for Changed {
        fn find_index(&self, name: &str) -> io::Result<Option<u32>> {
            Ok(match name {
                "veth1" => Some(11),
                "veth2" => Some(99),
                _ => None,
            })
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.json");
    let mut store = open(&path, BOOT);
    for (name, interface, address) in [
        ("default/same", "veth1", "10.0.0.1"),
        ("default/other", "veth2", "10.0.0.2"),
        ("default/gone", "veth3", "10.0.0.3"),
    ] {
        store.attach(&request(name, interface, &[address])).unwrap();
    }
    let restarted = EndpointStore::open(&path, BOOT, Box::new(Changed)).unwrap();
    assert_eq!(names(&restarted), ["default/same"]);
}

#[test]
fn bad_requests_are_refused_by_name_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.json");
    let mut store = open(&path, BOOT);
    store.attach(&request("default/a", "veth1", &["10.0.0.1"])).unwrap();
    let bad_mac = |mac: &str| AttachEndpointRequest {
        mac: mac.into(),
        ..request("default/b", "veth2", &["10.0.0.2"])
    };
    let cases = [
        (request("nameless", "veth2", &["10.0.0.2"]), "\"nameless\" is not an endpoint's name"),
        (request("a/b/c", "veth2", &["10.0.0.2"]), "is not an endpoint's name"),
        (request("default/b", "eth7", &["10.0.0.2"]), "no interface \"eth7\" on this host"),
        (request("default/b", "veth2", &[]), "needs at least one address"),
        (request("default/b", "veth2", &["10.0.0.2/24"]), "\"10.0.0.2/24\" is not an IP address"),
        (request("default/b", "veth2", &["127.0.0.1"]), "127.0.0.1 is a loopback address"),
        (request("default/b", "veth2", &["10.0.0.2", "10.0.0.2"]), "10.0.0.2 is given twice"),
        (request("default/b", "veth2", &["10.0.0.1"]), "belongs to endpoint default/a"),
        (request("default/b", "veth1", &["10.0.0.2"]), "interface veth1 belongs to endpoint"),
        (bad_mac("02:00"), "\"02:00\" is not a MAC address"),
        (bad_mac("ff:ff:ff:ff:ff:ff"), "multicast or zero MAC address"),
    ];
    for (request, expected) in cases {
        let error = store.attach(&request).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    assert_eq!(names(&store), ["default/a"]);
    assert_eq!(names(&open(&path, BOOT)), ["default/a"]);
}

#[test]
fn a_store_that_cannot_be_written_or_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.json");
    let mut store = open(&path, BOOT);
    // A folder in the way of the new file: also root cannot write it.
    std::fs::create_dir(path.with_extension("new")).unwrap();
    let error = store.attach(&request("default/a", "veth1", &["10.0.0.1"])).unwrap_err();
    assert!(matches!(error, EndpointError::Store { .. }), "{error}");
    assert_eq!(names(&store), [] as [&str; 0]);
    std::fs::write(&path, "{").unwrap();
    let error = EndpointStore::open(&path, BOOT, Box::new(FakeInterfaces)).err().unwrap();
    assert!(error.to_string().contains("endpoints.json: cannot read"), "{error}");
}

#[test]
fn the_kernel_knows_the_loopback_interface() {
    assert_eq!(KernelInterfaces.find_index("lo").unwrap(), Some(1));
    for absent in ["", "weir-no-such", "longer-than-any-interface", "a\0b"] {
        assert_eq!(KernelInterfaces.find_index(absent).unwrap(), None, "{absent:?}");
    }
}
