//! The source, and what an agent would have made of its batches.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use weir_control::model::{Kind, Object, ObjectKey};
use weir_control::source::Batch;
use weir_control::source::kube::KubeSource;
use weir_control::source::kubernetes::convert;

use super::server::Server;

/// Virtual time: nothing takes as long, everything shorter is free.
const LONG: Duration = Duration::from_secs(600);

pub struct Run {
    pub server: Server,
    pub batches: mpsc::Receiver<Batch>,
    pub state: watch::Receiver<String>,
    pub objects: BTreeMap<ObjectKey, Object>,
    pub problems: Vec<String>,
    pub received: usize,
    removed: HashMap<ObjectKey, usize>,
    task: JoinHandle<()>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Run {
    pub fn start(server: &Server, seed: u64) -> Self {
        let (sender, batches) = mpsc::channel(1);
        let (state_sender, state) = watch::channel("connecting".to_owned());
        let source = KubeSource {
            client: server.client(),
            server: "https://api:6443".into(),
            kinds: Kind::ALL.into(),
            seed,
        };
        Self {
            server: server.clone(),
            batches,
            state,
            objects: BTreeMap::new(),
            problems: Vec::new(),
            received: 0,
            removed: HashMap::new(),
            task: tokio::spawn(source.run(sender, state_sender)),
        }
    }

    /// Takes the next batch; false where none comes for very long.
    pub async fn next(&mut self) -> bool {
        let Ok(batch) = timeout(LONG, self.batches.recv()).await else { return false };
        self.take(batch.expect("the source goes on"));
        true
    }

    pub fn take(&mut self, batch: Batch) {
        self.received += 1;
        for object in batch.upserts {
            self.objects.insert(object.key(), object);
        }
        for key in batch.removes {
            self.objects.remove(&key);
            // What was never deleted is never removed.
            let removed = self.removed.entry(key.clone()).or_default();
            *removed += 1;
            let deleted = self.server.lock().deleted.get(&key).copied().unwrap_or(0);
            assert!(*removed <= deleted, "{key}: removed, but it lives");
        }
        self.problems = batch.problems.iter().map(ToString::to_string).collect();
    }

    /// Takes what comes within a time.
    pub async fn run_for(&mut self, time: Duration) {
        let end = sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                batch = self.batches.recv() => self.take(batch.expect("the source goes on")),
                () = &mut end => return,
            }
        }
    }

    /// What the source should have told by now.
    pub fn expected(&self) -> BTreeMap<ObjectKey, Object> {
        let state = self.server.lock();
        let convert = |(key, value)| {
            let key: &ObjectKey = key;
            let object = convert(key.kind, key.name.clone(), None, value).object?;
            Some((key.clone(), object))
        };
        state.objects.iter().filter_map(convert).collect()
    }

    pub fn names(&self) -> Vec<String> {
        self.objects.keys().map(ToString::to_string).collect()
    }
}
