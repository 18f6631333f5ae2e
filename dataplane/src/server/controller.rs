//! Owns the tables. Whatever changes them comes through here, one change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use weir_api::v1::{self, Rejection, Update};
use weir_tables::{Endpoint, Forwarding, NextHop, Object, ObjectRef, PortId, Tables, WorkerId};

use super::convert;
use super::kernel::Kernel;
use super::shared::Shared;
use super::state_file::StateFile;
use crate::netlink::KernelState;

/// What other tasks ask of the controller.
pub enum Command {
    /// Apply an update; the answer comes when the snapshot is published.
    Apply { update: Update, reply: oneshot::Sender<Applied> },
    /// The kernel's routes, neighbours or links have changed.
    Network(Arc<KernelState>),
    /// A worker met a next hop without a MAC.
    Resolve(NextHop),
    /// Save what could not be saved before, shorten a long journal, forget what has gone.
    Save,
    /// Save and end.
    Stop,
}

/// What became of an update.
#[derive(Debug)]
pub struct Applied {
    pub rejected: Vec<Rejection>,
    /// The snapshot that contains it.
    pub snapshot_revision: u32,
}

/// The one writer of the tables.
pub struct Controller {
    tables: Tables,
    /// Accepted objects in wire form: what is saved, and what an equal upsert is compared with.
    accepted: BTreeMap<ObjectRef, v1::Object>,
    shared: Arc<Shared>,
    /// `None` where there is no kernel to program: tests and fuzzing.
    kernel: Option<Kernel>,
    saved: StateFile,
    unsaved: Unsaved,
    /// Ports that pods have left, with the revision since which they are not in the tables.
    left: Vec<(u32, PortId)>,
}

/// What has changed since the state was last saved.
#[derive(Default)]
struct Unsaved {
    /// Names of objects that came, changed or went, with their wire form.
    names: BTreeMap<ObjectRef, v1::ObjectRef>,
    is_any: bool,
    /// The whole state is to be saved, not only what changed.
    is_whole: bool,
}

impl Unsaved {
    fn add(&mut self, name: &ObjectRef, object: &v1::Object) {
        let wire = object.reference().expect("an accepted object has a name");
        self.names.insert(name.clone(), wire);
    }
}

impl Controller {
    /// A controller with empty tables.
    pub fn new(
        workers: u8,
        shared: Arc<Shared>,
        kernel: Option<Kernel>,
        state_path: PathBuf,
    ) -> Controller {
        Controller {
            tables: Tables::new(workers),
            accepted: BTreeMap::new(),
            shared,
            kernel,
            saved: StateFile::new(state_path),
            unsaved: Unsaved::default(),
            left: Vec::new(),
        }
    }

    /// Publishes the first snapshot: the kernel's network together with the state that the last
    /// process left on disk. Together, because a flow that meets a snapshot without its pod is
    /// forgotten.
    pub async fn start(&mut self, network: &KernelState) {
        self.take_network(network);
        self.restore().await;
        self.sync_host().await;
        self.publish();
    }

    async fn restore(&mut self) {
        match self.saved.load() {
            Ok(Some(update)) => {
                let revision = update.revision;
                let applied = self.apply(update).await;
                for rejection in &applied.rejected {
                    tracing::warn!(reason = rejection.reason, "an object of the saved state");
                }
                // An object that is refused today is left out of the next base.
                self.unsaved = Unsaved::default();
                self.shared.from_disk.store(true, Ordering::Relaxed);
                self.shared.accepted_revision.store(revision, Ordering::Relaxed);
                let objects = self.accepted.len();
                tracing::info!(objects, revision, "state restored from disk");
            }
            Ok(None) => tracing::info!("no saved state: waiting for the agent"),
            Err(error) => tracing::error!(%error, "saved state"),
        }
    }

