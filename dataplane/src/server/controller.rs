//! Owns the tables. Whatever changes them comes through here, one change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use weir_api::v1::{self, Rejection, Update};
use weir_packet::Addr;
use weir_tables::{Endpoint, NextHop, Object, ObjectRef, Prefix, Tables, WorkerId};

use super::convert;
use super::kernel::Kernel;
use super::shared::Shared;
use super::state_file;
use crate::netlink::KernelState;

/// What other tasks ask of the controller.
pub enum Command {
    /// Apply an update; the answer comes when the snapshot is published.
    Apply { update: Update, reply: oneshot::Sender<Applied> },
    /// The kernel's routes, neighbours or links have changed.
    Network(Arc<KernelState>),
    /// A worker met a next hop without a MAC.
    Resolve(NextHop),
    /// Save the state if it has changed since the last time.
    Save,
    /// Save it and end.
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
    state_path: PathBuf,
    is_dirty: bool,
    /// What the host's routes into its port were last set to, and whether they may be outdated.
    host_routes: BTreeSet<Prefix>,
    is_routing_dirty: bool,
}

impl Controller {
    /// A controller with empty tables.
    pub fn new(
        workers: u8,
        shared: Arc<Shared>,
        kernel: Option<Kernel>,
        state_path: PathBuf,
    ) -> Controller {
        let tables = Tables::new(workers);
        let accepted = BTreeMap::new();
        let host_routes = BTreeSet::new();
        Controller {
            tables,
            accepted,
            shared,
            kernel,
            state_path,
            is_dirty: false,
            host_routes,
            is_routing_dirty: true,
        }
    }

    /// Publishes the first snapshot: the kernel's network together with the state that the last
    /// process left on disk. Together, because a flow that meets a snapshot without its pod is
    /// forgotten.
    pub async fn start(&mut self, network: &KernelState) {
        if let Some(kernel) = &self.kernel {
            self.tables.set_network(kernel.network(network));
        }
        self.restore().await;
        self.publish();
    }

    async fn restore(&mut self) {
        match state_file::load(&self.state_path) {
            Ok(Some(update)) => {
                let revision = update.revision;
                let applied = self.apply(update).await;
                for rejection in &applied.rejected {
                    tracing::warn!(reason = rejection.reason, "an object of the saved state");
                }
                self.is_dirty = false;
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
                Command::Network(state) => self.set_network(&state),
                Command::Resolve(hop) => {
                    if let Some(kernel) = &self.kernel {
                        kernel.resolve(hop);
                    }
                }
                Command::Save => self.save(),
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
        self.route_host().await;
        self.is_dirty = true;
        Applied { rejected, snapshot_revision: self.publish() }
    }

    /// Follows the kernel's routes, neighbours and links.
    pub fn set_network(&mut self, state: &KernelState) {
        let Some(kernel) = &self.kernel else { return };
        if self.tables.set_network(kernel.network(state)) {
            self.publish();
        }
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
        let object = convert::object(&wire).map_err(|error| refuse(error.to_string()))?;
        let name = object.name();
        if self.accepted.get(&name) == Some(&wire) {
            return Ok(());
        }
        let before = self.accepted.get(&name).cloned();
        self.tables.upsert(object).map_err(|error| refuse(error.to_string()))?;
        self.is_routing_dirty |= matches!(name, ObjectRef::Frontend(_) | ObjectRef::Node);
        if let Err(reason) = self.program(&name, before.as_ref()).await {
            // Nothing half-applied: what the kernel does not carry is not in the tables either.
            self.tables.delete(&name);
            self.accepted.remove(&name);
            return Err(refuse(reason));
        }
        self.accepted.insert(name, wire);
        Ok(())
    }

    async fn delete(&mut self, name: &ObjectRef) {
        let endpoint = self.endpoint(name);
        self.tables.delete(name);
        self.accepted.remove(name);
        self.is_routing_dirty |= matches!(name, ObjectRef::Frontend(_) | ObjectRef::Node);
        let Some(kernel) = &mut self.kernel else { return };
        let result = match name {
            ObjectRef::Endpoint(_) => match &endpoint {
                Some((endpoint, _)) => kernel.remove_endpoint(endpoint).await,
                None => Ok(()),
            },
            ObjectRef::Frontend(key) if !self.tables.is_service_addr(&key.addr) => {
                kernel.set_service_address(key.addr, false)
            }
            ObjectRef::Frontend(_) | ObjectRef::BackendSet(_) | ObjectRef::Node => Ok(()),
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
    ) -> Result<(), String> {
        let endpoint = self.endpoint(name);
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let result = match name {
            ObjectRef::Endpoint(_) => {
                if let Some(old) = before.and_then(as_endpoint) {
                    kernel.remove_endpoint(&old).await.map_err(|error| error.to_string())?;
                }
                let (endpoint, worker) = endpoint.ok_or("the endpoint has just been accepted")?;
                kernel.add_endpoint(&endpoint, worker).await
            }
            ObjectRef::Frontend(key) => kernel.set_service_address(key.addr, true),
            ObjectRef::BackendSet(_) | ObjectRef::Node => Ok(()),
        };
        result.map_err(|error| error.to_string())
    }

    /// Routes the host's traffic to services into its port: the node's service ranges, and every
    /// service address outside of them (those of load balancers).
    async fn route_host(&mut self) {
        let Some(kernel) = self.kernel.as_ref().filter(|_| self.is_routing_dirty) else { return };
        self.is_routing_dirty = false;
        let ranges = &self.tables.node().service_ranges;
        let is_outside = |addr: &Addr| !ranges.iter().any(|range| range.contains(addr));
        let outside = self.tables.service_addrs().filter(|addr| is_outside(addr));
        let routes: BTreeSet<Prefix> =
            ranges.iter().copied().chain(outside.map(Prefix::of_addr)).collect();
        if routes == self.host_routes {
            return;
        }
        let list: Vec<Prefix> = routes.iter().copied().collect();
        match kernel.set_service_ranges(&list).await {
            Ok(()) => self.host_routes = routes,
            Err(error) => {
                self.is_routing_dirty = true;
                tracing::warn!(%error, "the host does not reach all services");
            }
        }
    }

    fn endpoint(&self, name: &ObjectRef) -> Option<(Endpoint, WorkerId)> {
        let ObjectRef::Endpoint(name) = name else { return None };
        let (endpoint, worker) = self.tables.endpoint(name)?;
        Some((endpoint.clone(), worker))
    }

    /// After a full state nothing else may be left in the kernel.
    fn prune_kernel(&mut self) {
        let tables = &self.tables;
        let Some(kernel) = &mut self.kernel else { return };
        let keep_addr = |addr: &Addr| tables.is_service_addr(addr) || tables.is_endpoint_addr(addr);
        let keep_port = |port| tables.is_endpoint_port(port);
        if let Err(error) = kernel.prune(keep_addr, keep_port) {
            tracing::warn!(%error, "leftovers of an earlier process");
        }
    }

    fn save(&mut self) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        let state = Update {
            revision: self.shared.accepted_revision.load(Ordering::Relaxed),
            resync: true,
            upserts: self.accepted.values().cloned().collect(),
            deletes: Vec::new(),
        };
        if let Err(error) = state_file::save(&self.state_path, &state) {
            tracing::error!(%error, "the accepted state is not saved");
            self.is_dirty = true;
        }
    }
}

fn as_endpoint(object: &v1::Object) -> Option<Endpoint> {
    match convert::object(object) {
        Ok(Object::Endpoint(endpoint)) => Some(endpoint),
        _ => None,
    }
}
