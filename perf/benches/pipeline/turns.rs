//! Whole turns of a worker: what each packet of an established flow costs, and each first packet.

use std::cell::RefCell;
use std::rc::Rc;

use weir_dataplane::batch::Batch;
use weir_dataplane::device::Device;
use weir_dataplane::device::memory::MemoryDevice;
use weir_perf::memory;
use weir_perf::samples::{Group, Options, time_per_item_ns};
use weir_perf::turns::{Established, Newcomers, PACKETS_MIN};

const SEED: u64 = 0x7765_6972;
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
        let opening = memory::packets(flows, family, None);
        let packets = memory::packets(flows, family, Some(SEED));
        let mut world = Established::new(&mut memory::tables(), opening, packets, burst);
        group.case(&turn, move || world.sample());
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
        let newcomers = Newcomers::new(&mut memory::tables(), NEW_FLOWS * 2);
        let newcomers = Rc::new(RefCell::new(newcomers));
        let packets = memory::packets(NEW_FLOWS, family, Some(SEED));
        let opening = Rc::clone(&newcomers);
        group.case(format!("learn, IPv{family}"), move || {
            opening.borrow_mut().learn(packets.clone())
        });
        group.case(format!("expire, IPv{family}"), move || {
            newcomers.borrow_mut().expire(NEW_FLOWS as usize)
        });
    }
    group.measure(options).print();
}
