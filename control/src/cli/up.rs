//! `weir up`: runs the dataplane and the agent, and starts again what fails.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::agent_args::{AgentArgs, init_logging};
use super::locate::locate_binary;
use crate::agent::SourceConfig;
use crate::clock::Clock;

/// `weir up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// What the agent needs.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// A network device that leads out of this node; repeatable.
    #[arg(long = "uplink", value_name = "IF")]
    pub uplinks: Vec<String>,
    /// Packet workers, each on a core of its own; the dataplane's default otherwise.
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// What happens to pods' traffic while no worker runs.
    #[arg(long, value_enum, default_value_t = FailureModeArg::Auto)]
    pub failure_mode: FailureModeArg,
    /// Address of the agent's /metrics, /healthz and /livez; the dataplane's are on the next port.
    /// Load balancers expect the proxy's /healthz at 0.0.0.0:10256.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// Folder in bpffs for what outlives the dataplane.
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Further flags for weir-dataplane, behind `--`, e.g. `-- --no-pinning`.
    #[arg(last = true, value_name = "DATAPLANE FLAG")]
    pub more_flags: Vec<String>,
}

/// Failure mode, as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FailureModeArg {
    /// The kernel forwards.
    Open,
    /// Nothing is forwarded.
    Closed,
    /// Open, unless a policy selects the pod.
    Auto,
}

/// Runs until SIGINT or SIGTERM; then the agent stops first, then the dataplane.
///
/// # Errors
/// A process cannot be started, or fails within its first second.
pub async fn run_up(args: UpArgs, run_dir: PathBuf) -> anyhow::Result<()> {
    init_logging();
    if let SourceConfig::Manifests(manifests) = args.agent.source.to_config()? {
        std::fs::read_dir(&manifests)
            .with_context(|| format!("--manifests {}: cannot read", manifests.display()))?;
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let (stop_dataplane, dataplane_stopped) = watch::channel(false);
    let (stop_agent, agent_stopped) = watch::channel(false);
    let dataplane = Program {
        name: "weir-dataplane",
        flags: dataplane_flags(&args, &run_dir),
        meanwhile: "packets go by the failure mode",
        grace: Duration::from_secs(10),
    };
    let agent = Program {
        name: "weir-agent",
        flags: agent_flags(&args, &run_dir),
        meanwhile: "the dataplane keeps forwarding",
        grace: Duration::from_secs(5),
    };
    let mut dataplane = tokio::spawn(supervise(dataplane, dataplane_stopped));
    let mut agent = tokio::spawn(supervise(agent, agent_stopped));

    let mut ends = Vec::new();
    tokio::select! {
        _ = interrupt.recv() => info!("interrupted: stopping"),
        _ = terminate.recv() => info!("asked to stop: stopping"),
        end = &mut agent => ends.push(end),
        end = &mut dataplane => ends.push(end),
    }
    // The first that failed has ended already; a handle must not be awaited twice.
    let _ = stop_agent.send(true);
    if !agent.is_finished() {
        ends.push(agent.await);
    }
    let _ = stop_dataplane.send(true);
    if !dataplane.is_finished() {
        ends.push(dataplane.await);
    }
    for end in ends {
        end.context("a supervisor panicked")??;
    }
    Ok(())
}

fn dataplane_flags(args: &UpArgs, run_dir: &Path) -> Vec<String> {
    let mut flags = vec![
        format!("--run-dir={}", run_dir.display()),
        format!("--state-dir={}", args.agent.state_dir.display()),
        format!(
            "--failure-mode={}",
            match args.failure_mode {
                FailureModeArg::Open => "open",
                FailureModeArg::Closed => "closed",
                FailureModeArg::Auto => "auto",
            }
        ),
    ];
    flags.extend(args.workers.iter().map(|it| format!("--workers={it}")));
    flags.extend(args.uplinks.iter().map(|it| format!("--uplink={it}")));
    flags.extend(args.pin_dir.iter().map(|it| format!("--pin-dir={}", it.display())));
    let next_port = args.metrics_address.map(|it| {
        // Port 0 asks for any free port, and the next one of that is any as well.
        let port = if it.port() == 0 { 0 } else { it.port().saturating_add(1) };
        SocketAddr::new(it.ip(), port)
    });
    flags.extend(next_port.iter().map(|it| format!("--metrics-address={it}")));
    flags.extend(args.more_flags.iter().cloned());
    flags
}

fn agent_flags(args: &UpArgs, run_dir: &Path) -> Vec<String> {
    let mut flags = vec![format!("--run-dir={}", run_dir.display())];
    flags.extend(args.metrics_address.iter().map(|it| format!("--metrics-address={it}")));
    flags.extend(args.agent.to_flags());
    flags
}

struct Program {
    name: &'static str,
    flags: Vec<String>,
    /// What holds while it does not run.
    meanwhile: &'static str,
    /// How long it may take to stop.
    grace: Duration,
}

/// Short: pods' packets are held back for a second after the last heartbeat, and no longer.
const RESTART_MIN: Duration = Duration::from_millis(10);
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A process that ran this long starts again without delay.
const STABLE: Duration = Duration::from_secs(5);
/// A first start that fails within this time is a mistake in the flags or the host: give up.
const FIRST_START: Duration = Duration::from_secs(1);

async fn supervise(program: Program, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let name = program.name;
    let mut delay = RESTART_MIN;
    let mut is_first = true;
    loop {
        let clock = Clock::start();
        let mut child = program.spawn()?;
        let pid = child.id().unwrap_or_default();
        info!("{name}: started, pid {pid}");
        let status = tokio::select! {
            status = child.wait() => status.with_context(|| format!("{name}: cannot wait"))?,
            () = wait_for_stop(&mut stop) => return program.stop(&mut child).await,
        };
        let ran = clock.elapsed();
        if is_first && ran < FIRST_START {
            bail!("{name} did not start: {}", describe(status));
        }
        is_first = false;
        if ran > STABLE {
            delay = RESTART_MIN;
        }
        warn!(
            "{name} (pid {pid}) ended after {ran:.1?}: {}; starting it again in {delay:?}; \
             meanwhile {}",
            describe(status),
            program.meanwhile
        );
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = wait_for_stop(&mut stop) => return Ok(()),
        }
        delay = (delay * 2).min(RESTART_MAX);
    }
}

async fn wait_for_stop(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stop.wait_for(|it| *it).await;
}

impl Program {
    fn spawn(&self) -> anyhow::Result<Child> {
        let binary = locate_binary(self.name);
        let mut command = Command::new(&binary);
        // In a group of its own: Ctrl-C reaches us alone, so that the order of stopping is ours.
        command.args(&self.flags).process_group(0).kill_on_drop(true);
        command.spawn().with_context(|| {
            format!("cannot start {}: is it built, and beside weir or in PATH?", binary.display())
        })
    }

    async fn stop(&self, child: &mut Child) -> anyhow::Result<()> {
        let pid = child.id().and_then(|it| i32::try_from(it).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended just now.
            let _ = kill_process(pid, Signal::TERM);
        }
        if let Ok(status) = tokio::time::timeout(self.grace, child.wait()).await {
            info!("{}: stopped: {}", self.name, describe(status?));
            return Ok(());
        }
        warn!("{}: does not stop within {:?}: killed", self.name, self.grace);
        child.kill().await.with_context(|| format!("{}: cannot kill", self.name))
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "exit, without an error".into(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
