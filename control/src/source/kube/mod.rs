//! The API server as a source: one watch per kind, and one place where they come together.
//!
//! ```text
//!  watch(Service) ─┐
//!  watch(Pod)     ─┼─Step─► store (names, digests) ─Batch─► agent
//!  ...            ─┘  few at a time      within 20 ms of the first change, or when the agent has
//!                                        time again
//! ```
//!
//! - [`connect`]: where the API server is, and as whom. [`resources`]: paths, and what is kept.
//! - `watch` over `request` over `wire` and `trim`: lists by page, changes by line. All requests
//!   pass one `gate`, which knows whether the server is there.
//! - `store`: what is news. Objects are removed when the server says so: by an event, or by a list
//!   that was complete. No error removes anything.
//! - [`report`]: what is wrong with objects, told in the cluster.

pub mod connect;
mod gate;
pub mod report;
mod request;
pub mod resources;
mod store;
mod trim;
mod trouble;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch as state};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

pub use connect::{ConnectError, KubeConfig, load_config, open_client};

use self::request::Api;
use self::resources::Resource;
use self::store::{Step, Store};
use self::watch::KindWatch;
use super::Batch;
use crate::model::{Kind, Problem};

/// Changes closer together than this are one batch.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Steps that wait for the collector: each may be a page of objects.
const STEPS_MAX: usize = 4;
/// While the agent has not taken the batch before, changes are merged up to this many objects; then
/// the watches wait.
const PENDING_MAX: usize = 10_000;

/// Watches the API server from a thread of its own, until the receiver is dropped. The first batch
/// is the full content of all kinds.
///
/// Returned is what is missing or wrong, for people; empty where nothing is.
///
/// # Errors
/// Certificates or credentials cannot be used, or no thread.
pub fn spawn_kube_source(
    config: kube::Config,
    seed: u64,
    batches: mpsc::Sender<Batch>,
) -> anyhow::Result<state::Receiver<String>> {
    let server = describe_server(&config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = {
        let _guard = runtime.enter();
        open_client(config)?
    };
    let (sender, receiver) = state::channel("connecting".to_owned());
    let source = KubeSource { client, server, kinds: Kind::ALL.into(), seed };
    let run = move || runtime.block_on(source.run(batches, sender));
    std::thread::Builder::new().name("kube-source".into()).spawn(run)?;
    Ok(receiver)
}

/// The URL as people know it.
#[must_use]
pub fn describe_server(config: &kube::Config) -> String {
    config.cluster_url.to_string().trim_end_matches('/').to_owned()
}

/// What the source works with.
pub struct KubeSource {
    /// Asks.
    pub client: kube::Client,
    /// The API server's URL, for messages.
    pub server: String,
    /// What to watch.
    pub kinds: Vec<Kind>,
    /// Of the random part of waiting times.
    pub seed: u64,
}

impl KubeSource {
    /// Runs until the receiver of the batches is gone.
    pub async fn run(self, batches: mpsc::Sender<Batch>, state: state::Sender<String>) {
        let resources: Vec<Resource> = self.kinds.iter().map(|it| Resource::of(*it)).collect();
        let (sender, steps) = mpsc::channel(STEPS_MAX);
        let api = Arc::new(Api::new(self.client, self.seed));
        // Ends them when this does.
        let mut watches = JoinSet::new();
        for resource in &resources {
            let watch = KindWatch::new(api.clone(), *resource, sender.clone(), self.seed);
            watches.spawn(watch.run());
        }
        let store = Store::new(self.server, &resources);
        Collector { store, steps, batches, state, troubles: Vec::new() }.run().await;
    }
}

/// Gathers what the watches tell.
struct Collector {
    store: Store,
    steps: mpsc::Receiver<(Kind, Step)>,
    batches: mpsc::Sender<Batch>,
    /// Empty where all is well.
    state: state::Sender<String>,
    troubles: Vec<Problem>,
}

impl Collector {
    async fn run(mut self) {
        let mut has_started = false;
        loop {
            // Until there is something to hand on.
            while !(self.store.is_synced() && (self.store.has_news() || !has_started)) {
                let step = tokio::select! {
                    step = self.steps.recv() => step,
                    () = self.batches.closed() => return,
                };
                let Some((kind, step)) = step else { return };
                self.take(kind, step, has_started);
            }
            let deadline = Instant::now() + DEBOUNCE;
            if self.gather(deadline).await.is_err() {
                return;
            }
            let batch = self.store.settle();
            if let Err(unsent) = self.batches.try_send(batch) {
                return drop(unsent);
            }
            has_started = true;
        }
    }

    /// Takes steps until `deadline`, and then until the agent has room for a batch.
    async fn gather(&mut self, deadline: Instant) -> Result<(), ()> {
        let batches = self.batches.clone();
        let mut has_room = false;
        let mut is_over = false;
        while !(has_room && is_over) {
            let may_take = self.store.pending() < PENDING_MAX || !is_over;
            tokio::select! {
                biased;
                room = batches.reserve(), if is_over && !has_room => {
                    // Nobody else sends: the room stays.
                    drop(room.map_err(|_| ())?);
                    has_room = true;
                }
                () = sleep_until(deadline), if !is_over => is_over = true,
                step = self.steps.recv(), if may_take => {
                    let (kind, step) = step.ok_or(())?;
                    self.take(kind, step, true);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, kind: Kind, step: Step, has_started: bool) {
        self.store.apply(kind, step);
        let troubles = self.store.troubles();
        if !has_started {
            // Later the agent logs all problems.
            for problem in troubles.iter().filter(|it| !self.troubles.contains(it)) {
                warn!("{problem}");
            }
            for problem in self.troubles.iter().filter(|it| !troubles.contains(it)) {
                info!("solved: {problem}");
            }
        }
        self.troubles = troubles;
        let text = self.describe();
        self.state.send_if_modified(|known| {
            let is_new = *known != text;
            if is_new {
                *known = text;
            }
            is_new
        });
    }

    fn describe(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        if !self.store.is_synced() {
            let missing: Vec<&str> =
                self.store.unsynced().map(|it| Resource::of(it).plural).collect();
            parts.push(format!("reading {}", missing.join(", ")));
        }
        parts.extend(self.troubles.iter().map(|it| format!("{}: {}", it.object, it.reason)));
        parts.join("; ")
    }
}
