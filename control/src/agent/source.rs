//! The source, from before there is a loop that takes what it sends: it is started first, so that
//! who stands by knows that it works, and takes over with all that there is.

use std::collections::BTreeMap;

use anyhow::bail;
use tokio::sync::{mpsc, watch};

use super::{AgentConfig, SourceConfig, SourceInfo};
use crate::model::{Object, ObjectKey, Problem};
use crate::source::Batch;
use crate::source::file::spawn_file_source;
use crate::source::kube::{describe_server, load_config, spawn_kube_source};

/// A running source, and what it has sent.
pub(super) struct Source {
    pub(super) info: SourceInfo,
    /// The source waits, and merges what comes, while the loop works on a batch.
    pub(super) batches: mpsc::Receiver<Batch>,
    gathered: Option<Gathered>,
}

/// Many batches as one: no more than there are objects, however long it takes.
#[derive(Default)]
struct Gathered {
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<Problem>,
}

impl Source {
    /// Starts to read; nothing is written anywhere.
    ///
    /// # Errors
    /// It cannot start: folder, kubeconfig, certificates.
    pub(super) async fn start(config: &AgentConfig) -> anyhow::Result<Self> {
        let (sender, batches) = mpsc::channel(1);
        let info = match &config.source {
            SourceConfig::Manifests(folder) => {
                spawn_file_source(folder, sender)?;
                let (_, state) = watch::channel(String::new());
                SourceInfo { name: format!("manifests {}", folder.display()), state }
            }
            SourceConfig::Kubernetes(given) => {
                let server = load_config(given, &config.node.service_ranges).await?;
                let name = format!("kubernetes {}", describe_server(&server));
                let state = spawn_kube_source(server, rand::random(), sender)?;
                SourceInfo { name, state }
            }
        };
        Ok(Self { info, batches, gathered: None })
    }

    /// Takes what comes next, or sees that the source's state is another. May be dropped at any
    /// time.
    ///
    /// # Errors
    /// The source has ended.
    pub(super) async fn gather(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            batch = self.batches.recv() => match batch {
                Some(batch) => self.gathered.get_or_insert_default().merge(batch),
                None => bail!("{}: no longer watched: its thread has ended", self.info.name),
            },
            // Not where there is no state.
            Ok(()) = self.info.state.changed() => {}
        }
        Ok(())
    }

    /// Why not everything has been read once; `None` where it has.
    pub(super) fn explain_wait(&self) -> Option<String> {
        if self.gathered.is_some() {
            return None;
        }
        let state = self.info.state.borrow();
        Some(match state.as_str() {
            "" => format!("reading {}", self.info.name),
            state => format!("waiting for the API server: {state}"),
        })
    }

    /// What was gathered, as the first batch.
    pub(super) fn take_gathered(&mut self) -> Option<Batch> {
        let Gathered { objects, problems } = self.gathered.take()?;
        Some(Batch { upserts: objects.into_values().collect(), removes: Vec::new(), problems })
    }
}

impl Gathered {
    fn merge(&mut self, batch: Batch) {
        for object in batch.upserts {
            self.objects.insert(object.key(), object);
        }
        for key in &batch.removes {
            self.objects.remove(key);
        }
        self.problems = batch.problems;
    }
}
