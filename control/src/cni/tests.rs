//! The plugin's calls on an agent's loop without servers and without a dataplane.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::Code;
use weir_api::cni::host_interface;
use weir_api::v1::{AllocateReply, AllocateRequest, AttachRequest, Attachment};

use super::{CniState, LeaseStore, PodCidrIpam};
use crate::agent::Core;
use crate::clock::Clock;
use crate::desired::{Desired, NodeSettings};
use crate::endpoints::{EndpointStore, Interfaces};
use crate::model::{Name, Node, Object, Pod};

/// Interfaces that the test makes and removes.
#[derive(Clone, Default)]
struct Links(Arc<Mutex<BTreeSet<String>>>);

impl Interfaces for Links {
    fn find_index(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(self.0.lock().unwrap().contains(name).then_some(7))
    }
}

struct Bed {
    core: Core,
    links: Links,
    folder: TempDir,
}

fn node(ranges: &[&str]) -> Object {
    Object::Node(Node {
        name: Name::new("", "n1"),
        origin: None,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        internal_addresses: Vec::new(),
        labels: BTreeMap::new(),
        pod_ranges: ranges.iter().map(|it| it.parse().unwrap()).collect(),
        is_ready: true,
        is_deleting: false,
    })
}

fn pod(name: &str, node: &str, address: &str) -> Object {
    Object::Pod(Pod {
        name: Name::new("default", name),
        origin: None,
        labels: BTreeMap::new(),
        addresses: vec![address.parse().unwrap()],
        is_ready: true,
        is_terminating: false,
        ports: Vec::new(),
        created: None,
        node: Some(node.into()),
        host_ports: Vec::new(),
        service_account: "default".into(),
        is_host_network: false,
        is_policy_audited: false,
    })
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let links = Links::default();
        let path = folder.path().join("endpoints.json");
        let endpoints = EndpointStore::open(&path, "boot", Box::new(links.clone())).unwrap();
        let leases = folder.path().join("leases.json");
        let leases = LeaseStore::open(&leases, "boot", endpoints.iter()).unwrap();
        let cni = CniState::new(leases, Box::<PodCidrIpam>::default());
        let settings = NodeSettings { name: "n1".into(), ..NodeSettings::default() };
        let socket = folder.path().join("dataplane.sock");
        let core = Core::new(Desired::new(settings), endpoints, socket, Clock::start());
        let mut bed = Self { core: core.with_cni(cni), links, folder };
        bed.core.desired.upsert(node(&["10.244.0.0/24"]));
        bed.core.is_synced = true;
        bed
    }

    fn allocate(&mut self, id: &str, pod: &str) -> Result<AllocateReply, tonic::Status> {
        let request = AllocateRequest {
            attachment: Some(attachment(id)),
            pod_namespace: "default".into(),
            pod_name: pod.into(),
            pod_uid: String::new(),
        };
        self.core.allocate(&request, 1500)
    }

    /// ADD, as far as it goes without a dataplane.
    fn add(&mut self, id: &str, pod: &str) -> String {
        let reply = self.allocate(id, pod).unwrap();
        self.links.0.lock().unwrap().insert(reply.host_interface.clone());
        let request = AttachRequest { attachment: Some(attachment(id)), ..Default::default() };
        let (sender, mut receiver) = oneshot::channel();
        self.core.attach_lease(request, sender);
        assert!(receiver.try_recv().is_err(), "it waits for the dataplane");
        reply.host_interface
    }

    fn leases(&self) -> usize {
        self.core.cni.as_ref().unwrap().leases.iter().count()
    }
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: id.into(), ifname: "eth0".into() }
}

#[test]
fn leases_without_an_interface_are_freed_after_a_while() {
    let mut bed = Bed::new();
    let gone = bed.add("aa", "gone");
    bed.add("bb", "there");
    let claimed = bed.add("cc", "claimed");
    let moved = bed.add("dd", "moved");
    bed.core.desired.upsert(pod("claimed", "n1", "10.244.0.3"));
    bed.core.desired.upsert(pod("moved", "n2", "10.244.0.4"));
    for name in [&gone, &claimed, &moved] {
        bed.links.0.lock().unwrap().remove(name);
    }
    bed.core.is_synced = false;
    bed.core.free_abandoned(Duration::from_secs(0));
    bed.core.free_abandoned(Duration::from_secs(1000));
    assert_eq!(bed.leases(), 4, "the cluster has said nothing yet");

    bed.core.is_synced = true;
    bed.core.free_abandoned(Duration::from_secs(1000));
    bed.core.free_abandoned(Duration::from_secs(1059));
    assert_eq!(bed.leases(), 4);
    bed.core.free_abandoned(Duration::from_secs(1060));
    assert_eq!(bed.leases(), 2, "one is there, one is claimed by its pod");
    assert!(bed.core.endpoints.find("default/gone").is_none());
    assert!(bed.core.endpoints.find("default/there").is_some());
    assert!(bed.core.check_lease(Some(&attachment("cc"))).is_err(), "its interface is gone");
}

#[test]
fn the_end_of_an_old_container_leaves_the_new_one() {
    let mut bed = Bed::new();
    let old = bed.add("aa", "web");
    let new = bed.add("bb", "web");
    assert!(bed.core.release_interface(&old).unwrap());
    assert!(!bed.core.release_interface(&old).unwrap(), "twice is once");
    assert_eq!(bed.core.endpoints.find("default/web").unwrap().interface, new);
    assert_eq!(bed.leases(), 1);
    assert!(bed.core.check_lease(Some(&attachment("bb"))).is_ok());
    let error = bed.core.check_lease(Some(&attachment("aa"))).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
}

#[test]
fn garbage_is_whatever_is_not_named() {
    let mut bed = Bed::new();
    bed.add("aa", "one");
    let two = bed.add("bb", "two");
    let collected = bed.core.collect_garbage(&[attachment("aa")]).unwrap();
    assert_eq!(collected, [two]);
    assert_eq!(bed.leases(), 1);
}

#[test]
fn names_and_ranges_that_cannot_be() {
    let mut bed = Bed::new();
    let error = bed.allocate("aa", "Web!").unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let error = bed.core.allocate(&AllocateRequest::default(), 1500).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    bed.core.desired.upsert(node(&[]));
    let error = bed.allocate("aa", "web").unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("--allocate-node-cidrs"), "{error}");
    bed.core.desired.upsert(node(&["192.0.2.0/30"]));
    let reply = bed.allocate("aa", "web").unwrap();
    assert_eq!(reply.addresses, ["192.0.2.2/32"], "192.0.2.1 is the node's");
    assert_eq!(reply.host_interface, host_interface(&attachment("aa")));
    assert_eq!(bed.allocate("bb", "other").unwrap_err().code(), Code::ResourceExhausted);
    let state = bed.core.check_cni_ready().unwrap_err();
    assert_eq!(state.code(), Code::FailedPrecondition, "{state}");
    // A folder in the way: what cannot be written is not given.
    bed.core.release_interface(&reply.host_interface).unwrap();
    std::fs::create_dir(bed.folder.path().join("leases.new")).unwrap();
    assert_eq!(bed.allocate("cc", "third").unwrap_err().code(), Code::ResourceExhausted);
    bed.core.desired.upsert(node(&["10.1.0.0/24"]));
    assert_eq!(bed.allocate("cc", "third").unwrap_err().code(), Code::Internal);
    assert_eq!(bed.leases(), 0);
}
