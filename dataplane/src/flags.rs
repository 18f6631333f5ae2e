//! The command line of `weir-dataplane`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use weir_api::paths::{RUN_DIR, STATE_DIR};
use weir_dataplane::flow::Timeouts;
use weir_dataplane::server::node::NodeOptions;
use weir_dataplane::server::uplinks::Wanted;

/// The weir dataplane of this node.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Flags {
    /// Sockets and flow tables; should be on tmpfs.
    #[arg(long, default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// The last accepted state.
    #[arg(long, default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Where programs and maps are pinned; in a bpffs.
    #[arg(long, default_value = "/sys/fs/bpf/weir")]
    pub pin_dir: PathBuf,
    /// Worker threads, each with a trunk of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Do not pin worker n to CPU n.
    #[arg(long)]
    no_pinning: bool,
    /// Interfaces to the network outside; may be given several times. `auto` stands for those that
    /// hold the addresses of --node-ip, or else for those of the default routes; it is waited for.
    #[arg(long = "uplink")]
    uplinks: Vec<String>,
    /// The node's addresses, for --uplink auto.
    #[arg(long = "node-ip", value_delimiter = ',')]
    node_ips: Vec<IpAddr>,
    /// What happens to pods' packets while no worker runs: open (the kernel forwards), closed (they
    /// are dropped), auto (closed for pods that a policy selects).
    #[arg(long, value_enum, default_value_t = FailureMode::Auto)]
    failure_mode: FailureMode,
    /// Serves /metrics and /healthz on this address, from when it has the node.
    #[arg(long)]
    metrics_address: Option<SocketAddr>,
    /// Flow entries per worker; a connection takes two.
    #[arg(long, default_value_t = 524_288, value_parser = clap::value_parser!(u32).range(16..))]
    flows_max: u32,
    /// Seconds without a packet after which an established TCP connection is forgotten.
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u32).range(30..=86_400))]
    tcp_timeout: u32,
    /// The same for a connection that nobody has answered.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(30..=86_400))]
    tcp_syn_timeout: u32,
    /// The same for a connection that both sides have closed, or one has reset.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    tcp_closed_timeout: u32,
    /// The same for UDP, pings and the rest.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(30..=86_400))]
    udp_timeout: u32,
    /// Packet buffers per worker, 2048 bytes each.
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1024..))]
    frames: u32,
    /// Largest IP packet of pods, in bytes [default: what all uplinks carry].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1280..=1778))]
    mtu: Option<u32>,
    /// Where another dataplane has the run directory: prepare, wait for its end, take over.
    #[arg(long)]
    pub standby: bool,
    /// After SIGTERM pods' packets are held back this long for the next process, before the
    /// failure mode decides; 0: no longer than after a crash, 1 s.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    handover_hold_ms: u64,
    /// Answers --check-health here; not in the run directory, where two processes may meet.
    #[arg(long)]
    pub health_socket: Option<PathBuf>,
    /// Ask the dataplane at this health socket how it does, print its answer, and end: with 0 if it
    /// is ready or stands by, else with 1.
    #[arg(long)]
    pub check_health: Option<PathBuf>,
    /// Where sysctls of this network namespace can be written: in a container, a mount of the
    /// host's /proc/sys.
    #[arg(long, default_value = "/proc/sys")]
    pub proc_sys: PathBuf,
    /// Remove everything that a dataplane left in the kernel (programs, maps, links, routes,
    /// rules), restore the sysctls of the host's own ports, and end.
    #[arg(long)]
    pub remove: bool,
}

impl Flags {
    pub fn node_options(&self) -> NodeOptions {
        NodeOptions {
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
            pin_dir: self.pin_dir.clone(),
            workers: self.workers,
            pin_workers: !self.no_pinning,
            uplinks: Wanted {
                names: self.uplinks.clone(),
                node_ips: self.node_ips.clone(),
                mtu: self.mtu,
            },
            failure_mode: match self.failure_mode {
                FailureMode::Open => weir_xdp_redirect::FailureMode::OPEN,
                FailureMode::Closed => weir_xdp_redirect::FailureMode::CLOSED,
                FailureMode::Auto => weir_xdp_redirect::FailureMode::AUTO,
            },
            metrics_address: self.metrics_address,
            flows_max: self.flows_max,
            timeouts: self.timeouts(),
            frames: self.frames,
        }
    }

    pub fn handover_hold(&self) -> Duration {
        Duration::from_millis(self.handover_hold_ms)
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            tcp_established_ms: self.tcp_timeout * 1000,
            tcp_syn_ms: self.tcp_syn_timeout * 1000,
            tcp_closing_ms: self.tcp_closed_timeout * 1000,
            any_ms: self.udp_timeout * 1000,
            ..Timeouts::default()
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FailureMode {
    Open,
    Closed,
    Auto,
}
