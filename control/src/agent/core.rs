//! The agent's loop: everything that changes state comes in here, one thing at a time.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{debug, info, warn};
use weir_api::metrics::LatencyHistogram;
use weir_api::v1::{AttachEndpointReply, AttachEndpointRequest, DetachEndpointReply, Verdict};

use super::health::HealthServers;
use crate::clock::Clock;
use crate::desired::{Desired, DesiredKey};
use crate::endpoints::{EndpointError, EndpointStore};
use crate::link::{LinkEvent, OpenLink};
use crate::model::{Kind, Problem};
use crate::publish::Publisher;
use crate::source::Batch;

/// What the loop listens to.
#[derive(Debug)]
pub struct Inputs {
    /// From the source.
    pub batches: mpsc::UnboundedReceiver<Batch>,
    /// From the stream to the dataplane.
    pub link: mpsc::UnboundedReceiver<LinkEvent>,
    /// From callers.
    pub requests: mpsc::Receiver<Request>,
}

type Answer<T> = oneshot::Sender<Result<T, Status>>;

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
}

/// The agent's state.
pub struct Core {
    pub(super) desired: Desired,
    pub(super) endpoints: EndpointStore,
    pub(super) publisher: Publisher,
    pub(super) clock: Clock,
    pub(super) is_synced: bool,
    pub(super) source_problems: Vec<Problem>,
    pub(super) health: HealthServers,
    pub(super) counters: Counters,
    pub(super) dataplane_socket: PathBuf,
    /// Why the stream is closed; empty while it is open.
    pub(super) link_reason: String,
    link: Option<OpenLink>,
    waiters: Vec<Waiter>,
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

/// A caller that waits for a revision.
struct Waiter {
    revision: u64,
    kind: WaiterKind,
}

enum WaiterKind {
    Attach(String, Answer<AttachEndpointReply>),
    Detach(Answer<DetachEndpointReply>),
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
            health: HealthServers::default(),
            counters: Counters::default(),
            dataplane_socket,
            link_reason: "not tried yet".into(),
            link: None,
            waiters: Vec::new(),
            known_problems: BTreeSet::new(),
        };
        for endpoint in core.endpoints.iter() {
            match endpoint.to_object() {
                Ok(object) => core.desired.put_endpoint(object),
                Err(error) => warn!("endpoint {}: {error}: attach it again", endpoint.name),
            }
        }
        core
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
            info!("manifests changed: {changes} objects");
        } else if !self.is_synced {
            self.is_synced = true;
            let count = |kind| self.desired.count(kind);
            info!(
                "manifests read: {} services, {} endpoint slices, {} pods, {} nodes, {} policies",
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
            Request::Attach(request, answer) => self.attach(&request, answer),
            Request::Detach(name, answer) => self.detach(&name, answer),
        }
    }

    fn attach(&mut self, request: &AttachEndpointRequest, answer: Answer<AttachEndpointReply>) {
        let object = self.endpoints.attach(request).and_then(|endpoint| {
            let named = |error| EndpointError::Mac { name: endpoint.name.clone(), error };
            endpoint.to_object().map_err(named)
        });
        match object {
            Ok(object) => {
                let name = object.name.clone();
                info!("endpoint {name}: attached on {}", object.interface);
                self.desired.put_endpoint(object);
                self.wait(WaiterKind::Attach(name, answer));
            }
            Err(error) => {
                warn!("{error}");
                // A caller that has gone needs no answer.
                let _ = answer.send(Err(refuse(&error)));
            }
        }
    }

    fn detach(&mut self, name: &str, answer: Answer<DetachEndpointReply>) {
        let existed = match self.endpoints.detach(name) {
            Ok(existed) => existed,
            Err(error) => {
                warn!("{error}");
                let _ = answer.send(Err(refuse(&error)));
                return;
            }
        };
        if !existed {
            let _ = answer.send(Ok(DetachEndpointReply { existed }));
            return;
        }
        info!("endpoint {name}: detached");
        self.desired.remove_endpoint(name);
        if self.publisher.is_connected() {
            self.wait(WaiterKind::Detach(answer));
        } else {
            // A pod must be removable while the dataplane is down; the full state tells it.
            let _ = answer.send(Ok(DetachEndpointReply { existed }));
        }
    }

    fn wait(&mut self, kind: WaiterKind) {
        self.publisher.record(self.desired.recompute());
        let revision = self.publisher.covering_revision();
        self.waiters.retain(|waiter| !waiter.is_gone());
        self.waiters.push(Waiter { revision, kind });
        self.answer_waiters();
    }

    fn answer_waiters(&mut self) {
        let acknowledged = self.publisher.acknowledged_revision();
        let done = |waiter: &mut Waiter| waiter.revision <= acknowledged;
        for waiter in self.waiters.extract_if(.., done) {
            match waiter.kind {
                WaiterKind::Detach(answer) => {
                    let _ = answer.send(Ok(DetachEndpointReply { existed: true }));
                }
                WaiterKind::Attach(name, answer) => {
                    let refusal = self.publisher.refused().get(&DesiredKey::Endpoint(name.clone()));
                    let _ = answer.send(match refusal {
                        None => Ok(AttachEndpointReply { revision: acknowledged }),
                        Some(reason) => Err(Status::failed_precondition(format!(
                            "endpoint {name}: the dataplane refuses it: {reason}"
                        ))),
                    });
                }
            }
        }
    }

    /// Sends what there is to send. Before the source's first batch nothing is sent at all: a full
    /// state without services would withdraw them.
    fn flush(&mut self) {
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

impl Waiter {
    fn is_gone(&self) -> bool {
        match &self.kind {
            WaiterKind::Attach(_, answer) => answer.is_closed(),
            WaiterKind::Detach(answer) => answer.is_closed(),
        }
    }
}

fn refuse(error: &EndpointError) -> Status {
    let message = error.to_string();
    match error {
        EndpointError::Store { .. } | EndpointError::Interface { .. } => Status::internal(message),
        EndpointError::Taken { .. } => Status::already_exists(message),
        EndpointError::NoInterface { .. } => Status::not_found(message),
        EndpointError::Name(_) | EndpointError::Mac { .. } | EndpointError::Address { .. } => {
            Status::invalid_argument(message)
        }
    }
}
