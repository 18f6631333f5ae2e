//! What people ask: status, flows, drops, frontends. Read only.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{Stream, stream};
use tonic::{Request, Response, Status};
use weir_api::v1::observe_server::Observe;
use weir_api::v1::{
    DataplaneStatus, DeviceStatus, DropCount, DropsReply, DropsRequest, Flow, FlowsRequest,
    FrontendState, FrontendsRequest, Gauge, PolicyReply, PolicyRequest, SnatUsageReply,
    SnatUsageRequest, StatusRequest, VerdictsReply, VerdictsRequest, WorkerStatus,
};
use weir_packet::protocol;
use weir_tables::WorkerId;

use super::convert::{address_bytes, show_backend, show_frontend};
use super::policy::{self, VerdictHistory};
use super::shared::Shared;
use super::snat_usage::SnatUsage;
use crate::clock::{Clock, MonotonicClock};
use crate::drops::Drop;
use crate::flow::{Action, FlowEntry, FlowTable, Timeouts, store, tcp};
use crate::verdicts::ROWS;

/// Flows shown where nobody says how many.
const FLOWS_DEFAULT: usize = 1000;
/// Users of source ports shown where nobody says how many.
const SNAT_USERS_DEFAULT: usize = 10;

/// A worker whose last turn is older than this is said to hang; it breathes every 100 ms.
const HANGS_NS: u64 = 1_000_000_000;

/// Serves `Observe`.
pub struct ObserveService {
    pub shared: Arc<Shared>,
    pub timeouts: Timeouts,
    pub history: VerdictHistory,
}

