//! Many of everything on one node: endpoints, flows, services.
//!
//! `cargo build --release --bins`, then
//! `cargo bench -p weir-perf --bench scale [-- FILTER] [-- --samples N]`; all but the flows need
//! root.

mod endpoints;
mod flows;
mod manifests;
mod services;

use anyhow::Result;
use clap::Parser;
use weir_perf::machine;
use weir_perf::samples::Options;

fn main() -> Result<()> {
    let options = Options::parse();
    machine::print();
    flows::measure(&options)?;
    if let Err(reason) = weir_lab::privileged() {
        println!("SKIPPED services and endpoints: {reason}");
        return Ok(());
    }
    if let Err(error) = weir_lab::program("weir-dataplane") {
        println!("SKIPPED services and endpoints: {error}");
        return Ok(());
    }
    services::measure(&options)?;
    endpoints::measure(&options)
}
