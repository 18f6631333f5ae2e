//! The state protocol's server: one agent at a time, revisions that rise, a verdict per update.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weir_api::v1::dataplane_server::Dataplane;
use weir_api::v1::{Update, Verdict};

use super::controller::{Applied, Command};
use super::shared::Shared;
use crate::clock::{Clock, MonotonicClock};

/// How long workers may take to run a new snapshot before the agent is told which one does not.
const WORKERS_LIMIT: Duration = Duration::from_secs(5);

/// Updates that wait for their verdict on one stream.
const PIPELINED: usize = 16;

/// Serves `Dataplane.Sync`.
pub struct SyncService {
    pub commands: mpsc::Sender<Command>,
    pub shared: Arc<Shared>,
}

/// Which updates of a stream are in order.
#[derive(Debug, Default)]
pub struct Order {
    last: Option<u64>,
}

impl Order {
    /// Accepts the next update of the stream, or says why not: the agent then resyncs.
    pub fn check(&mut self, update: &Update) -> Result<(), String> {
        let revision = update.revision;
        match self.last {
            None if !update.resync => Err(format!(
                "revision {revision} came first and is no resync: start with the full state"
            )),
            Some(last) if revision != last.wrapping_add(1) => {
                Err(format!("revision {revision} came after {last}: resync"))
            }
            _ => {
                self.last = Some(revision);
                Ok(())
            }
        }
    }
}

#[tonic::async_trait]
impl Dataplane for SyncService {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<Verdict, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<Update>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (verdicts, stream) = mpsc::channel(PIPELINED);
        let session = Session {
            updates: request.into_inner(),
            commands: self.commands.clone(),
            shared: Arc::clone(&self.shared),
            verdicts,
        };
        tokio::spawn(session.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

struct Session {
    updates: Streaming<Update>,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    verdicts: mpsc::Sender<Result<Verdict, Status>>,
}

impl Session {
    async fn run(mut self) {
        self.shared.agent_connected.store(true, Ordering::Relaxed);
        tracing::info!("agent connected");
        let mut order = Order::default();
        let end = loop {
            match self.updates.message().await {
                Ok(Some(update)) => {
                    let answer = match order.check(&update) {
                        Ok(()) => self.apply(update).await,
                        Err(reason) => Err(Status::failed_precondition(reason)),
                    };
                    let failed = answer.as_ref().err().map(ToString::to_string);
                    if self.verdicts.send(answer).await.is_err() {
                        break "it hung up".to_owned();
                    }
                    if let Some(reason) = failed {
                        break reason;
                    }
                }
                Ok(None) => break "it closed the stream".to_owned(),
                Err(status) => break status.message().to_owned(),
            }
        };
        self.shared.agent_connected.store(false, Ordering::Relaxed);
        tracing::info!(reason = end, "agent disconnected; forwarding goes on with what is known");
    }

    async fn apply(&self, update: Update) -> Result<Verdict, Status> {
        let received = MonotonicClock.now();
        let revision = update.revision;
        let (reply, applied) = oneshot::channel();
        let stopped = |_| Status::unavailable("the dataplane is stopping");
        let command = Command::Apply { update, reply };
        self.commands.send(command).await.map_err(|_| stopped(()))?;
        let Applied { rejected, snapshot_revision } = applied.await.map_err(|_| stopped(()))?;
        self.shared.wait_for_workers(snapshot_revision, WORKERS_LIMIT).await.map_err(|worker| {
            Status::deadline_exceeded(format!(
                "worker {worker} does not run revision {snapshot_revision} after {} s: it hangs",
                WORKERS_LIMIT.as_secs()
            ))
        })?;
        let apply_ns = MonotonicClock.now().0 - received.0;
        Ok(Verdict { revision, rejected, apply_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_starts_with_a_resync_and_has_no_gaps() {
        let update = |revision, resync| Update { revision, resync, ..Update::default() };
        let mut order = Order::default();
        assert!(order.check(&update(5, false)).is_err());
        assert!(order.check(&update(5, true)).is_ok());
        assert!(order.check(&update(7, false)).is_err(), "a gap");
        assert!(order.check(&update(5, false)).is_err(), "does not rise");
        assert!(order.check(&update(6, false)).is_ok());
        assert!(order.check(&update(7, true)).is_ok(), "a resync in between is fine");
    }
}