type Rows<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Observe for ObserveService {
    type FlowsStream = Rows<Flow>;
    type FrontendsStream = Rows<FrontendState>;

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<DataplaneStatus>, Status> {
        Ok(Response::new(status(&self.shared)))
    }

    async fn flows(
        &self,
        request: Request<FlowsRequest>,
    ) -> Result<Response<Self::FlowsStream>, Status> {
        let limit = match request.into_inner().limit {
            0 => FLOWS_DEFAULT,
            limit => limit as usize,
        };
        let now_ms = MonotonicClock.now().as_millis_wrapping();
        let mut rows = Vec::new();
        for worker in 0..self.shared.workers.len() as u32 {
            let room = limit - rows.len();
            let flows = store::read_flows(&self.shared.run_dir, worker, room)
                .map_err(|error| Status::internal(format!("flow table {worker}: {error}")))?;
            let show = |entry| Ok(show_flow(worker, entry, now_ms, &self.timeouts));
            rows.extend(flows.iter().map(show));
        }
        Ok(Response::new(Box::pin(stream::iter(rows))))
    }

    async fn drops(&self, _request: Request<DropsRequest>) -> Result<Response<DropsReply>, Status> {
        let drops = drops(&self.shared).map(|(reason, packets)| DropCount {
            reason: reason.name().into(),
            description: reason.description().into(),
            packets,
        });
        Ok(Response::new(DropsReply { drops: drops.collect() }))
    }

    async fn snat_usage(
        &self,
        request: Request<SnatUsageRequest>,
    ) -> Result<Response<SnatUsageReply>, Status> {
        let limit = match request.into_inner().limit {
            0 => SNAT_USERS_DEFAULT,
            limit => limit as usize,
        };
        let workers = self.shared.workers.len() as u8;
        let mut usage = SnatUsage::new(self.shared.snapshots.load().snat_ports(), workers);
        for worker in 0..workers {
            let flows = store::read_flows(&self.shared.run_dir, worker.into(), usize::MAX)
                .map_err(|error| Status::internal(format!("flow table {worker}: {error}")))?;
            usage.add(WorkerId(worker), &flows);
        }
        Ok(Response::new(usage.show(limit)))
    }

    async fn policy(
        &self,
        request: Request<PolicyRequest>,
    ) -> Result<Response<PolicyReply>, Status> {
        let name = request.into_inner().endpoint;
        let counts = policy::count(&self.shared);
        let snapshot = self.shared.snapshots.load_full();
        let endpoints = policy::show_endpoints(&snapshot, &counts, &name);
        if endpoints.is_empty() && !name.is_empty() {
            return Err(Status::not_found(format!(
                "endpoint {name} is not attached to this node: see weir endpoint list"
            )));
        }
        Ok(Response::new(PolicyReply { endpoints }))
    }

    async fn verdicts(
        &self,
        _request: Request<VerdictsRequest>,
    ) -> Result<Response<VerdictsReply>, Status> {
        let counts = policy::count(&self.shared);
        let recent = self.history.read(&self.shared);
        let snapshot = self.shared.snapshots.load_full();
        let now_ms = MonotonicClock.now().as_millis_wrapping();
        Ok(Response::new(policy::show_verdicts(&snapshot, &counts, &recent, now_ms)))
    }

    async fn frontends(
        &self,
        _request: Request<FrontendsRequest>,
    ) -> Result<Response<Self::FrontendsStream>, Status> {
        let snapshot = self.shared.snapshots.load_full();
        let mut frontends: Vec<_> = snapshot.frontends().collect();
        frontends.sort_by(|a, b| (&a.service, a.key).cmp(&(&b.service, b.key)));
        let rows: Vec<_> = frontends
            .into_iter()
            .map(|frontend| {
                let set = snapshot.backends_of(frontend, false);
                let backends = set.map_or(&[][..], |set| set.backends());
                Ok(FrontendState {
                    frontend: Some(show_frontend(frontend)),
                    backends: backends.iter().map(show_backend).collect(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(rows))))
    }
}

/// Drops by reason, over all workers.
pub fn drops(shared: &Shared) -> impl Iterator<Item = (Drop, u64)> {
    let readings: Vec<_> = shared.workers.iter().map(|view| view.counters.read()).collect();
    Drop::ALL
        .iter()
        .map(move |reason| (*reason, readings.iter().map(|reading| reading.drop_of(*reason)).sum()))
}

/// What is wrong right now, for people.
pub fn degraded(shared: &Shared) -> Vec<String> {
    let mut problems = shared.degraded.clone();
    problems.extend(shared.kernel_problems.load().iter().cloned());
    problems.extend(hanging(shared));
    problems
}

/// The workers that do not move, for people.
pub fn hanging(shared: &Shared) -> Vec<String> {
    let mut problems = Vec::new();
    let now = MonotonicClock.now().0;
    for (worker, view) in shared.workers.iter().enumerate() {
        // One that has just started has not moved yet.
        let last_ns = view.counters.read().last_turn_ns.max(shared.started.0);
        let silent_ns = now.saturating_sub(last_ns);
        if silent_ns > HANGS_NS {
            let seconds = silent_ns / 1_000_000_000;
            problems.push(format!("worker {worker} has not moved for {seconds} s"));
        }
    }
    problems
}

fn status(shared: &Shared) -> DataplaneStatus {
    let workers: Vec<WorkerStatus> =
        (0..shared.workers.len()).map(|at| worker(shared, at)).collect();
    DataplaneStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime_ns: MonotonicClock.now().0 - shared.started.0,
        accepted_revision: shared.accepted_revision.load(Ordering::Relaxed),
        snapshot_revision: shared.snapshots.load().revision().into(),
        from_disk: shared.from_disk.load(Ordering::Relaxed),
        agent_connected: shared.agent_connected.load(Ordering::Relaxed),
        gauges: gauges(shared, &workers),
        workers,
        devices: shared
            .devices
            .iter()
            .map(|device| DeviceStatus {
                name: device.name.clone(),
                queue: device.queue,
                worker: device.worker,
                xdp_mode: device.xdp_mode.into(),
                reason: device.reason.clone(),
                counters: device.read().map(|(name, value)| (name.to_owned(), value)).collect(),
            })
            .collect(),
        degraded: degraded(shared),
        adopted_flows: shared.adopted_flows,
        mtu: shared.mtu,
        capabilities: shared.capabilities.clone(),
    }
}

fn worker(shared: &Shared, at: usize) -> WorkerStatus {
    let view = &shared.workers[at];
    let counters = view.counters.read();
    WorkerStatus {
        worker: at as u32,
        cpu: view.cpu.map_or(-1, |cpu| cpu as i32),
        snapshot_revision: counters.revision.into(),
        turns: counters.turns,
        rx_packets: counters.received,
        tx_packets: counters.transmitted,
        dropped_packets: counters.dropped(),
        flows: counters.flows.into(),
        flows_max: view.flows_max.into(),
        frames_free: counters.frames_free.into(),
        frames_home: view.frames_home.into(),
    }
}

fn gauges(shared: &Shared, workers: &[WorkerStatus]) -> Vec<Gauge> {
    let gauge = |name: &str, worker: u32, used, limit| Gauge {
        name: name.into(),
        labels: [("worker".to_owned(), worker.to_string())].into(),
        used,
        limit,
    };
    workers
        .iter()
        .zip(&shared.workers)
        .flat_map(|(row, view)| {
            let in_use = row.frames_home.saturating_sub(row.frames_free);
            [
                gauge("flows", row.worker, row.flows, row.flows_max),
                gauge("frames in use", row.worker, in_use, row.frames_home),
                gauge("verdict counts", row.worker, view.verdicts.rows_used() as u64, ROWS as u64),
            ]
        })
        .collect()
}

fn show_flow(worker: u32, entry: &FlowEntry, now_ms: u32, timeouts: &Timeouts) -> Flow {
    let key = &entry.key;
    let after = entry.translation.key_after(key);
    let source = (after.src, after.sport) != (key.src, key.sport);
    let destination = (after.dst, after.dport) != (key.dst, key.dport);
    let idle_ms = now_ms.wrapping_sub(entry.last_seen_ms);
    let left_ms = FlowTable::timeout_ms(entry, timeouts).saturating_sub(idle_ms);
    let state = match entry.action() {
        Some(Action::Direct { .. } | Action::Chosen { .. }) => "handed-over",
        Some(Action::Pinned) => "affinity",
        _ if key.protocol == protocol::TCP => tcp::name(entry.tcp),
        _ => "active",
    };
    let shown = |changed: bool, addr| if changed { address_bytes(addr) } else { Vec::new() };
    Flow {
        worker,
        protocol: key.protocol.into(),
        source: address_bytes(&key.src),
        source_port: key.sport.into(),
        destination: address_bytes(&key.dst),
        destination_port: key.dport.into(),
        translated_source: shown(source, &after.src),
        translated_source_port: if source { after.sport.into() } else { 0 },
        translated_destination: shown(destination, &after.dst),
        translated_destination_port: if destination { after.dport.into() } else { 0 },
        state: state.into(),
        packets: entry.packets,
        bytes: entry.bytes,
        idle_ns: u64::from(idle_ms) * 1_000_000,
        expires_in_ns: u64::from(left_ms) * 1_000_000,
        port: entry.in_port,
    }
}
