//! The agent's flags, shared by `weir-agent` and `weir up`.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser};
use weir_api::paths::{Paths, RUN_DIR, STATE_DIR};

use super::lb_args::LoadBalancerArgs;
use super::policy_args::PolicyArgs;
use crate::agent::AgentConfig;
use crate::model::Cidr;
use crate::settings::{NODE_PORTS, NodeSettings, SNAT_PORTS};

/// The agent of one node: manifests in, this node's state to the dataplane.
#[derive(Debug, Parser)]
#[command(name = "weir-agent", version)]
pub struct AgentCommand {
    /// Folder of the sockets.
    #[arg(long, default_value = RUN_DIR, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Address of /metrics, /healthz and /livez; none is served without it. Load balancers expect
    /// the proxy's /healthz at 0.0.0.0:10256.
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
        default_values = ["10.96.0.0/12", "fd00:10:96::/112"]
    )]
    pub service_ranges: Vec<Cidr>,
    /// How services are balanced.
    #[command(flatten)]
    pub balancing: LoadBalancerArgs,
    /// Whom network policy isolates.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

impl AgentCommand {
    /// The flags as the agent uses them.
    ///
    /// # Errors
    /// No `--node`, and the host has no name; port ranges that overlap.
    pub fn into_config(self) -> anyhow::Result<AgentConfig> {
        let Self { run_dir, metrics_address, attach_timeout_ms, common } = self;
        let name = common.node_name()?;
        let balancing = common.balancing;
        let snat_ports = balancing.snat_ports.unwrap_or(SNAT_PORTS);
        let node_ports = balancing.node_ports.unwrap_or(NODE_PORTS);
        ensure!(
            !snat_ports.overlaps(node_ports),
            "--snat-ports {snat_ports} and --node-ports {node_ports} have ports in common: one \
             port cannot be both"
        );
        let node = NodeSettings {
            name,
            addresses: common.node_addresses,
            service_ranges: common.service_ranges,
            cluster_ranges: balancing.cluster_ranges,
            is_masquerade_off: balancing.no_masquerade,
            masquerade_exclusions: balancing.masquerade_exclusions,
            snat_ports: balancing.snat_ports,
            node_ports: balancing.node_ports,
            maglev_table_size: balancing.maglev_table_size.map_or(0, |it| it.0),
            maglev_seed: balancing.maglev_seed.map(|it| it.0).unwrap_or_default(),
            mode: balancing.load_balancer_mode,
            dsr_dispatch: balancing.dsr_dispatch.into(),
            policy_enforcement: common.policy.enable_policy,
            cluster_name: common.policy.cluster_name,
            policy_audit: common.policy.policy_audit,
            policy_reject: common.policy.policy_reject,
        };
        Ok(AgentConfig {
            paths: Paths { run_dir, state_dir: common.state_dir },
            manifests: common.manifests,
            node,
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
        flags.extend(self.service_ranges.iter().map(|it| format!("--service-range={it}")));
        self.balancing.add_flags(&mut flags);
        self.policy.add_flags(&mut flags);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Enforcement;

    const FLAGS: [&str; 22] = [
        "--manifests=/m",
        "--state-dir=/s",
        "--node=n1",
        "--node-address=192.0.2.1",
        "--service-range=10.96.0.0/12",
        "--service-range=fd00:10:96::/112",
        "--load-balancer-mode=hybrid",
        "--dsr-dispatch=option",
        "--cluster-range=10.0.0.0/16",
        "--cluster-range=fd00::/48",
        "--no-masquerade",
        "--masquerade-exclusion=198.51.100.0/24",
        "--snat-ports=50000-60000",
        "--node-ports=30000-30999",
        "--maglev-table-size=251",
        "--maglev-seed=JLfvgnHc2kaSUFaI",
        "--enable-policy=always",
        "--policy-audit",
        "--policy-reject",
        "--cluster-name=east",
        "--metrics-address=127.0.0.1:10256",
        "--run-dir=/r",
    ];

    fn parse(flags: &[&str]) -> Result<AgentCommand, clap::Error> {
        AgentCommand::try_parse_from(["weir-agent"].iter().chain(flags))
    }

    #[test]
    fn flags_are_handed_on_as_they_were_given() {
        let command = parse(&FLAGS).unwrap();
        assert_eq!(command.common.to_flags(), FLAGS[..20]);
        let settings = command.into_config().unwrap().node;
        assert_eq!(settings.maglev_table_size, 251);
        assert_eq!(settings.maglev_seed[..2], [0x24, 0xb7]);
        assert!(settings.is_masquerade_off);
        assert_eq!(settings.policy_enforcement, Enforcement::Always);
        assert!(settings.policy_audit && settings.policy_reject);
        assert_eq!(settings.cluster_name, "east");
    }

    #[test]
    fn flags_that_cannot_be_are_refused() {
        let reasons = [
            ("--cluster-range=10.0.0.0", "is not a range"),
            ("--snat-ports=60000-50000", "the smaller port first"),
            ("--node-ports=0-10", "the smaller port first"),
            ("--maglev-table-size=1000", "Maglev table size 1000 is not one of"),
            ("--maglev-seed=short", "not 12 bytes in base64"),
            ("--dsr-dispatch=vxlan", "possible values: geneve, ipip, option"),
            ("--load-balancer-mode=nat", "possible values: snat, dsr, hybrid"),
            ("--enable-policy=audit", "possible values: default, always, never"),
        ];
        for (flag, reason) in reasons {
            let error = parse(&["--manifests=/m", flag]).unwrap_err().to_string();
            assert!(error.contains(reason), "{flag}: {error}");
        }
        let overlap = ["--manifests=/m", "--node=n1", "--node-ports=49000-50000"];
        let error = parse(&overlap).unwrap().into_config().unwrap_err().to_string();
        assert!(error.contains("--snat-ports 49152-65535 and --node-ports 49000-50000"), "{error}");
    }
}
