//! Whole turns of a worker over a memory device: packets of flows that it knows, and first packets.

use tempfile::TempDir;
use weir_dataplane::clock::Instant;
use weir_dataplane::device::memory::{MemoryDevice, Packet};
use weir_dataplane::flow::store::{self, StoreOptions};
use weir_dataplane::flow::{FlowTable, Timeouts};
use weir_dataplane::worker::Worker;
use weir_tables::Tables;

use crate::memory::{self, NOW};
use crate::samples::time_per_item_ns;

/// Of the flow table's hash.
const SEED: u64 = 0x7765_6972;
/// Packets per sample at least: some 20 ms.
pub const PACKETS_MIN: usize = 1 << 18;
const BURST: usize = 64;

/// A worker that knows all flows, and a device that brings their packets.
pub struct Established {
    worker: Worker<MemoryDevice>,
    /// Holds the flow table's file.
    _dir: TempDir,
    flows: usize,
    burst: usize,
}

impl Established {
    /// `opening` makes the flows known; then `packets`, one of each flow, come over and over: best
    /// in another order, so that neither the flow table nor the processor can guess the next entry.
    ///
    /// # Panics
    /// If the flows are not known then, both directions.
    pub fn new(
        tables: &mut Tables,
        opening: Vec<Packet>,
        packets: Vec<Packet>,
        burst: usize,
    ) -> Established {
        let flows = packets.len();
        let (table, dir) = mapped_table(flows as u32 * 2);
        let turns = opening.len().div_ceil(BURST);
        let mut worker = memory::worker(tables, table, memory::device(opening, BURST));
        for _ in 0..turns {
            worker.turn(NOW);
        }
        assert_eq!(worker.flows().len() as usize, flows * 2, "every flow is known");
        worker.devices()[0] = memory::device(packets, burst);
        Established { worker, _dir: dir, flows, burst }
    }

    /// One sample, in nanoseconds per packet.
    pub fn sample(&mut self) -> f64 {
        let turns = PACKETS_MIN.max(self.flows) / self.burst;
        time_per_item_ns(turns * self.burst, || self.run(turns))
    }

    /// So many turns, without a look at the clock, which valgrind cannot bear.
    ///
    /// # Panics
    /// If anything was dropped or learned in them.
    pub fn run(&mut self, turns: usize) {
        let before = self.worker.counters().read();
        run_turns(&mut self.worker, NOW, turns);
        let after = self.worker.counters().read();
        assert_eq!(after.transmitted - before.transmitted, (turns * self.burst) as u64);
        assert_eq!(after.flows, before.flows);
    }
}

/// A worker to which every packet opens a flow: a miss, a decision and two new entries.
pub struct Newcomers {
    worker: Worker<MemoryDevice>,
    /// Holds the flow table's file.
    _dir: TempDir,
    now: Instant,
}

impl Newcomers {
    /// With room for so many entries, two to a flow.
    pub fn new(tables: &mut Tables, entries: u32) -> Newcomers {
        let (table, dir) = mapped_table(entries);
        let worker = memory::worker(tables, table, memory::silent_device());
        Newcomers { worker, _dir: dir, now: NOW }
    }

    /// Nanoseconds per flow that these packets open.
    pub fn learn(&mut self, packets: Vec<Packet>) -> f64 {
        let flows = packets.len();
        self.bring(packets);
        time_per_item_ns(flows, || self.open(flows))
    }

    /// Packets for [`Newcomers::open`].
    pub fn bring(&mut self, packets: Vec<Packet>) {
        self.worker.devices()[0] = memory::device(packets, BURST);
    }

    /// Opens as many flows as packets were brought, without a look at the clock.
    ///
    /// # Panics
    /// If they do not all open flows.
    pub fn open(&mut self, flows: usize) {
        run_turns(&mut self.worker, self.now, flows.div_ceil(BURST));
        assert_eq!(self.worker.flows().len() as usize, flows * 2);
    }

    /// Nanoseconds per flow until `flows` have expired: all that there are.
    pub fn expire(&mut self, flows: usize) -> f64 {
        self.worker.devices()[0] = memory::silent_device();
        self.now = Instant(self.now.0 + 1_000_000 * u64::from(Timeouts::default().any_ms));
        time_per_item_ns(flows, || {
            while !self.worker.flows().is_empty() {
                self.worker.turn(self.now);
            }
        })
    }
}

/// What is measured. By name, so that valgrind can count what happens in it.
#[inline(never)]
fn run_turns(worker: &mut Worker<MemoryDevice>, now: Instant, turns: usize) {
    for _ in 0..turns {
        worker.turn(now);
    }
}

/// A flow table as the dataplane has it: mapped from a file on tmpfs.
pub fn mapped_table(capacity: u32) -> (FlowTable, TempDir) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    let timeouts = Timeouts::default();
    let options =
        StoreOptions { worker: 0, workers: 1, capacity, seed: SEED, boot_id: [1; 16], timeouts };
    let adopted = store::open(dir.path(), &options).expect("room for the table");
    (adopted.table, dir)
}
