//! What policy costs: a verdict, a change, everything at once, packets through a
//! worker, and the time until a change is enforced.
//!
//! `cargo bench -p weir-perf --bench policy [-- FILTER] [-- --samples N]`; instructions are counted
//! by valgrind, where it is installed.

mod change;
mod cluster;
mod enforce;
mod instructions;
mod node;
mod packets;
mod verdict;

use clap::Parser;
use weir_perf::machine;
use weir_perf::samples::Options;

fn main() {
    if let Some(case) = std::env::var_os(instructions::CASE) {
        return instructions::run(&case.to_string_lossy());
    }
    let options = Options::parse();
    machine::print();
    machine::pin();
    verdict::measure(&options);
    instructions::measure(&options);
    change::measure(&options);
    packets::measure(&options);
    enforce::measure(&options);
}
