//! The agent of one node; see `weir_control::agent`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weir_control::agent::run_agent;
use weir_control::cli::{AgentCommand, exit_code, init_logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = AgentCommand::parse();
    if let Some(path) = &command.check_health {
        return exit_code(check(path));
    }
    if command.cni.remove_cni_conf {
        return exit_code(command.cni.remove());
    }
    init_logging();
    exit_code(run(command).await)
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let health = weir_api::health::check(path)?;
    println!("{health}");
    Ok(if health.is_healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(command: AgentCommand) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    run_agent(command.into_config()?, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
