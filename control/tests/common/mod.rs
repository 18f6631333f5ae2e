//! A dataplane that only keeps what it is told, and an agent's loop around a source made of text.
#![allow(dead_code, reason = "each test binary uses its part")]

mod observe;
pub mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weir_api::socket::{MODE_OWNER, bind};
use weir_api::v1::dataplane_server::{Dataplane, DataplaneServer};
use weir_api::v1::observe_server::ObserveServer;
use weir_api::v1::{
    DropsReply, Object, PolicyReply, Rejection, SnatUsageReply, Update, Verdict, VerdictsReply,
};
use weir_control::agent::{AgentService, Core, Inputs};
use weir_control::clock::Clock;
use weir_control::desired::{Desired, DesiredKey, NodeSettings};
use weir_control::endpoints::{EndpointStore, Interfaces};
use weir_control::link::run_link;
use weir_control::source::{Batch, ManifestStore};

/// How the fake answers its next updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answering {
    Properly,
    /// Applies, and says nothing until it answers properly again.
    Late,
    /// Once, with a revision that nobody sent.
    WrongRevision,
    /// Once, by ending the stream as for a gap.
    EndStream,
}

/// What the fake has been told.
#[derive(Debug)]
pub struct Told {
    pub objects: BTreeMap<DesiredKey, Object>,
    pub updates: Vec<Update>,
    pub refuse: BTreeMap<DesiredKey, String>,
    pub answering: Answering,
    pub streams: u32,
    /// What it answers when asked.
    pub snat_usage: SnatUsageReply,
    pub drops: DropsReply,
    pub policy: PolicyReply,
    pub verdicts: VerdictsReply,
}

#[derive(Clone)]
pub struct FakeDataplane {
    told: Arc<Mutex<Told>>,
    changed: Arc<watch::Sender<u64>>,
}

impl FakeDataplane {
    pub fn new() -> Self {
        let told = Told {
            objects: BTreeMap::new(),
            updates: Vec::new(),
            refuse: BTreeMap::new(),
            answering: Answering::Properly,
            streams: 0,
            snat_usage: SnatUsageReply::default(),
            drops: DropsReply::default(),
            policy: PolicyReply::default(),
            verdicts: VerdictsReply::default(),
        };
        Self { told: Arc::new(Mutex::new(told)), changed: Arc::new(watch::channel(0).0) }
    }

    /// Serves until the returned server is dropped.
    pub fn serve(&self, socket: &Path) -> Server {
        let (kill, killed) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (fake, socket) = (self.clone(), socket.to_owned());
        // A runtime of its own ends like a process: with all its connections, leaving the socket.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let incoming = bind(&socket, MODE_OWNER).unwrap();
                ready.send(()).unwrap();
                let server = tonic::transport::Server::builder()
                    .add_service(DataplaneServer::new(fake.clone()))
                    .add_service(ObserveServer::new(fake))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    result = server => result.unwrap(),
                    _ = killed => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Server { kill: Some(kill), thread: Some(thread) }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        let result = look(&mut self.told.lock().unwrap());
        self.changed.send_modify(|it| *it += 1);
        result
    }

