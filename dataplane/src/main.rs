//! `weir-dataplane`: the process that touches packets. Knows no Kubernetes; keeps forwarding when
//! everything else is down.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use tokio::net::UnixDatagram;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::transport::Server;
use weir_api::MESSAGE_BYTES_MAX;
use weir_api::paths::{Paths, RUN_DIR, STATE_DIR};
use weir_api::v1::dataplane_server::DataplaneServer;
use weir_api::v1::observe_server::ObserveServer;
use weir_dataplane::attach::Maps;
use weir_dataplane::flow::Timeouts;
use weir_dataplane::netlink::KernelState;
use weir_dataplane::server::controller::{Command, Controller};
use weir_dataplane::server::node::{self, Node, NodeOptions};
use weir_dataplane::server::observe::ObserveService;
use weir_dataplane::server::policy::VerdictHistory;
use weir_dataplane::server::shared::Shared;
use weir_dataplane::server::sync::SyncService;
use weir_dataplane::server::{http, kernel};

/// The weir dataplane of this node.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Sockets and flow tables; should be on tmpfs.
    #[arg(long, default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// The last accepted state.
    #[arg(long, default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Where programs and maps are pinned; in a bpffs.
    #[arg(long, default_value = "/sys/fs/bpf/weir")]
    pin_dir: PathBuf,
    /// Worker threads, each with a trunk of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Do not pin worker n to CPU n.
    #[arg(long)]
    no_pinning: bool,
    /// Interfaces to the network outside; may be given several times.
    #[arg(long = "uplink")]
    uplinks: Vec<String>,
    /// What happens to pods' packets while no worker runs: open (the kernel forwards), closed (they
    /// are dropped), auto (closed for pods that a policy selects).
    #[arg(long, value_enum, default_value_t = FailureMode::Auto)]
    failure_mode: FailureMode,
    /// Serves /metrics and /healthz on this address.
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
    /// Largest IP packet on the trunks, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=1778))]
    mtu: u32,
    /// Remove everything that a dataplane left in the kernel (programs, maps, links, routes,
    /// rules), restore the sysctls of the host's own ports, and end.
    #[arg(long)]
    remove: bool,
}

impl Flags {
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
enum FailureMode {
    Open,
    Closed,
    Auto,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if flags.remove {
            return Ok(kernel::remove_all(&flags.pin_dir, &flags.run_dir).await?);
        }
        run(flags).await
    })
}

async fn run(flags: Flags) -> Result<()> {
    let paths = Paths { run_dir: flags.run_dir.clone(), state_dir: flags.state_dir.clone() };
    std::fs::create_dir_all(&flags.run_dir).with_context(|| flags.run_dir.display().to_string())?;
    let _lock = lock(&flags.run_dir)?;
    let timeouts = flags.timeouts();
    let options = NodeOptions {
        run_dir: flags.run_dir,
        state_dir: flags.state_dir,
        pin_dir: flags.pin_dir,
        workers: flags.workers,
        pin_workers: !flags.no_pinning,
        uplinks: flags.uplinks,
        failure_mode: match flags.failure_mode {
            FailureMode::Open => weir_xdp_redirect::FailureMode::OPEN,
            FailureMode::Closed => weir_xdp_redirect::FailureMode::CLOSED,
            FailureMode::Auto => weir_xdp_redirect::FailureMode::AUTO,
        },
        metrics_address: flags.metrics_address,
        flows_max: flags.flows_max,
        timeouts,
        frames: flags.frames,
        mtu: flags.mtu,
    };
    let mut node = node::start(&options).await?;
    let result = serve(&mut node, &options, &paths).await;
    node.stop();
    result?;
    tracing::info!("stopping; programs and maps stay, so that the next process takes over");
    Ok(())
}

/// Restores the saved state, then runs the controller beside everything that sends it commands.
async fn serve(node: &mut Node, options: &NodeOptions, paths: &Paths) -> Result<()> {
    let (commands, inbox) = mpsc::channel(64);
    let shared = Arc::clone(&node.shared);
    let kernel = node.kernel.take().context("the kernel side is taken once")?;
    let news = kernel.watch().subscribe();
    let now_known = kernel.watch().current();
    let state_path = paths.accepted_state();
    let mut controller = Controller::new(options.workers, shared, Some(kernel), state_path);
    controller.start(&now_known).await;
    let serving = async {
        let result = answer(node, options, paths, &commands, news).await;
        commands.send(Command::Stop).await?;
        result
    };
    let ((), result) = tokio::join!(controller.run(inbox), serving);
    result
}

/// Answers the agent, people, the kernel and the workers until a signal says stop.
async fn answer(
    node: &mut Node,
    options: &NodeOptions,
    paths: &Paths,
    commands: &mpsc::Sender<Command>,
    mut news: watch::Receiver<Arc<KernelState>>,
) -> Result<()> {
    let shared = Arc::clone(&node.shared);
    let server = grpc(&shared, paths, commands, options.timeouts)?;
    tokio::pin!(server);
    if let Some(address) = options.metrics_address {
        serve_metrics(address, &shared, &options.pin_dir)?;
    }
    let bell = UnixDatagram::from_std(node.doorbell.try_clone()?).context("doorbell")?;
    let mut ring = [0; 8];
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut save = tokio::time::interval(Duration::from_millis(200));
    tracing::info!(socket = %paths.dataplane_socket().display(), "ready");
    loop {
        tokio::select! {
            ended = &mut server => return ended.context("the gRPC server"),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = save.tick() => commands.send(Command::Save).await?,
            changed = news.changed() => {
                changed.context("the watch of the kernel's routes ended")?;
                let state = news.borrow_and_update().clone();
                commands.send(Command::Network(state)).await?;
            }
            rung = bell.recv(&mut ring) => {
                rung.context("doorbell")?;
                shared.acknowledged.notify_waiters();
                for asked in &mut node.unresolved {
                    while let Ok(hop) = asked.pop() {
                        commands.send(Command::Resolve(hop)).await?;
                    }
                }
            }
        }
    }
}

fn grpc(
    shared: &Arc<Shared>,
    paths: &Paths,
    commands: &mpsc::Sender<Command>,
    timeouts: Timeouts,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + use<>> {
    let sync = SyncService { commands: commands.clone(), shared: Arc::clone(shared) };
    let history = VerdictHistory::default();
    let observe = ObserveService { shared: Arc::clone(shared), timeouts, history };
    let path = paths.dataplane_socket();
    let socket = weir_api::socket::bind(&path, weir_api::socket::MODE_OWNER)?;
    let sync = DataplaneServer::new(sync).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder().add_service(sync).add_service(ObserveServer::new(observe));
    Ok(server.serve_with_incoming(socket))
}

fn serve_metrics(address: SocketAddr, shared: &Arc<Shared>, pin_dir: &Path) -> Result<()> {
    let maps = Maps::open(pin_dir)?;
    let outcomes = Arc::new(move || node::xdp_outcomes(&maps));
    let serving = http::serve(address, Arc::clone(shared), outcomes);
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, %address, "/metrics is not served");
        }
    });
    Ok(())
}

/// One dataplane per run directory.
fn lock(run_dir: &Path) -> Result<std::fs::File> {
    let path = run_dir.join("dataplane.lock");
    let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("{} is locked: another weir-dataplane runs with this --run-dir", path.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| path.display().to_string())
        }
    }
}
