//! The command line of weir; see `weir_control::cli`.
#![forbid(unsafe_code)]

use clap::Parser;
use weir_control::cli::{Cli, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    run(Cli::parse()).await
}
