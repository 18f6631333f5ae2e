//! Load balancer addresses: watches pools, namespaces and Services, asks the allocator, and writes
//! what it says into their status.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use tokio::sync::watch::Sender;
use tokio::time::Instant;
use tracing::{info, warn};
use weir_control::model::Name;

use crate::allocator::{Allocator, Claim};
use crate::crd::LoadBalancerPool;
use crate::error::is_gone;
use crate::events::Events;
use crate::metrics::{Controller, Counters, PoolReport};
use crate::service::read_claim;
use crate::status::{describe_pool, write_pool, write_service};
use crate::watch::{Change, watch};

/// For changes that come together.
const SETTLE: Duration = Duration::from_millis(20);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// Nothing happens without a change; this is in case one was missed.
const IDLE: Duration = Duration::from_secs(600);
/// Longest wait for the API server's answer to a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Writes at one time.
const WRITES_MAX: usize = 16;

/// What the controller works with.
pub struct Balancers {
    /// The API server.
    pub client: Client,
    /// Services without a class want an address from weir too.
    pub is_default_class: bool,
    /// For people who look at Services.
    pub events: Events,
    /// For conditions.
    pub wall_clock: fn() -> Timestamp,
    /// Counts.
    pub counters: Counters,
    /// How full the pools are.
    pub report: Sender<PoolReport>,
}

/// What has been seen.
#[derive(Default)]
struct State {
    allocator: Allocator,
    pools: BTreeMap<String, LoadBalancerPool>,
    /// Services whose status may differ from what it should be.
    touched: BTreeSet<Name>,
    is_pools_synced: bool,
    is_namespaces_synced: bool,
    is_services_synced: bool,
}

impl State {
    fn is_synced(&self) -> bool {
        self.is_pools_synced && self.is_namespaces_synced && self.is_services_synced
    }

    fn take_pool(&mut self, change: Change<LoadBalancerPool>) {
        match change {
            Change::Put(pool) => {
                let name = pool.metadata.name.clone().unwrap_or_default();
                let old = self.pools.insert(name, (*pool).clone());
                // Its status is what this controller writes.
                if old.is_none_or(|it| it.spec != pool.spec) {
                    self.allocator.put_pool(pool.to_pool());
                }
            }
            Change::Remove(name) => {
                self.pools.remove(&name.name);
                self.allocator.remove_pool(&name.name);
            }
            Change::Synced => self.is_pools_synced = true,
        }
    }

    fn take_namespace(&mut self, change: Change<PartialObjectMeta<Namespace>>) {
        match change {
            Change::Put(it) => {
                let name = it.metadata.name.unwrap_or_default();
                self.allocator.put_namespace(&name, it.metadata.labels.unwrap_or_default());
            }
            Change::Remove(name) => self.allocator.remove_namespace(&name.name),
            Change::Synced => self.is_namespaces_synced = true,
        }
    }

    fn take_service(&mut self, change: Change<Service>, is_default_class: bool) {
        match change {
            Change::Put(service) => {
                let claim = read_claim(&service, is_default_class);
                self.touched.insert(claim.name.clone());
                self.allocator.put_service(claim);
            }
            Change::Remove(name) => self.allocator.remove_service(&name),
            Change::Synced => self.is_services_synced = true,
        }
    }
}

impl Balancers {
    /// Works until it is dropped. Nothing is decided before everything has been read once.
    pub async fn run(self) {
        let pools = Api::<LoadBalancerPool>::all(self.client.clone());
        let mut pools = watch("LoadBalancerPools", pools, "");
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let mut namespaces = watch("namespaces", namespaces, "");
        let mut services = watch("Services", Api::<Service>::all(self.client.clone()), "");
        let mut state = State::default();
        let mut due = Instant::now() + IDLE;
        loop {
            tokio::select! {
                Some(change) = pools.next() => state.take_pool(change),
                Some(change) = namespaces.next() => state.take_namespace(change),
                Some(change) = services.next() => state.take_service(change, self.is_default_class),
                () = tokio::time::sleep_until(due) => {
                    let is_done = !state.is_synced() || self.reconcile(&mut state).await;
                    due = Instant::now() + if is_done { IDLE } else { RETRY };
                    continue;
                }
            }
            // Counted from the first change: a steady stream of them puts nothing off.
            due = due.min(Instant::now() + SETTLE);
        }
    }