    /// Carries out commands until told to stop; then saves.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Apply { update, reply } => {
                    let revision = update.revision;
                    let applied = self.apply(update).await;
                    self.shared.accepted_revision.store(revision, Ordering::Relaxed);
                    self.shared.from_disk.store(false, Ordering::Relaxed);
                    // Before the verdict: what was acknowledged is there after a kill.
                    self.save();
                    // The stream may have ended meanwhile: the update holds all the same.
                    let _ = reply.send(applied);
                }
                Command::Network(state) => self.set_network(&state).await,
                Command::Resolve(hop) => {
                    if let Some(kernel) = &self.kernel {
                        kernel.resolve(hop);
                    }
                }
                Command::Save => {
                    self.save();
                    self.compact();
                    self.forget_verdicts();
                }
                Command::Stop => break,
            }
        }
        self.save();
    }

    /// Applies an update: deletes first, then upserts, then one snapshot. What cannot be accepted
    /// is refused by name, and what it had replaced stays.
    pub async fn apply(&mut self, update: Update) -> Applied {
        let mut rejected = Vec::new();
        for name in self.deletions(&update) {
            self.delete(&name).await;
        }
        let (nodes, others): (Vec<_>, Vec<_>) = update
            .upserts
            .into_iter()
            .partition(|object| matches!(object.kind, Some(v1::object::Kind::Node(_))));
        // The node first: backend sets are built with its Maglev parameters.
        for object in nodes.into_iter().chain(others) {
            if let Err(rejection) = self.upsert(object).await {
                rejected.push(rejection);
            }
        }
        if update.resync {
            self.prune_kernel();
        }
        self.sync_host().await;
        self.unsaved.is_any = true;
        self.unsaved.is_whole |= update.resync;
        Applied { rejected, snapshot_revision: self.publish() }
    }

    /// Follows the kernel's routes, neighbours and links.
    pub async fn set_network(&mut self, state: &KernelState) {
        if self.take_network(state) {
            self.publish();
        }
        self.sync_host().await;
    }

    fn take_network(&mut self, state: &KernelState) -> bool {
        let Some(kernel) = &mut self.kernel else { return false };
        if let Err(error) = kernel.set_network(state) {
            tracing::warn!(%error, "not all packets to the node's own addresses are served");
        }
        self.tables.set_network(kernel.network(state))
    }

    fn publish(&mut self) -> u32 {
        let snapshot = self.tables.snapshot();
        let revision = snapshot.revision();
        self.shared.publish(snapshot);
        revision
    }

    /// The objects that go: those named, and after a resync those that it leaves out.
    fn deletions(&self, update: &Update) -> BTreeSet<ObjectRef> {
        let named = update.deletes.iter().filter_map(|name| convert::reference(name).ok());
        let mut gone: BTreeSet<ObjectRef> = named.collect();
        if update.resync {
            let kept: BTreeSet<ObjectRef> = update
                .upserts
                .iter()
                .filter_map(|object| convert::reference(&object.reference()?).ok())
                .collect();
            gone.extend(self.tables.names().difference(&kept).cloned());
        }
        gone
    }

    async fn upsert(&mut self, wire: v1::Object) -> Result<(), Rejection> {
        let reference = wire.reference();
        let refuse = |reason: String| Rejection { object: reference.clone(), reason };
        let object = convert::object(&wire).map_err(|error| {
            self.close(&wire);
            refuse(error.to_string())
        })?;
        let name = object.name();
        if self.accepted.get(&name) == Some(&wire) {
            return Ok(());
        }
        let before = self.accepted.get(&name).cloned();
        let is_dsr = matches!(&object, Object::Frontend(frontend)
            if frontend.forwarding == Forwarding::Dsr);
        self.tables.upsert(object).map_err(|error| {
            self.close(&wire);
            refuse(error.to_string())
        })?;
        if let Err(reason) = self.program(&name, before.as_ref(), is_dsr).await {
            // Nothing half-applied: what the kernel does not carry is not in the tables either.
            self.tables.delete(&name);
            self.forget(&name);
            return Err(refuse(reason));
        }
        self.unsaved.add(&name, &wire);
        self.accepted.insert(name, wire);
        Ok(())
    }

    /// Refused rules leave their pods closed, also after a restart, and not to those before them.
    fn close(&mut self, refused: &v1::Object) {
        if let Some(v1::object::Kind::PolicyRules(rules)) = &refused.kind {
            let name = ObjectRef::PolicyRules(rules.name.clone());
            self.tables.delete(&name);
            self.forget(&name);
        }
    }

    fn forget(&mut self, name: &ObjectRef) {
        if let Some(object) = self.accepted.remove(name) {
            self.unsaved.add(name, &object);
        }
    }

    async fn delete(&mut self, name: &ObjectRef) {
        let endpoint = self.endpoint(name);
        if let Some((endpoint, _)) = &endpoint {
            self.leave(endpoint.port);
        }
        self.tables.delete(name);
        self.forget(name);
        let Some(kernel) = &mut self.kernel else { return };
        let result = match name {
            ObjectRef::Endpoint(_) => match &endpoint {
                Some((endpoint, _)) => kernel.remove_endpoint(endpoint).await,
                None => Ok(()),
            },
            ObjectRef::Frontend(key) => kernel.remove_frontend(key),
            _ => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, object = %name, "removed from the tables, not from the kernel");
        }
    }

    /// Makes the kernel agree with an object that the tables have accepted.
    async fn program(
        &mut self,
        name: &ObjectRef,
        before: Option<&v1::Object>,
        is_dsr: bool,
    ) -> Result<(), String> {
        let endpoint = self.endpoint(name);
        let old = before.and_then(as_endpoint);
        if let (Some(old), Some((new, _))) = (&old, &endpoint)
            && old.port != new.port
        {
            self.leave(old.port);
        }
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let result = match name {
            ObjectRef::Endpoint(_) => {
                let (endpoint, worker) = endpoint.ok_or("the endpoint has just been accepted")?;
                match &old {
                    Some(old) => kernel.replace_endpoint(old, &endpoint, worker).await,
                    None => kernel.add_endpoint(&endpoint, worker).await,
                }
            }
            ObjectRef::Frontend(key) => kernel.set_frontend(key, is_dsr),
            _ => Ok(()),
        };
        result.map_err(|error| error.to_string())
    }

    /// Brings the host's own routes, rules and ports in line with the tables.
    async fn sync_host(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.sync_host(self.tables.node()).await;
            self.shared.kernel_problems.store(Arc::new(kernel.problems()));
        }
    }

    fn endpoint(&self, name: &ObjectRef) -> Option<(Endpoint, WorkerId)> {
        let ObjectRef::Endpoint(name) = name else { return None };
        let (endpoint, worker) = self.tables.endpoint(name)?;
        Some((endpoint.clone(), worker))
    }

    /// Notes that a port will not be in the next snapshot.
    fn leave(&mut self, port: PortId) {
        let next = self.shared.snapshots.load().revision().wrapping_add(1);
        self.left.push((next, port));
    }

    /// Forgets what was counted at ports that no worker knows any more.
    fn forget_verdicts(&mut self) {
        let workers = &self.shared.workers;
        let is_known = |since: u32| workers.iter().any(|worker| worker.counters.revision() < since);
        for (_, port) in self.left.extract_if(.., |(since, _)| !is_known(*since)) {
            workers.iter().for_each(|worker| worker.verdicts.forget(port));
        }
    }

    /// After a full state nothing else may be left in the kernel.
    fn prune_kernel(&mut self) {
        let tables = &self.tables;
        let Some(kernel) = &mut self.kernel else { return };
        let keep_port = |port| tables.is_endpoint_port(port);
        if let Err(error) = kernel.prune(keep_port) {
            tracing::warn!(%error, "leftovers of an earlier process");
        }
    }

    /// Saves what has changed: a resync as a whole, anything else at the cost of the change.
    fn save(&mut self) {
        if !self.unsaved.is_any {
            return;
        }
        let result = if self.unsaved.is_whole || !self.saved.is_open() {
            self.saved.replace(self.revision(), self.accepted.values())
        } else {
            self.saved.append(&self.change())
        };
        match result {
            Ok(()) => self.unsaved = Unsaved::default(),
            Err(error) => tracing::error!(%error, "the accepted state is not saved"),
        }
    }

    /// Shortens a long journal. Not before a verdict: this takes as long as the state is large.
    fn compact(&mut self) {
        if self.saved.is_open()
            && self.saved.is_long()
            && let Err(error) = self.saved.replace(self.revision(), self.accepted.values())
        {
            self.unsaved.is_any = true;
            tracing::error!(%error, "the accepted state is not saved");
        }
    }

    /// All unsaved changes as one update.
    fn change(&self) -> Update {
        let mut change = Update { revision: self.revision(), ..Update::default() };
        for (name, wire) in &self.unsaved.names {
            match self.accepted.get(name) {
                Some(object) => change.upserts.push(object.clone()),
                None => change.deletes.push(wire.clone()),
            }
        }
        change
    }

    fn revision(&self) -> u64 {
        self.shared.accepted_revision.load(Ordering::Relaxed)
    }
}

fn as_endpoint(object: &v1::Object) -> Option<Endpoint> {
    match convert::object(object) {
        Ok(Object::Endpoint(endpoint)) => Some(endpoint),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