    /// Waits until what was told satisfies `is_so`; panics with it after 10 s.
    pub async fn wait(&self, what: &str, is_so: impl Fn(&Told) -> bool) {
        for _ in 0..1000 {
            if is_so(&self.told.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; told {:#?}", self.told.lock().unwrap());
    }

    pub fn updates(&self) -> Vec<Update> {
        self.told.lock().unwrap().updates.clone()
    }

    pub fn frontends(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let keys = told.objects.keys().filter(|it| matches!(it, DesiredKey::Frontend(..)));
        keys.map(|it| it.reference().to_string()).collect()
    }
}

/// A running fake; ends when dropped.
pub struct Server {
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn apply(told: &mut Told, update: &Update) -> Verdict {
    if update.resync {
        told.objects.clear();
    }
    let mut verdict = Verdict { revision: update.revision, ..Verdict::default() };
    for object in &update.upserts {
        let reference = object.reference().unwrap();
        let key = DesiredKey::parse(&reference).unwrap();
        if let Some(reason) = told.refuse.get(&key) {
            verdict.rejected.push(Rejection { object: Some(reference), reason: reason.clone() });
        } else {
            told.objects.insert(key, object.clone());
        }
    }
    for reference in &update.deletes {
        told.objects.remove(&DesiredKey::parse(reference).unwrap());
    }
    told.updates.push(update.clone());
    verdict
}

#[tonic::async_trait]
impl Dataplane for FakeDataplane {
    type SyncStream = UnboundedReceiverStream<Result<Verdict, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<Update>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut updates = request.into_inner();
        let (verdicts, receiver) = mpsc::unbounded_channel();
        let fake = self.clone();
        self.with(|told| told.streams += 1);
        tokio::spawn(async move {
            let mut is_first = true;
            let mut last_revision = None;
            while let Ok(Some(update)) = updates.message().await {
                assert_eq!(update.resync, is_first, "the full state comes first, and once");
                let expected = last_revision.map_or(update.revision, |it: u64| it + 1);
                assert_eq!(update.revision, expected, "revisions rise by one");
                last_revision = Some(update.revision);
                is_first = false;
                let (mut verdict, answering) = fake.with(|told| {
                    let answering = told.answering;
                    if answering != Answering::Late {
                        told.answering = Answering::Properly;
                    }
                    (apply(told, &update), answering)
                });
                match answering {
                    Answering::Properly => {}
                    Answering::Late => {
                        let mut changed = fake.changed.subscribe();
                        while fake.told.lock().unwrap().answering == Answering::Late {
                            let _ = changed.changed().await;
                        }
                    }
                    Answering::WrongRevision => verdict.revision += 1000,
                    Answering::EndStream => {
                        let _ = verdicts.send(Err(Status::failed_precondition("a gap")));
                        return;
                    }
                }
                if verdicts.send(Ok(verdict)).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }
}

/// Interfaces `veth1` to `veth9`, with indexes 11 to 19.
pub struct FakeInterfaces;

impl Interfaces for FakeInterfaces {
    fn find_index(&self, name: &str) -> std::io::Result<Option<u32>> {
        let number = name.strip_prefix("veth").and_then(|it| it.parse::<u32>().ok());
        Ok(number.filter(|it| (1..=9).contains(it)).map(|it| it + 10))
    }
}

/// An agent without servers, fed with manifests as text.
pub struct Agent {
    pub service: AgentService,
    batches: mpsc::Sender<Batch>,
    manifests: ManifestStore,
    tasks: Vec<JoinHandle<()>>,
}

pub const BOOT: &str = "boot-1";

impl Agent {
    pub fn start(folder: &Path, attach_timeout: Duration) -> Self {
        let (batches, batch_receiver) = mpsc::channel(1024);
        let (events, event_receiver) = mpsc::unbounded_channel();
        let (requests, request_receiver) = mpsc::channel(16);
        let socket = dataplane_socket(folder);
        let store = folder.join("endpoints.json");
        let endpoints = EndpointStore::open(&store, BOOT, Box::new(FakeInterfaces)).unwrap();
        let settings = NodeSettings {
            name: "n1".into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..NodeSettings::default()
        };
        let core = Core::new(Desired::new(settings), endpoints, socket.clone(), Clock::start());
        let inputs =
            Inputs { batches: batch_receiver, link: event_receiver, requests: request_receiver };
        let tasks = vec![
            tokio::spawn(core.run(inputs, std::future::pending())),
            tokio::spawn(run_link(socket, events)),
        ];
        let service = AgentService::new(requests, attach_timeout);
        Self { service, batches, manifests: ManifestStore::default(), tasks }
    }

    /// Gives the file `name` this content, and tells the agent.
    pub fn put(&mut self, name: &str, text: &str) {
        self.manifests.put_file(Path::new(name), Ok(text));
        self.batches.try_send(self.manifests.settle()).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

pub fn dataplane_socket(folder: &Path) -> PathBuf {
    folder.join("dataplane.sock")
}

/// A service with one frontend and one backend set.
pub fn service(name: &str, address: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {address}, ports: [{{port: {port}}}]}}\n---\n"
    )
}

pub fn frontend_key(address: &str) -> DesiredKey {
    DesiredKey::Frontend(address.parse().unwrap(), weir_api::v1::Protocol::Tcp)
}