    /// Says whether everything is as it should be.
    async fn reconcile(&self, state: &mut State) -> bool {
        self.counters.reconciles.add(Controller::Balancers);
        let changed = state.allocator.settle();
        let mut names = std::mem::take(&mut state.touched);
        names.extend(changed.iter().cloned());
        let failed = self.write_services(&mut state.allocator, &names, &changed).await;
        let is_done = failed.is_empty();
        state.touched.extend(failed);
        let is_done = self.write_pools(state).await && is_done;
        self.report.send_replace(PoolReport {
            pools: state.allocator.pools().map(|(it, _, fill)| (it.name.clone(), fill)).collect(),
            waiting: state.allocator.waiting(),
        });
        is_done
    }

    /// Returns those that could not be written.
    async fn write_services(
        &self,
        allocator: &mut Allocator,
        names: &BTreeSet<Name>,
        changed: &BTreeSet<Name>,
    ) -> Vec<Name> {
        let mut writes = Vec::new();
        for name in names {
            let (Some(claim), Some(outcome)) = (allocator.claim(name), allocator.outcome(name))
            else {
                continue;
            };
            let is_stale = claim.current != outcome.addresses;
            if is_stale || changed.contains(name) {
                writes.push(self.write_one(claim, outcome, is_stale, changed.contains(name)));
            }
        }
        let results: Vec<_> =
            futures::stream::iter(writes).buffer_unordered(WRITES_MAX).collect().await;
        let mut failed = Vec::new();
        for (name, result) in results {
            match result {
                Ok(addresses) => allocator.mark_written(&name, &addresses),
                Err(error) => {
                    warn!("Service {name}: cannot write its status: {error:#}");
                    self.counters.errors.add(Controller::Balancers);
                    failed.push(name);
                }
            }
        }
        failed
    }

    async fn write_one(
        &self,
        claim: &Claim,
        outcome: &crate::allocator::Outcome,
        is_stale: bool,
        is_news: bool,
    ) -> (Name, anyhow::Result<Vec<IpAddr>>) {
        if is_stale {
            let write = write_service(&self.client, claim, &outcome.addresses);
            match tokio::time::timeout(WRITE_TIMEOUT, write).await {
                Ok(Ok(())) => info!("Service {}: addresses {:?}", claim.name, outcome.addresses),
                // It will be seen to be removed.
                Ok(Err(error)) if is_gone(&error) => {}
                Ok(Err(error)) => return (claim.name.clone(), Err(error.into())),
                Err(timeout) => return (claim.name.clone(), Err(timeout.into())),
            }
        }
        if is_news {
            let tell = self.events.tell(claim, outcome, is_stale);
            // Events are for people: one that is lost is no error.
            let _ = tokio::time::timeout(WRITE_TIMEOUT, tell).await;
        }
        (claim.name.clone(), Ok(outcome.addresses.clone()))
    }

    /// Says whether all are as they should be.
    async fn write_pools(&self, state: &mut State) -> bool {
        let mut is_done = true;
        for (pool, problem, fill) in state.allocator.pools() {
            let Some(object) = state.pools.get_mut(&pool.name) else { continue };
            let status = describe_pool(object, problem, fill, (self.wall_clock)());
            if object.status.as_ref() == Some(&status) {
                continue;
            }
            let write = write_pool(&self.client, object, &status);
            match tokio::time::timeout(WRITE_TIMEOUT, write).await {
                Ok(Ok(())) => object.status = Some(status),
                Ok(Err(error)) if is_gone(&error) => {}
                Ok(Err(error)) => {
                    warn!("LoadBalancerPool {}: cannot write its status: {error}", pool.name);
                    self.counters.errors.add(Controller::Balancers);
                    is_done = false;
                }
                Err(_) => is_done = false,
            }
        }
        is_done
    }
}
