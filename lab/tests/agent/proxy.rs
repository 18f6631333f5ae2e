//! Between an agent and its dataplane: passes on the state protocol, with one fault at a time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use weir_api::{
    MESSAGE_BYTES_MAX,
    socket::{MODE_OWNER, bind, connect_dataplane},
    v1::{
        Update, Verdict,
        dataplane_server::{Dataplane, DataplaneServer},
    },
};

/// What an update needs for its way to the dataplane.
const IN_FLIGHT: Duration = Duration::from_millis(2);

/// What happens once, to the next update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It arrives twice.
    Repeat,
    /// It arrives after the one behind it.
    Swap,
    /// It does not arrive; the one behind it does.
    Lose,
    /// The stream ends before it.
    Cut,
    /// The stream ends behind it, about when its verdict comes.
    CutVerdict,
}

#[derive(Debug, Default)]
struct State {
    next: Option<Fault>,
    counts: BTreeMap<Fault, u32>,
    streams: u32,
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Serves at `socket` for the dataplane at `behind`.
    pub fn start(socket: &Path, behind: &Path) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let service = Between { state: Arc::clone(&state), behind: behind.into() };
        let socket = socket.to_owned();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime needs nothing but descriptors");
            runtime.block_on(async {
                let incoming = match bind(&socket, MODE_OWNER) {
                    Ok(incoming) => incoming,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let _ = ready.send(Ok(()));
                let service =
                    DataplaneServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
                let server = Server::builder().add_service(service);
                tokio::select! {
                    _ = server.serve_with_incoming(incoming) => (),
                    _ = stopped => (),
                }
            });
        });
        is_ready.recv().context("the proxy ended")??;
        Ok(Self { state, stop: Some(stop), thread: Some(thread) })
    }

    /// For the next update.
    pub fn set(&self, fault: Fault) {
        lock(&self.state).next = Some(fault);
    }

    /// Whether what was set has happened.
    pub fn is_over(&self) -> bool {
        lock(&self.state).next.is_none()
    }

    /// How often each happened.
    pub fn counts(&self) -> BTreeMap<Fault, u32> {
        lock(&self.state).counts.clone()
    }

    /// How often the agent connected.
    pub fn streams(&self) -> u32 {
        lock(&self.state).streams
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Between {
    state: Arc<Mutex<State>>,
    behind: PathBuf,
}

type Verdicts = UnboundedReceiverStream<Result<Verdict, Status>>;

#[tonic::async_trait]
impl Dataplane for Between {
    type SyncStream = Verdicts;

    async fn sync(
        &self,
        request: Request<Streaming<Update>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let client = connect_dataplane(&self.behind).await;
        let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
        lock(&self.state).streams += 1;
        let (updates, outgoing) = mpsc::unbounded_channel();
        let (verdicts, answers) = mpsc::unbounded_channel();
        let state = Arc::clone(&self.state);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let relay = relay_updates(&state, &mut incoming, updates);
            let answers = async {
                match client.sync(UnboundedReceiverStream::new(outgoing)).await {
                    Ok(response) => relay_verdicts(response.into_inner(), &verdicts).await,
                    Err(status) => drop(verdicts.send(Err(status))),
                }
            };
            tokio::select! {
                () = relay => drop(verdicts.send(Err(Status::aborted("cut off")))),
                () = answers => (),
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(answers)))
    }
}

async fn relay_verdicts(
    mut from: Streaming<Verdict>,
    to: &mpsc::UnboundedSender<Result<Verdict, Status>>,
) {
    while let Some(verdict) = from.next().await {
        if to.send(verdict).is_err() {
            return;
        }
    }
}

/// The update behind one.
fn next(update: &Update) -> Update {
    Update { revision: update.revision + 1, ..update.clone() }
}

/// Ends where the stream shall.
async fn relay_updates(
    state: &Mutex<State>,
    from: &mut Streaming<Update>,
    to: mpsc::UnboundedSender<Update>,
) {
    while let Some(Ok(update)) = from.next().await {
        // A stream's first update is left alone: the agent must come back to work.
        let fault = if update.resync { None } else { lock(state).next.take() };
        if let Some(fault) = fault {
            *lock(state).counts.entry(fault).or_default() += 1;
        }
        let passed = match fault {
            None => vec![update],
            Some(Fault::Repeat) => vec![update.clone(), update],
            // The agent awaits the verdict before it sends another: the next one is made up.
            Some(Fault::Swap) => vec![next(&update), update],
            Some(Fault::Lose) => vec![next(&update)],
            Some(Fault::Cut) => return,
            Some(Fault::CutVerdict) => {
                let _ = to.send(update);
                // On its way, and perhaps already there.
                tokio::time::sleep(IN_FLIGHT).await;
                return;
            }
        };
        if passed.into_iter().any(|update| to.send(update).is_err()) {
            return;
        }
    }
}
