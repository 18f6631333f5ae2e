//! The operator; see `weir_ipam`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weir_api::health::check;
use weir_control::cli::{exit_code, init_logging};
use weir_control::clock::wall_time;
use weir_control::source::kube::{KubeConfig, describe_server, load_config, open_client};
use weir_ipam::cli::OperatorCommand;
use weir_ipam::crd::CRDS;
use weir_ipam::operator::{OperatorConfig, Watchdog, run_operator};
use weir_ipam::watchdog::run_watchdog;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    init_logging();
    exit_code(run(OperatorCommand::parse()).await)
}

async fn run(command: OperatorCommand) -> anyhow::Result<ExitCode> {
    if command.print_crds {
        print!("{CRDS}");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = command.check_health {
        let health = check(&path)?;
        println!("{health}");
        return Ok(if health.is_healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let given = KubeConfig { api_server: command.api_server, kubeconfig: command.kubeconfig };
    let server = load_config(&given, &[]).await?;
    let url = describe_server(&server);
    let client = open_client(server)?;
    let config = OperatorConfig {
        namespace: command
            .namespace
            .or_else(|| std::env::var("POD_NAMESPACE").ok())
            .unwrap_or_else(|| "weir-system".into()),
        health_socket: command.health_socket,
        lease: command.lease_name,
        identity: name_instance()?,
        is_default_class: command.default_load_balancer_class,
        metrics_address: command.metrics_address,
        wall_clock: wall_time,
    };
    let (watched, instance) = (client.clone(), config.identity.clone());
    let watchdog = move || -> Watchdog {
        let (client, url, instance) = (watched.clone(), url.clone(), instance.clone());
        Box::pin(run_watchdog(client, url, instance, rand::random()))
    };
    run_operator(config, client, watchdog, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// The name of the pod or the host, and what tells this process from those before it.
fn name_instance() -> anyhow::Result<String> {
    let host = match std::env::var("POD_NAME") {
        Ok(name) => name,
        Err(_) => std::fs::read_to_string("/proc/sys/kernel/hostname")?,
    };
    Ok(format!("{}_{:016x}", host.trim(), rand::random::<u64>()))
}
