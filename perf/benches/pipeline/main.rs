//! What a packet costs in memory: no kernel, no device, one worker on one core.
//!
//! `cargo bench -p weir-perf --bench pipeline [-- FILTER] [-- --samples N]`

mod change;
mod stages;
mod turns;

use clap::Parser;
use weir_perf::machine;
use weir_perf::samples::Options;

fn main() {
    let options = Options::parse();
    machine::print();
    machine::pin();
    turns::measure(&options);
    stages::measure(&options);
    change::measure(&options);
}
