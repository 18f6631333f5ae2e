//! What the services read without asking the controller: atomics and the published snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use weir_tables::Snapshot;

use crate::clock::Instant;
use crate::device::DeviceCounters;
use crate::verdicts::VerdictLog;
use crate::worker::{Counters, Waker};

/// State of the process that more than one task reads.
pub struct Shared {
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// By worker.
    pub workers: Vec<WorkerView>,
    pub devices: Vec<Arc<DeviceView>>,
    pub started: Instant,
    pub accepted_revision: AtomicU64,
    pub from_disk: AtomicBool,
    pub agent_connected: AtomicBool,
    pub adopted_flows: u32,
    /// What was found degraded at start, for people.
    pub degraded: Vec<String>,
    /// What the kernel does not do for the state of now, for people.
    pub kernel_problems: ArcSwap<Vec<String>>,
    /// Largest IP packet of pods, bytes.
    pub mtu: u32,
    /// What kernel and devices can do, for people.
    pub capabilities: std::collections::BTreeMap<String, String>,
    pub run_dir: std::path::PathBuf,
    /// Rung when a worker has finished its first turn with a new snapshot.
    pub acknowledged: Notify,
}

/// One worker, seen from outside.
pub struct WorkerView {
    pub counters: Arc<Counters>,
    pub verdicts: Arc<VerdictLog>,
    pub waker: Waker,
    pub cpu: Option<usize>,
    pub flows_max: u32,
    pub frames_home: u32,
}

/// One device, seen from outside: its worker copies the counters here with each heartbeat.
#[derive(Debug)]
pub struct DeviceView {
    pub name: String,
    pub queue: u32,
    pub worker: u32,
    /// "native" or "generic"; trunks are always native.
    pub xdp_mode: &'static str,
    pub reason: String,
    values: [AtomicU64; DeviceView::NAMES.len()],
}

impl DeviceView {
    /// Names of the counters, in order.
    pub const NAMES: [&'static str; 12] = [
        "rx_packets",
        "rx_bytes",
        "tx_packets",
        "tx_bytes",
        "rx_invalid",
        "tx_failed",
        "rx_dropped",
        "rx_invalid_descs",
        "tx_invalid_descs",
        "rx_ring_full",
        "rx_fill_ring_empty_descs",
        "tx_ring_empty_descs",
    ];

    /// A device that has counted nothing yet.
    pub fn new(
        name: &str,
        queue: u32,
        worker: u32,
        xdp_mode: &'static str,
        reason: String,
    ) -> DeviceView {
        DeviceView {
            name: name.into(),
            queue,
            worker,
            xdp_mode,
            reason,
            values: Default::default(),
        }
    }

    /// Takes over the counters of the device and of its socket.
    pub fn set(&self, counters: &DeviceCounters, socket: &crate::device::xsk::XskStatistics) {
        let values = [
            counters.rx_packets,
            counters.rx_bytes,
            counters.tx_packets,
            counters.tx_bytes,
            counters.rx_invalid,
            counters.tx_failed,
            socket.rx_dropped,
            socket.rx_invalid_descs,
            socket.tx_invalid_descs,
            socket.rx_ring_full,
            socket.rx_fill_ring_empty_descs,
            socket.tx_ring_empty_descs,
        ];
        for (slot, value) in self.values.iter().zip(values) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    /// Counters by name.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let values = self.values.iter().map(|value| value.load(Ordering::Relaxed));
        DeviceView::NAMES.into_iter().zip(values)
    }
}

impl Shared {
    /// Of a process without workers and devices, whose tables are empty.
    pub fn idle(started: Instant, run_dir: &std::path::Path) -> Shared {
        Shared {
            snapshots: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            workers: Vec::new(),
            devices: Vec::new(),
            started,
            accepted_revision: 0.into(),
            from_disk: false.into(),
            agent_connected: false.into(),
            adopted_flows: 0,
            degraded: Vec::new(),
            kernel_problems: ArcSwap::default(),
            mtu: 0,
            capabilities: std::collections::BTreeMap::new(),
            run_dir: run_dir.to_owned(),
            acknowledged: Notify::new(),
        }
    }

    /// Publishes a snapshot and wakes the workers to it.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshots.store(Arc::new(snapshot));
        for worker in &self.workers {
            worker.waker.wake();
        }
    }

    /// Waits until every worker runs `revision` or a later one. The error names the first that does
    /// not within `limit`.
    pub async fn wait_for_workers(&self, revision: u32, limit: Duration) -> Result<(), usize> {
        let behind = || {
            let lags = |view: &WorkerView| view.counters.revision() < revision;
            self.workers.iter().position(lags)
        };
        let all = async {
            loop {
                let notified = self.acknowledged.notified();
                if behind().is_none() {
                    return;
                }
                // The bell may ring between two looks; a worker that never rings is caught by
                // `limit`.
                let _ = tokio::time::timeout(Duration::from_millis(20), notified).await;
            }
        };
        match tokio::time::timeout(limit, all).await {
            Ok(()) => Ok(()),
            Err(_) => behind().map_or(Ok(()), Err),
        }
    }
}
