//! The agent's flags, shared by `weir-agent` and `weir up`.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser};
use weir_api::paths::{Paths, RUN_DIR, STATE_DIR};

use crate::agent::AgentConfig;
use crate::desired::NodeSettings;

/// The agent of one node: manifests in, this node's state to the dataplane.
#[derive(Debug, Parser)]
#[command(name = "weir-agent", version)]
pub struct AgentCommand {
    /// Folder of the sockets.
    #[arg(long, default_value = RUN_DIR, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Address of /metrics and /healthz; neither is served without it.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// How long an attachment waits for the dataplane.
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    pub attach_timeout_ms: u64,
    /// What is common with `weir up`.
    #[command(flatten)]
    pub common: AgentArgs,
}

/// Flags that `weir up` hands on to the agent.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Folder of Kubernetes manifests (*.yaml, *.yml, *.json), read recursively and watched.
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Folder of what survives a restart.
    #[arg(long, default_value = STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Name of this node's Node object; the host's name by default.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// An address of this node, beside those of its Node object; repeatable.
    #[arg(long = "node-address", value_name = "IP")]
    pub node_addresses: Vec<IpAddr>,
    /// A range of service addresses; repeatable.
    #[arg(
        long = "service-range",
        value_name = "CIDR",
        default_values = ["10.96.0.0/12", "fd00:10:96::/112"],
        value_parser = parse_range
    )]
    pub service_ranges: Vec<(IpAddr, u8)>,
}

impl AgentCommand {
    /// The flags as the agent uses them.
    ///
    /// # Errors
    /// No `--node`, and the host has no name.
    pub fn into_config(self) -> anyhow::Result<AgentConfig> {
        let Self { run_dir, metrics_address, attach_timeout_ms, common } = self;
        let node = common.node_name()?;
        Ok(AgentConfig {
            paths: Paths { run_dir, state_dir: common.state_dir },
            manifests: common.manifests,
            node: NodeSettings {
                name: node,
                addresses: common.node_addresses,
                service_ranges: common.service_ranges,
            },
            metrics_address,
            attach_timeout: Duration::from_millis(attach_timeout_ms),
        })
    }
}

impl AgentArgs {
    fn node_name(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.node {
            return Ok(name.clone());
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
        let name = name.context("cannot read the host's name: give --node NAME")?;
        Ok(name.trim().to_lowercase())
    }

    /// The flags as they are typed.
    pub(super) fn to_flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--manifests={}", self.manifests.display()),
            format!("--state-dir={}", self.state_dir.display()),
        ];
        flags.extend(self.node.iter().map(|it| format!("--node={it}")));
        flags.extend(self.node_addresses.iter().map(|it| format!("--node-address={it}")));
        let ranges = self.service_ranges.iter();
        flags.extend(ranges.map(|(address, length)| format!("--service-range={address}/{length}")));
        flags
    }
}

/// Logs to stderr: one line per event, `WEIR_LOG` chooses which (default `info`).
pub fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEIR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

fn parse_range(text: &str) -> Result<(IpAddr, u8), String> {
    let example = "write it as 10.96.0.0/12";
    let (address, length) = text.split_once('/').ok_or_else(|| example.to_owned())?;
    let address: IpAddr = address.parse().map_err(|_| example.to_owned())?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    match length.parse() {
        Ok(length) if length <= max => Ok((address, length)),
        _ => Err(format!("the prefix length must be 0..{max}")),
    }
}
