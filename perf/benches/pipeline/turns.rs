//! Whole turns of a worker: what each packet of an established flow costs, and each first packet.

use tempfile::TempDir;
use weir_dataplane::batch::Batch;
use weir_dataplane::clock::Instant;
use weir_dataplane::device::Device;
use weir_dataplane::device::memory::MemoryDevice;
use weir_dataplane::flow::store::{self, StoreOptions};
use weir_dataplane::flow::{FlowTable, Timeouts};
use weir_dataplane::worker::Worker;
use weir_perf::memory::{self, NOW};
use weir_perf::samples::{Group, Options, time_per_item_ns};

const SEED: u64 = 0x7765_6972;
/// Packets per sample at least: some 20 ms.
const PACKETS_MIN: usize = 1 << 18;
/// New flows per sample.
const NEW_FLOWS: u32 = 100_000;

pub fn measure(options: &Options) {
    for (flows, name) in [(1_000, "1 k"), (1_000_000, "1 M")] {
        for family in [4, 6] {
            established(options, flows, family, name);
        }
    }
    first_packets(options);
}

fn established(options: &Options, flows: u32, family: u8, name: &str) {
    let heading = format!("established, {name} flows, UDP over IPv{family}, 64-byte frames");
    if !options.wants(&heading) {
        return;
    }
    let mut group = Group::new(&heading, "ns per packet");
    let mut names = Vec::new();
    for burst in [64, 8, 1] {
        let (turn, device) = (format!("turn, burst {burst}"), format!("device, burst {burst}"));
        let mut world = World::new(flows, family, burst);
        group.case(&turn, move || world.turns());
        let mut loop_back = LoopBack::new(flows, family, burst);
        group.case(&device, move || loop_back.turns());
        names.push((format!("pipeline, burst {burst}"), turn, device));
    }
    let mut table = group.measure(options);
    for (pipeline, turn, device) in &names {
        table.derive(pipeline, (turn, device), |turn, device| turn - device);
    }
    table.print();
}

/// A worker that knows all flows, and a device that brings their packets.
struct World {
    worker: Worker<MemoryDevice>,
    /// Holds the flow table's file.
    _dir: TempDir,
    turns: usize,
    burst: usize,
}

impl World {
    /// Learns the flows in order; the packets then come in another order, so that neither the flow
    /// table nor the processor can guess the next entry.
    fn new(flows: u32, family: u8, burst: usize) -> World {
        let (table, dir) = mapped_table(flows * 2);
        let device = memory::device(memory::packets(flows, family, None), 64);
        let mut worker = memory::worker(&mut memory::tables(), table, device);
        for _ in 0..flows.div_ceil(64) {
            worker.turn(NOW);
        }
        assert_eq!(worker.flows().len(), flows * 2, "every flow is known, both directions");
        let packets = memory::packets(flows, family, Some(SEED));
        worker.devices()[0] = memory::device(packets, burst);
        let turns = PACKETS_MIN.max(flows as usize) / burst;
        World { worker, _dir: dir, turns, burst }
    }

    /// One sample; nothing may be dropped or learned in it.
    fn turns(&mut self) -> f64 {
        let before = self.worker.counters().read();
        let packets = self.turns * self.burst;
        let sample = time_per_item_ns(packets, || {
            for _ in 0..self.turns {
                self.worker.turn(NOW);
            }
        });
        let after = self.worker.counters().read();
        assert_eq!(after.transmitted - before.transmitted, packets as u64);
        assert_eq!(after.flows, before.flows);
        sample
    }
}

/// The same packets without a pipeline: copied into frames and put back into the pool.
struct LoopBack {
    device: MemoryDevice,
    pool: weir_dataplane::memory::Pool,
    batch: Batch,
    turns: usize,
    burst: usize,
}

impl LoopBack {
    fn new(flows: u32, family: u8, burst: usize) -> LoopBack {
        let device = memory::device(memory::packets(flows, family, Some(SEED)), burst);
        let turns = PACKETS_MIN.max(flows as usize) / burst;
        LoopBack { device, pool: memory::pool(), batch: Batch::new(), turns, burst }
    }

    fn turns(&mut self) -> f64 {
        time_per_item_ns(self.turns * self.burst, || {
            for _ in 0..self.turns {
                self.device.recv(&mut self.batch, &mut self.pool);
                for packet in self.batch.drain() {
                    self.pool.put(packet.frame);
                }
            }
        })
    }
}

/// Each packet opens a flow: a miss, a decision and two new entries. Between samples all flows
/// expire, which is measured too.
fn first_packets(options: &Options) {
    let heading = "first packets, UDP, 64-byte frames, burst 64";
    if !options.wants(heading) {
        return;
    }
    let mut group = Group::new(heading, "ns per flow");
    for family in [4, 6] {
        let (table, dir) = mapped_table(NEW_FLOWS * 2);
        let worker = memory::worker(&mut memory::tables(), table, memory::silent_device());
        let newcomers = std::cell::RefCell::new((worker, NOW, dir));
        let newcomers = std::rc::Rc::new(newcomers);
        let packets = memory::packets(NEW_FLOWS, family, Some(SEED));
        let opening = std::rc::Rc::clone(&newcomers);
        group.case(format!("learn, IPv{family}"), move || {
            let (worker, now, _) = &mut *opening.borrow_mut();
            worker.devices()[0] = memory::device(packets.clone(), 64);
            let sample = time_per_item_ns(NEW_FLOWS as usize, || {
                for _ in 0..NEW_FLOWS.div_ceil(64) {
                    worker.turn(*now);
                }
            });
            assert_eq!(worker.flows().len(), NEW_FLOWS * 2);
            sample
        });
        group.case(format!("expire, IPv{family}"), move || {
            let (worker, now, _) = &mut *newcomers.borrow_mut();
            worker.devices()[0] = memory::silent_device();
            *now = Instant(now.0 + 1_000_000 * u64::from(Timeouts::default().any_ms));
            time_per_item_ns(NEW_FLOWS as usize, || {
                while !worker.flows().is_empty() {
                    worker.turn(*now);
                }
            })
        });
    }
    group.measure(options).print();
}

/// A flow table as the dataplane has it: mapped from a file on tmpfs.
fn mapped_table(capacity: u32) -> (FlowTable, TempDir) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    let timeouts = Timeouts::default();
    let options =
        StoreOptions { worker: 0, workers: 1, capacity, seed: SEED, boot_id: [1; 16], timeouts };
    let adopted = store::open(dir.path(), &options).expect("room for the table");
    (adopted.table, dir)
}
