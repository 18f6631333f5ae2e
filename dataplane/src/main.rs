//! `weir-dataplane`: the process that touches packets. Knows no Kubernetes; keeps forwarding when
//! everything else is down.
//!
//! It needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON and CAP_IPC_LOCK
//! (`weir_dataplane::server::privileges` says what for), a bpffs, and a writable `/proc/sys/net`,
//! which `--proc-sys` may name elsewhere.

mod flags;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::transport::Server;
use weir_api::MESSAGE_BYTES_MAX;
use weir_api::health::{self, Health};
use weir_api::lock::{self, Attempt, Lock, Waiting};
use weir_api::paths::Paths;
use weir_api::v1::dataplane_server::DataplaneServer;
use weir_api::v1::observe_server::ObserveServer;
use weir_dataplane::attach::Maps;
use weir_dataplane::flow::{Timeouts, store};
use weir_dataplane::netlink::{KernelState, sysctl};
use weir_dataplane::server::controller::{Command, Controller};
use weir_dataplane::server::health::Phase;
use weir_dataplane::server::node::{self, Node, NodeOptions, Prepared};
use weir_dataplane::server::observe::ObserveService;
use weir_dataplane::server::policy::VerdictHistory;
use weir_dataplane::server::shared::Shared;
use weir_dataplane::server::sync::SyncService;
use weir_dataplane::server::{http, kernel, privileges};

use flags::Flags;

fn main() -> Result<()> {
    let flags = Flags::parse();
    if let Some(path) = &flags.check_health {
        let health = health::check(path).unwrap_or_else(|it| Health::NotReady(it.to_string()));
        println!("{health}");
        std::process::exit(if health.is_healthy() { 0 } else { 1 });
    }
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    sysctl::set_root(&flags.proc_sys);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if flags.remove {
            kernel::remove_all(&flags.pin_dir, &flags.run_dir).await?;
            return Ok(store::remove_all(&flags.run_dir)?);
        }
        run(flags).await
    })
}

/// The signals that end the process.
struct Signals {
    /// Planned: somebody else is about to take over, or may be.
    terminate: Signal,
    interrupt: Signal,
}

/// Why the process ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Planned,
    Interrupted,
}

impl Signals {
    fn listen() -> Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Signals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Planned,
            _ = self.interrupt.recv() => End::Interrupted,
        }
    }
}

async fn run(flags: Flags) -> Result<()> {
    let (told, phase) = watch::channel(Phase::Starting);
    let _health = match &flags.health_socket {
        Some(path) => Some(health::serve(path, move || phase.borrow().health())?),
        None => None,
    };
    let paths = Paths { run_dir: flags.run_dir.clone(), state_dir: flags.state_dir.clone() };
    let options = flags.node_options();
    privileges::check(options.locked_bytes())?;
    let mut signals = Signals::listen()?;
    let (_lock, prepared) = match lock::take(&paths.dataplane_lock())? {
        Attempt::Taken(lock) => (lock, node::prepare(&options).await?),
        Attempt::Held(waiting) if flags.standby => {
            match stand_by(waiting, &options, &told, &mut signals).await? {
                Some(turn) => turn,
                None => return Ok(()),
            }
        }
        Attempt::Held(waiting) => bail!(
            "{} is locked: another weir-dataplane (pid {}) runs with this --run-dir; --standby \
             waits for its end",
            flags.run_dir.display(),
            waiting.holder
        ),
    };
    let mut node = node::start(&options, prepared).await?;
    let result = serve(&mut node, &options, &paths, &told, &mut signals).await;
    told.send_replace(Phase::Stopping);
    let hold = matches!(result, Ok(End::Planned)).then(|| flags.handover_hold());
    node.stop(hold.filter(|hold| !hold.is_zero()));
    result?;
    tracing::info!("stopping; programs and maps stay, so that the next process takes over");
    Ok(())
}

/// Prepares everything, then waits for the lock; `None` if it is told to end meanwhile.
async fn stand_by(
    waiting: Waiting,
    options: &NodeOptions,
    phase: &watch::Sender<Phase>,
    signals: &mut Signals,
) -> Result<Option<(Lock, Prepared)>> {
    let pid = waiting.holder.clone();
    let prepared = node::prepare(options).await?;
    tracing::info!(pid, "standby: waiting for the end of the dataplane that runs");
    phase.send_replace(Phase::Standby { pid });
    tokio::select! {
        lock = waiting.wait() => {
            phase.send_replace(Phase::Starting);
            tracing::info!("taking over");
            Ok(Some((lock?, prepared)))
        }
        _ = signals.next() => Ok(None),
    }
}

/// Restores the saved state, then runs the controller beside everything that sends it commands.
async fn serve(
    node: &mut Node,
    options: &NodeOptions,
    paths: &Paths,
    phase: &watch::Sender<Phase>,
    signals: &mut Signals,
) -> Result<End> {
    let (commands, inbox) = mpsc::channel(64);
    let shared = Arc::clone(&node.shared);
    let kernel = node.kernel.take().context("the kernel side is taken once")?;
    let news = kernel.watch().subscribe();
    let now_known = kernel.watch().current();
    let state_path = paths.accepted_state();
    let mut controller = Controller::new(options.workers, shared, Some(kernel), state_path);
    controller.start(&now_known).await;
    phase.send_replace(Phase::Running(Arc::clone(&node.shared)));
    let serving = async {
        let result = answer(node, options, paths, &commands, news, signals).await;
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
    signals: &mut Signals,
) -> Result<End> {
    let shared = Arc::clone(&node.shared);
    let server = grpc(&shared, paths, commands, options.timeouts)?;
    tokio::pin!(server);
    if let Some(address) = options.metrics_address {
        serve_metrics(address, &shared, &options.pin_dir)?;
    }
    let bell = UnixDatagram::from_std(node.doorbell.try_clone()?).context("doorbell")?;
    let mut ring = [0; 8];
    let mut save = tokio::time::interval(Duration::from_millis(200));
    tracing::info!(socket = %paths.dataplane_socket().display(), "ready");
    loop {
        tokio::select! {
            ended = &mut server => {
                ended.context("the gRPC server")?;
                bail!("the gRPC server ended");
            }
            end = signals.next() => return Ok(end),
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
    tokio::spawn(serving);
    Ok(())
}
