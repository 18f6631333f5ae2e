//! The command line of weir; see `weir_control::cli`. Under the name `kubectl-weir` it is kubectl's
//! plugin: `kubectl weir`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use weir_control::cli::{Cli, exit_code, is_plugin, run, run_plugin};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words = std::env::args_os().map(|it| it.to_string_lossy().into_owned());
    let words: Vec<String> = words.collect();
    let is_plugin = words.first().is_some_and(|it| is_plugin(it.as_ref()));
    exit_code(match is_plugin {
        true => run_plugin(words).await,
        false => run(Cli::parse()).await,
    })
}
