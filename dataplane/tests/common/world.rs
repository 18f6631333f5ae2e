//! One node without a kernel: workers over memory devices, stepped by hand.
//!
//! Every worker has a trunk; those named in [`Layout::queues`] have a queue of the uplink, too.
//! After each [`World::settle`] every pool is whole and the counters of every worker balance.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use weir_dataplane::clock::{Clock, VirtualClock};
use weir_dataplane::device::memory::{MemoryDevice, MemoryLink};
use weir_dataplane::device::{Device, Ports, RxMeta};
use weir_dataplane::drops::Drop as Reason;
use weir_dataplane::flow::{FlowTable, Timeouts};
use weir_dataplane::verdicts::VerdictLog;
use weir_dataplane::worker::{CounterValues, Counters, Parts, Sleeper, Worker, connect};
use weir_packet::{Addr, Parsed, parse};
use weir_tables::{Egress, NextHop, Object, ObjectRef, PortId, Snapshot, Tables, WorkerId};

use super::{frames, node};

/// Rounds of turns after which a packet must have left.
const ROUNDS_MAX: usize = 64;

/// How a world is built.
#[derive(Clone, Debug)]
pub struct Layout {
    pub workers: u8,
    /// Workers with a queue of the uplink.
    pub queues: Vec<u8>,
    /// Frames per worker.
    pub frames: usize,
    /// Flow directions per worker.
    pub flows: u32,
    /// Changes the names of pods, and so their workers.
    pub salt: u32,
    /// Decides the arrival queue of each packet, and the order of the workers in each round.
    pub seed: u64,
}

impl Layout {
    /// `workers` workers, each with a queue, and small tables.
    pub fn of(workers: u8) -> Layout {
        let queues = (0..workers).collect();
        Layout { workers, queues, frames: 64, flows: 256, salt: 0, seed: 1 }
    }
}

/// What can be read of a worker while it runs.
#[derive(Clone)]
pub struct Observed {
    pub counters: Arc<Counters>,
    pub verdicts: Arc<VerdictLog>,
}

/// A node in memory.
pub struct World<D: Device = MemoryDevice> {
    pub layout: Layout,
    pub tables: Tables,
    pub clock: VirtualClock,
    pub workers: Vec<Worker<D>>,
    pub observed: Vec<Observed>,
    snapshots: Arc<ArcSwap<Snapshot>>,
    trunks: Vec<MemoryLink>,
    uplinks: Vec<(WorkerId, MemoryLink)>,
    asked: Vec<rtrb::Consumer<NextHop>>,
    rng: SmallRng,
}

impl World {
    /// A node with the state of [`node`].
    pub fn new(layout: Layout) -> World {
        let tables = node::tables(layout.workers, layout.salt);
        World::build(layout, tables, |device| device)
    }
}

impl<D: Device> World<D> {
    /// A node with other state, or with wrapped devices.
    pub fn build(
        layout: Layout,
        mut tables: Tables,
        mut wrap: impl FnMut(MemoryDevice) -> D,
    ) -> World<D> {
        let workers = usize::from(layout.workers);
        let clock = VirtualClock::default();
        clock.advance_ns(1_000_000_000);
        let snapshots = Arc::new(ArcSwap::from_pointee(tables.snapshot()));
        let wakers: Vec<_> = (0..workers).map(|_| Sleeper::new().expect("an eventfd").1).collect();
        let owners: Vec<_> = layout.queues.iter().map(|queue| WorkerId(*queue)).collect();
        let (mut trunks, mut uplinks, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        let mut observed = Vec::new();
        let ends = connect(&wakers).into_iter();
        let pools = frames::borrow(workers, layout.frames).into_iter();
        let parts = ends.zip(pools).zip(0..).map(|((handoff, pool), id)| {
            let linked = |ports| MemoryDevice::linked(ports, RxMeta::default(), 4096);
            let (trunk, link) = linked(Ports::Except(vec![node::UPLINK_PORT]));
            trunks.push(link);
            let mut devices = vec![wrap(trunk)];
            if layout.queues.contains(&id) {
                let (uplink, link) = linked(Ports::Only(vec![node::UPLINK_PORT]));
                uplinks.push((WorkerId(id), link));
                devices.push(wrap(uplink));
            }
            let (unresolved, consumer) = rtrb::RingBuffer::new(64);
            asked.push(consumer);
            let (counters, verdicts) = (Arc::default(), Arc::new(VerdictLog::new()));
            observed.push(Observed {
                counters: Arc::clone(&counters),
                verdicts: Arc::clone(&verdicts),
            });
            Parts {
                id: WorkerId(id),
                workers: layout.workers,
                devices,
                pool,
                flows: FlowTable::in_memory(
                    layout.flows,
                    0x5eed + u64::from(id),
                    Timeouts::default(),
                ),
                snapshots: Arc::clone(&snapshots),
                handoff,
                counters,
                verdicts,
                uplink_owners: vec![(node::UPLINK_PORT, owners.clone())],
                unresolved,
                doorbell: None,
            }
        });
        let workers = parts.map(Worker::new).collect();
        let rng = SmallRng::seed_from_u64(layout.seed);
        World { layout, tables, clock, workers, observed, snapshots, trunks, uplinks, asked, rng }
    }

    /// Adds or replaces objects and publishes one snapshot.
    pub fn upsert(&mut self, objects: impl IntoIterator<Item = Object>) {
        for object in objects {
            self.tables.upsert(object).expect("a valid object");
        }
        self.publish();
    }

    /// Removes an object and publishes a snapshot.
    pub fn delete(&mut self, name: &ObjectRef) {
        self.tables.delete(name);
        self.publish();
    }

    /// Publishes the tables as they are now.
    pub fn publish(&mut self) {
        self.snapshots.store(Arc::new(self.tables.snapshot()));
    }

    /// Where snapshots are published.
    pub fn snapshots(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshots)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.load_full()
    }

