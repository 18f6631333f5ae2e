//! The agent's loop: everything that changes state comes in here, one thing at a time.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;
use tracing::{debug, info, warn};
use weir_api::health::Health;
use weir_api::metrics::LatencyHistogram;
use weir_api::v1::{AttachEndpointReply, AttachEndpointRequest, DetachEndpointReply, Verdict};

use super::SourceInfo;
use super::attach::Waiter;
use super::health::HealthServers;
use crate::clock::Clock;
use crate::cni::CniState;
use crate::desired::Desired;
use crate::endpoints::EndpointStore;
use crate::link::{LinkEvent, OpenLink};
use crate::model::{Kind, Problem};
use crate::publish::Publisher;
use crate::source::Batch;

/// What the loop listens to.
#[derive(Debug)]
pub struct Inputs {
    /// From the source.
    pub batches: mpsc::Receiver<Batch>,
    /// From the stream to the dataplane.
    pub link: mpsc::UnboundedReceiver<LinkEvent>,
    /// From callers.
    pub requests: mpsc::Receiver<Request>,
}

/// Where an answer goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Status>>;

/// How soon a health check's port is tried again that something else has.
const HEALTH_RETRY: Duration = Duration::from_secs(5);

/// What callers ask. The answer to an attachment comes when the dataplane has acknowledged it.
pub enum Request {
    /// Attach an endpoint.
    Attach(AttachEndpointRequest, Answer<AttachEndpointReply>),
    /// Detach an endpoint.
    Detach(String, Answer<DetachEndpointReply>),
    /// Look at the state.
    Read(Box<dyn FnOnce(&Core) + Send>),
    /// Change the state.
    Change(Box<dyn FnOnce(&mut Core) + Send>),
}

/// The agent's state.
pub struct Core {
    pub(crate) desired: Desired,
    pub(crate) endpoints: EndpointStore,
    pub(crate) publisher: Publisher,
    pub(crate) clock: Clock,
    pub(crate) is_synced: bool,
    pub(super) source_problems: Vec<Problem>,
    /// Nothing is known of a source that only sends batches.
    pub(super) source: Option<SourceInfo>,
    readiness: Option<watch::Sender<Health>>,
    pub(super) health: HealthServers,
    pub(super) counters: Counters,
    pub(super) dataplane_socket: PathBuf,
    /// Why the stream is closed; empty while it is open.
    pub(crate) link_reason: String,
    /// Addresses of pods; `None` where no CNI plugin is served.
    pub(crate) cni: Option<CniState>,
    link: Option<OpenLink>,
    pub(super) waiters: Vec<Waiter>,
    known_problems: BTreeSet<Problem>,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub source_events: u64,
    pub connects: u64,
    pub nacks: u64,
    pub ack_latency: LatencyHistogram,
}

impl Core {
    /// The state at the start: endpoints from disk, nothing from the source yet.
    #[must_use]
    pub fn new(
        desired: Desired,
        endpoints: EndpointStore,
        dataplane_socket: PathBuf,
        clock: Clock,
    ) -> Self {
        let mut core = Self {
            desired,
            endpoints,
            publisher: Publisher::new(),
            clock,
            is_synced: false,
            source_problems: Vec::new(),
            source: None,
            readiness: None,
            health: HealthServers::default(),
            counters: Counters::default(),
            dataplane_socket,
            link_reason: "not tried yet".into(),
            cni: None,
            link: None,
            waiters: Vec::new(),
            known_problems: BTreeSet::new(),
        };
        for endpoint in core.endpoints.iter() {
            match endpoint.to_object() {
                Ok(object) => {
                    core.desired.put_endpoint(object);
                    core.desired.set_port_mappings(&endpoint.name, endpoint.host_ports());
                }
                Err(error) => warn!("endpoint {}: {error}: attach it again", endpoint.name),
            }
        }
        core
    }

    /// Serves the CNI plugin from these leases.
    #[must_use]
    pub fn with_cni(mut self, cni: CniState) -> Self {
        self.cni = Some(cni);
        self
    }

    /// Tells of its source in its status. `gathered` is what that has sent already, as its first
    /// batch.
    #[must_use]
    pub fn with_source(mut self, source: SourceInfo, gathered: Option<Batch>) -> Self {
        self.source = Some(source);
        if let Some(batch) = gathered {
            self.take_batch(batch);
        }
        self
    }

    /// Tells probes how it is.
    #[must_use]
    pub fn with_readiness(mut self, readiness: watch::Sender<Health>) -> Self {
        self.readiness = Some(readiness);
        self
    }

