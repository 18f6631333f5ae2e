//! The command line of weir; see `weir_control::cli`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use weir_control::cli::{Cli, exit_code, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit_code(run(Cli::parse()).await)
}
