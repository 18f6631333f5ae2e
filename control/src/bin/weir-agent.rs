//! The agent of one node; see `weir_control::agent`.
#![forbid(unsafe_code)]

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weir_control::agent::run_agent;
use weir_control::cli::{AgentCommand, init_logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    init_logging();
    let config = AgentCommand::parse().into_config()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    run_agent(config, shutdown).await
}