    /// Works until `stop` is done.
    pub async fn run(mut self, mut inputs: Inputs, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                Some(batch) = inputs.batches.recv() => self.take_batch(batch),
                Some(event) = inputs.link.recv() => self.take_link_event(event),
                Some(request) = inputs.requests.recv() => self.take_request(request),
                () = tokio::time::sleep(HEALTH_RETRY), if self.health.has_failed() => {}
                else => return,
            }
            self.flush();
        }
    }

    fn take_batch(&mut self, batch: Batch) {
        let changes = batch.upserts.len() + batch.removes.len();
        self.counters.source_events += changes as u64;
        for object in batch.upserts {
            self.desired.upsert(object);
        }
        for key in &batch.removes {
            self.desired.remove(key);
        }
        self.source_problems = batch.problems;
        if self.is_synced && changes > 0 {
            // People save files one at a time; a cluster never rests.
            if self.has_manifests() {
                info!("manifests changed: {changes} objects");
            } else {
                debug!("{changes} objects changed");
            }
        } else if !self.is_synced {
            self.is_synced = true;
            let count = |kind| self.desired.count(kind);
            info!(
                "{} read: {} services, {} endpoint slices, {} pods, {} nodes, {} policies",
                if self.has_manifests() { "manifests" } else { "cluster" },
                count(Kind::Service),
                count(Kind::EndpointSlice),
                count(Kind::Pod),
                count(Kind::Node),
                self.count_policies()
            );
        }
    }

    fn take_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Opened(link) => {
                self.counters.connects += 1;
                self.link = Some(link);
                self.link_reason.clear();
                self.publisher.open();
                info!("connected to the dataplane at {}", self.dataplane_socket.display());
            }
            LinkEvent::Answered(verdict) => self.take_verdict(&verdict),
            LinkEvent::Closed(reason) => {
                self.link = None;
                self.publisher.close();
                if self.link_reason != reason {
                    warn!("not connected to the dataplane: {reason}; trying again");
                }
                self.link_reason = reason;
            }
        }
    }

    fn take_verdict(&mut self, verdict: &Verdict) {
        let accepted = match self.publisher.accept(verdict, self.clock.elapsed()) {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("{error}: starting again with the full state");
                self.link = None;
                self.publisher.close();
                return;
            }
        };
        self.counters.ack_latency.observe(accepted.took.as_secs_f64());
        self.counters.nacks += accepted.refused.len() as u64;
        let (revision, objects, took) = (accepted.revision, accepted.objects, accepted.took);
        if accepted.is_resync {
            info!("the dataplane runs revision {revision}: all {objects} objects, in {took:.1?}");
        } else {
            debug!("the dataplane runs revision {revision}: {objects} objects, in {took:.1?}");
        }
        self.answer_waiters();
    }

    fn take_request(&mut self, request: Request) {
        match request {
            Request::Read(read) => read(self),
            Request::Change(change) => change(self),
            Request::Attach(request, answer) => self.attach(&request, answer),
            Request::Detach(name, answer) => self.detach(&name, answer),
        }
    }

    /// Sends what there is to send. Before the source's first batch nothing is sent at all: a full
    /// state without services would withdraw them.
    fn flush(&mut self) {
        self.keep_known_node();
        self.publisher.record(self.desired.recompute());
        if self.is_synced
            && let Some(link) = &self.link
            && let Some(update) =
                self.publisher.take_update(self.desired.objects(), self.clock.elapsed())
        {
            link.send(update);
        }
        if self.is_synced {
            // Without an agent's word from the dataplane nothing says that this node forwards.
            self.health.update(&self.desired, self.publisher.is_connected());
        }
        self.log_problems();
        self.tell_readiness();
    }

    /// Whether a probe finds the agent ready. An API server that is away changes nothing: what is
    /// known goes on to hold.
    fn tell_readiness(&self) {
        let Some(readiness) = &self.readiness else { return };
        let is_accepted = self.publisher.acknowledged_revision() > 0;
        let is_working = self.is_synced && self.publisher.is_connected() && is_accepted;
        let missing_conf = self.cni.as_ref().and_then(CniState::missing_conf);
        let health = match (is_working, missing_conf) {
            (true, None) => Health::Ready,
            (true, Some(reason)) => Health::NotReady(reason),
            (false, _) => Health::NotReady(self.explain_wait()),
        };
        readiness.send_if_modified(|known| {
            let is_new = *known != health;
            if is_new {
                *known = health;
            }
            is_new
        });
    }

    fn has_manifests(&self) -> bool {
        self.source.as_ref().is_none_or(|it| it.name.starts_with("manifests"))
    }

    fn log_problems(&mut self) {
        if !self.is_synced {
            return;
        }
        let problems: BTreeSet<Problem> = self.problems().into_iter().collect();
        for problem in problems.difference(&self.known_problems) {
            warn!("{problem}");
        }
        for problem in self.known_problems.difference(&problems) {
            info!("solved: {problem}");
        }
        self.known_problems = problems;
    }
}
