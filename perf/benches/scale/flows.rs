//! A million connections that one worker holds at once: what they cost in memory, and that each of
//! them is found. A real worker over its flow table on tmpfs; packets come from memory.

use anyhow::{Result, ensure};
use weir_dataplane::flow::store::{self, StoreOptions};
use weir_dataplane::flow::{FlowEntry, Timeouts};
use weir_perf::machine::kib;
use weir_perf::memory::{self, NOW};
use weir_perf::samples::{Options, time_per_item_ns};

const FLOWS: u32 = 1_000_000;
const SEED: u64 = 0x7765_6972;
const BURST: usize = 64;

pub fn measure(options: &Options) -> Result<()> {
    let heading = "1,000,000 concurrent flows in one worker";
    if !options.wants(heading) {
        return Ok(());
    }
    println!("{heading}");
    for family in [4, 6] {
        hold(family)?;
    }
    println!();
    Ok(())
}

fn hold(family: u8) -> Result<()> {
    // Made before memory is looked at, and both kept: they are not the worker's.
    let openings = memory::packets(FLOWS, family, None);
    let packets = memory::packets(FLOWS, family, Some(SEED));
    let mut tables = memory::tables();
    let rss_before = rss()?;
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let table = store::open(
        dir.path(),
        &StoreOptions {
            worker: 0,
            workers: 1,
            capacity: 2 * FLOWS,
            seed: SEED,
            boot_id: [1; 16],
            timeouts: Timeouts::default(),
        },
    )?;
    let rss_empty = rss()?;
    let device = memory::device(openings, BURST);
    let mut worker = memory::worker(&mut tables, table.table, device);
    let learn_ns = time_per_item_ns(FLOWS as usize, || {
        for _ in 0..FLOWS as usize / BURST {
            worker.turn(NOW);
        }
    });
    let rss_full = rss()?;
    let entries = worker.flows().len();
    ensure!(entries == 2 * FLOWS, "{entries} entries for {FLOWS} flows");
    let find_ns = time_per_item_ns(FLOWS as usize, || find_all(worker.flows(), family));

    // The packets of all flows once more, in another order: none may be new, none dropped.
    let before = worker.counters().read();
    worker.devices()[0] = memory::device(packets, BURST);
    let turn_ns = time_per_item_ns(FLOWS as usize, || {
        for _ in 0..FLOWS as usize / BURST {
            worker.turn(NOW);
        }
    });
    let after = worker.counters().read();
    let sent = after.transmitted - before.transmitted;
    ensure!(sent == u64::from(FLOWS), "{sent} of {FLOWS} packets were sent");
    ensure!(worker.flows().len() == entries, "no flow is learned twice");

    let per_flow = |kib: u64| kib as f64 * 1024.0 / f64::from(FLOWS);
    let entry = size_of::<FlowEntry>();
    println!(
        "  IPv{family}: {entries} entries of {entry} bytes, one per direction, in one table\n    \
           bytes per flow: {} in entries, {:.1} in index and lists, {:.1} in all (RSS; {:.1} of it \
           before the first flow)\n    \
           per flow: {learn_ns:.0} ns to open, {find_ns:.0} ns to find both entries, {turn_ns:.0} \
           ns for one more packet",
        2 * entry,
        per_flow(rss_full - rss_before) - 2.0 * entry as f64,
        per_flow(rss_full - rss_before),
        per_flow(rss_empty - rss_before),
    );
    Ok(())
}

/// Finds the entry of every flow by its key, and that of its answers by theirs.
fn find_all(flows: &weir_dataplane::flow::FlowTable, family: u8) {
    for flow in 0..FLOWS {
        let key = memory::key(flow, family);
        let number = flows.find(&key, flows.hash(&key)).expect("every flow is held");
        let peer = flows.entry(number).peer;
        let answers = flows.entry(peer).key;
        assert_eq!(flows.find(&answers, flows.hash(&answers)), Some(peer), "flow {flow}");
    }
}

/// KiB of this process in memory, tmpfs files that it has mapped included.
fn rss() -> Result<u64> {
    kib("/proc/self/status", "VmRSS")
}
