//! The agent's flags, shared by `weir-agent` and `weir up`.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser};
use weir_api::paths::{Paths, RUN_DIR, STATE_DIR};

use super::cni_args::CniArgs;
use super::lb_args::LoadBalancerArgs;
use super::policy_args::PolicyArgs;
use crate::agent::{AgentConfig, SourceConfig};
use crate::model::Cidr;
use crate::settings::{NODE_PORTS, NodeSettings, SNAT_PORTS};
use crate::source::kube::KubeConfig;

/// The agent of one node: Kubernetes objects in, this node's state to the dataplane.
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
    /// Wait for the end of another agent, instead of failing while one runs.
    #[arg(long)]
    pub standby: bool,
    /// Socket where probes ask how the agent is; none without it.
    #[arg(long, value_name = "PATH")]
    pub health_socket: Option<PathBuf>,
    /// Ask the agent behind this --health-socket how it is, print that and end: with success where
    /// it is ready, or in standby.
    #[arg(long, value_name = "PATH", exclusive = true)]
    pub check_health: Option<PathBuf>,
    /// Where container runtimes look.
    #[command(flatten)]
    pub cni: CniArgs,
    /// What is common with `weir up`.
    #[command(flatten)]
    pub common: AgentArgs,
}

/// Where objects come from: one of two.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Folder of Kubernetes manifests (*.yaml, *.yml, *.json), read recursively and watched.
    #[arg(long, value_name = "DIR", conflicts_with = "kubernetes")]
    pub manifests: Option<PathBuf>,
    /// The API server: as the service account of the pod, else by a kubeconfig.
    #[arg(long)]
    pub kubernetes: bool,
    /// URL of the API server, by an address that it has without weir; by default what the
    /// kubeconfig or the pod's environment says.
    #[arg(long, value_name = "URL", requires = "kubernetes", conflicts_with = "manifests")]
    pub api_server: Option<String>,
    /// Who to be at the API server; by default the pod's service account, $KUBECONFIG, or
    /// ~/.kube/config.
    #[arg(long, value_name = "FILE", requires = "kubernetes", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
}

/// Flags that `weir up` hands on to the agent.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Where objects come from.
    #[command(flatten)]
    pub source: SourceArgs,
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
        let Self { run_dir, metrics_address, attach_timeout_ms, cni, common, .. } = self;
        let source = common.source.to_config()?;
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
            announce_l2: balancing.announce_l2,
            needs_load_balancer_class: !balancing.default_load_balancer_class,
            policy_enforcement: common.policy.enable_policy,
            cluster_name: common.policy.cluster_name,
            policy_audit: common.policy.policy_audit,
            policy_reject: common.policy.policy_reject,
        };
        let paths = Paths { run_dir, state_dir: common.state_dir };
        Ok(AgentConfig {
            cni_conf: cni.to_conf(&paths),
            paths,
            source,
            node,
            metrics_address,
            attach_timeout: Duration::from_millis(attach_timeout_ms),
            is_standby: self.standby,
            health_socket: self.health_socket,
        })
    }
}

impl SourceArgs {
    /// Where the agent looks.
    pub(super) fn to_config(&self) -> anyhow::Result<SourceConfig> {
        if self.kubernetes {
            let (api_server, kubeconfig) = (self.api_server.clone(), self.kubeconfig.clone());
            return Ok(SourceConfig::Kubernetes(KubeConfig { api_server, kubeconfig }));
        }
        let manifests = self.manifests.clone();
        manifests.map(SourceConfig::Manifests).context("give --manifests DIR or --kubernetes")
    }

    fn add_flags(&self, flags: &mut Vec<String>) {
        flags.extend(self.manifests.iter().map(|it| format!("--manifests={}", it.display())));
        flags.extend(self.kubernetes.then(|| "--kubernetes".to_owned()));
        flags.extend(self.api_server.iter().map(|it| format!("--api-server={it}")));
        flags.extend(self.kubeconfig.iter().map(|it| format!("--kubeconfig={}", it.display())));
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
        let mut flags = Vec::new();
        self.source.add_flags(&mut flags);
        flags.push(format!("--state-dir={}", self.state_dir.display()));
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
    let mut filter = tracing_subscriber::EnvFilter::try_from_env("WEIR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    if !std::env::var("WEIR_LOG").is_ok_and(|it| it.contains("kube_client")) {
        // It logs every attempt that fails; we log when it changes.
        filter = filter.add_directive("kube_client=off".parse().expect("a valid directive"));
    }
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

    const FLAGS: [&str; 24] = [
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
        "--announce-l2",
        "--default-load-balancer-class=false",
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
        assert_eq!(command.common.to_flags(), FLAGS[..22]);
        let settings = command.into_config().unwrap().node;
        assert_eq!(settings.maglev_table_size, 251);
        assert_eq!(settings.maglev_seed[..2], [0x24, 0xb7]);
        assert!(settings.is_masquerade_off && settings.announce_l2);
        assert!(settings.needs_load_balancer_class);
        assert_eq!(settings.policy_enforcement, Enforcement::Always);
        assert!(settings.policy_audit && settings.policy_reject);
        assert_eq!(settings.cluster_name, "east");
    }

    #[test]
    fn objects_come_from_a_folder_or_from_an_api_server() {
        let flags = ["--kubernetes", "--api-server=https://192.0.2.1", "--kubeconfig=/k"];
        let command = parse(&flags).unwrap();
        assert_eq!(command.common.to_flags()[..3], flags);
        assert!(command.common.balancing.default_load_balancer_class);
        let source = command.common.source.to_config().unwrap();
        assert!(matches!(source, SourceConfig::Kubernetes(it)
            if it.api_server.as_deref() == Some("https://192.0.2.1")));
        let neither = parse(&["--node=n1"]).unwrap().into_config().unwrap_err();
        assert_eq!(neither.to_string(), "give --manifests DIR or --kubernetes");
        assert!(parse(&["--manifests=/m", "--kubernetes"]).is_err());
        assert!(parse(&["--manifests=/m", "--api-server=https://192.0.2.1"]).is_err());
        let command = parse(&["--check-health=/h"]).unwrap();
        assert_eq!(command.check_health, Some("/h".into()));
        assert!(parse(&["--check-health=/h", "--kubernetes"]).is_err());
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