    /// Lets a frame come in by a port: pods on the trunk of their worker, the host on the trunk of
    /// the pod's worker or of worker 0, the outside on any queue.
    pub fn inject(&mut self, port: PortId, frame: &[u8]) {
        let link = match port {
            PortId::UPLINK => &self.uplinks[self.rng.random_range(0..self.uplinks.len())].1,
            PortId::HOST => &self.trunks[self.worker_of(destination(frame)).index()],
            pod => &self.trunks[self.worker_of_port(pod).index()],
        };
        assert!(link.inject(port, frame), "the link has room");
    }

    /// Lets a frame come in by the uplink queue of one worker.
    pub fn inject_at_queue(&mut self, worker: u8, frame: &[u8]) {
        let link = self.uplinks.iter().find(|row| row.0 == WorkerId(worker));
        assert!(link.expect("a queue").1.inject(PortId::UPLINK, frame), "the link has room");
    }

    /// The worker of a pod's address; 0 for any other.
    pub fn worker_of(&self, addr: Option<Addr>) -> WorkerId {
        match addr.map(|addr| self.snapshot().resolve(&addr)) {
            Some(Egress::Pod { worker, .. }) => worker,
            _ => WorkerId(0),
        }
    }

    /// The worker of the pod behind a port; 0 for any other.
    pub fn worker_of_port(&self, port: PortId) -> WorkerId {
        let snapshot = self.snapshot();
        let mut rows = snapshot.endpoints();
        rows.find(|(pod, _)| pod.port == port).map_or(WorkerId(0), |row| row.1)
    }

    /// One turn of every worker, in an order of the seed's; how many packets they moved.
    pub fn round(&mut self) -> usize {
        let mut order: Vec<usize> = (0..self.workers.len()).collect();
        order.shuffle(&mut self.rng);
        let now = self.clock.now();
        order.into_iter().map(|at| self.workers[at].turn(now)).sum()
    }

    /// Turns until nothing moves; then no frame may be missing.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.round() == 0 && self.is_quiet() {
                return self.check();
            }
        }
        panic!("packets still move after {ROUNDS_MAX} rounds of {:?}", self.layout);
    }

    fn is_quiet(&mut self) -> bool {
        let waiting: usize = self.links().map(MemoryLink::waiting).sum();
        let devices = self.workers.iter_mut().flat_map(Worker::devices);
        waiting + devices.map(|device| device.frames_held()).sum::<usize>() == 0
    }

    /// Every pool is whole, and every counter balances.
    pub fn check(&mut self) {
        self.round();
        for (at, worker) in self.workers.iter_mut().enumerate() {
            let counters = worker.counters().read();
            assert!(counters.is_balanced(), "worker {at}: {counters:?}");
            worker.pool().collect();
            let (free, home) = (worker.pool().free(), worker.pool().home());
            assert!(worker.pool().is_whole(), "worker {at}: {free} of {home} frames");
        }
        let sum = self.counters();
        assert_eq!(sum.handed_in, sum.handed_out, "nothing is lost between workers");
    }

    /// What was sent by any device since the last call.
    pub fn take_sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        self.links().flat_map(MemoryLink::take_sent).collect()
    }

    fn links(&self) -> impl Iterator<Item = &MemoryLink> {
        self.trunks.iter().chain(self.uplinks.iter().map(|row| &row.1))
    }

    /// Next hops that workers asked for since the last call.
    pub fn take_asked(&mut self) -> Vec<NextHop> {
        let mut hops = Vec::new();
        for ring in &mut self.asked {
            while let Ok(hop) = ring.pop() {
                hops.push(hop);
            }
        }
        hops
    }

    /// Counters, summed over workers.
    pub fn counters(&self) -> CounterValues {
        let mut sum = CounterValues {
            drops: vec![0; Reason::ALL.len()],
            malformed: vec![0; weir_packet::Malformed::ALL.len()],
            ..CounterValues::default()
        };
        for worker in &self.workers {
            let values = worker.counters().read();
            sum.received += values.received;
            sum.handed_in += values.handed_in;
            sum.transmitted += values.transmitted;
            sum.handed_out += values.handed_out;
            sum.originated += values.originated;
            sum.punted += values.punted;
            sum.expired += values.expired;
            for (sum, value) in sum.drops.iter_mut().zip(values.drops) {
                *sum += value;
            }
            for (sum, value) in sum.malformed.iter_mut().zip(values.malformed) {
                *sum += value;
            }
        }
        sum
    }
}

impl<D: Device> Drop for World<D> {
    /// Keeps the frames for the next world of this thread.
    fn drop(&mut self) {
        if !std::thread::panicking()
            && self.workers.iter_mut().all(|worker| worker.pool().is_whole())
        {
            frames::give_back(self.workers.iter_mut().map(Worker::pool));
        }
    }
}

/// What rose between two readings, in words, without what only says how workers shared the work.
pub fn difference(before: &CounterValues, after: &CounterValues) -> String {
    let mut rows = vec![
        ("received", after.received - before.received),
        ("transmitted", after.transmitted - before.transmitted),
        ("originated", after.originated - before.originated),
        ("punted", after.punted - before.punted),
        ("expired", after.expired - before.expired),
    ];
    let drops = Reason::ALL
        .iter()
        .map(|reason| (reason.name(), after.drop_of(*reason) - before.drop_of(*reason)));
    rows.extend(drops);
    let rows = rows.iter().filter(|row| row.1 > 0);
    rows.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

fn destination(frame: &[u8]) -> Option<Addr> {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => Some(packet.key.dst),
        _ => None,
    }
}
