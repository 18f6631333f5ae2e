//! The plugin's calls on an agent's loop without servers and without a dataplane.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Code;
use weir_api::cni::host_interface;
use weir_api::v1::{AllocateReply, AllocateRequest, AttachRequest, Attachment};

use super::{CniState, LeaseStore, PodCidrIpam};
use crate::agent::{AgentService, Core, Inputs};
use crate::clock::Clock;
use crate::desired::{Desired, NodeSettings};
use crate::endpoints::{EndpointStore, Interfaces};
use crate::link::LinkEvent;
use crate::model::{Name, Node, Object, Pod};
use crate::source::Batch;

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

/// The agent's loop with what is on disk.
fn open(folder: &Path, links: &Links) -> Core {
    let path = folder.join("endpoints.json");
    let endpoints = EndpointStore::open(&path, "boot", Box::new(links.clone())).unwrap();
    let leases = LeaseStore::open(&folder.join("leases.json"), "boot", endpoints.iter()).unwrap();
    let cni = CniState::new(leases, Box::<PodCidrIpam>::default());
    let settings = NodeSettings { name: "n1".into(), ..NodeSettings::default() };
    let socket = folder.join("dataplane.sock");
    Core::new(Desired::new(settings), endpoints, socket, Clock::start()).with_cni(cni)
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let links = Links::default();
        let mut bed = Self { core: open(folder.path(), &links), links, folder };
        bed.core.desired.upsert(node(&["10.244.0.0/24"]));
        bed.core.is_synced = true;
        bed
    }

    fn allocate(&mut self, id: &str, pod: &str) -> Result<AllocateReply, tonic::Status> {
        self.core.allocate(&request(id, pod), 1500)
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

fn request(id: &str, pod: &str) -> AllocateRequest {
    AllocateRequest {
        attachment: Some(attachment(id)),
        pod_namespace: "default".into(),
        pod_name: pod.into(),
        pod_uid: String::new(),
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

/// A running loop; ends when dropped.
struct Running {
    service: AgentService,
    batches: mpsc::Sender<Batch>,
    _links: mpsc::UnboundedSender<LinkEvent>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(folder: &Path) -> Self {
        let (batches, batch_receiver) = mpsc::channel(1);
        let (links, link) = mpsc::unbounded_channel();
        let (requests, receiver) = mpsc::channel(1);
        let inputs = Inputs { batches: batch_receiver, link, requests: receiver };
        let core = open(folder, &Links::default());
        let task = tokio::spawn(core.run(inputs, std::future::pending()));
        let service = AgentService::new(requests, Duration::from_secs(1));
        Self { service, batches, _links: links, task }
    }

    /// The source says that this node has these ranges.
    async fn say(&self, ranges: &[&str]) {
        let batch = Batch { upserts: vec![node(ranges)], ..Batch::default() };
        self.batches.send(batch).await.unwrap();
        while self.batches.capacity() == 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn release(&self, id: &str) {
        let name = host_interface(&attachment(id));
        let release = move |core: &mut Core| core.release_interface(&name);
        assert!(self.service.change(release).await.unwrap().unwrap());
    }

    async fn allocate(&self, id: &str) -> Result<Vec<String>, Code> {
        let request = request(id, id);
        let reply = self.service.change(move |core| core.allocate(&request, 1500)).await.unwrap();
        reply.map(|it| it.addresses).map_err(|it| it.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn ranges_are_known_before_the_source_has_said_anything() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Running::start(folder.path());
    assert_eq!(agent.allocate("aa").await, Err(Code::Unavailable), "never heard of one");
    agent.say(&["192.0.2.0/29"]).await;
    assert_eq!(agent.allocate("aa").await.unwrap(), ["192.0.2.2/32"], "192.0.2.1 is the node's");

    let agent = Running::start(folder.path());
    // What comes and goes meanwhile, because nothing can be attached, uses nothing up.
    for i in 0..20 {
        assert!(agent.allocate(&format!("gone{i}")).await.is_ok(), "{i}");
        agent.release(&format!("gone{i}")).await;
    }
    let agent = Running::start(folder.path());
    agent.allocate("b3").await.unwrap();
    for i in 4..7 {
        agent.allocate(&format!("b{i}")).await.unwrap();
    }
    assert_eq!(agent.allocate("bf").await, Err(Code::ResourceExhausted), "192.0.2.1 is the node's");
    agent.say(&["10.9.0.0/24"]).await;
    assert_eq!(agent.allocate("cc").await.unwrap(), ["10.9.0.1/32"]);

    let agent = Running::start(folder.path());
    assert_eq!(agent.allocate("dd").await.unwrap(), ["10.9.0.2/32"]);
    agent.say(&[]).await;
    assert_eq!(agent.allocate("ee").await, Err(Code::Unavailable), "it has none any more");
    let agent = Running::start(folder.path());
    assert_eq!(agent.allocate("ee").await, Err(Code::Unavailable));
}
