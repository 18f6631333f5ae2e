//! `weir status`: asks the agent and the dataplane, judges what they say, and shows it.

mod findings;
mod render;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tokio::time::{sleep, timeout};
use weir_api::paths::Paths;
use weir_api::socket::{connect_agent, connect_observe};
use weir_api::v1::{AgentStatusRequest, StatusRequest};

pub(super) use render::{findings_lines, headline};

use super::show::explain;
use super::{Output, json, print_json};
use crate::clock::Clock;

/// How the agent and the dataplane are, and what is wrong.
///
/// Exit status: 0 healthy; 1 something is degraded, or an object was refused; 2 the agent or the
/// dataplane does not answer. Features that have no effect ("ignored") leave a node healthy.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// One line: for probes and scripts.
    #[arg(long)]
    pub brief: bool,
    /// Wait at most so long for the node to be healthy.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

/// A process that hangs is as good as none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a change may take to be acknowledged before it is worth a word.
const SETTLE: Duration = Duration::from_secs(1);
/// How often a node that is waited for is asked.
const POLL: Duration = Duration::from_millis(250);

/// Shows the status; the exit status tells it, too.
pub(super) async fn run(
    paths: &Paths,
    output: Output,
    args: &StatusArgs,
) -> anyhow::Result<ExitCode> {
    let clock = Clock::start();
    let mut status = observe(paths).await;
    while status.state != json::State::Healthy && clock.elapsed().as_secs() < args.wait {
        sleep(POLL).await;
        status = observe(paths).await;
    }
    match (output, args.brief) {
        (Output::Json, _) => print_json(&status)?,
        (Output::Table, true) => println!("{}", render::brief(&status)),
        (Output::Table, false) => print!("{}", render::full(&status)),
    }
    Ok(ExitCode::from(status.state.exit_status()))
}

/// The status, judged. A change under way is given time to arrive.
async fn observe(paths: &Paths) -> json::Status {
    let status = gather(paths).await;
    if !findings::is_settling(&status) {
        return findings::judge(status);
    }
    sleep(SETTLE).await;
    let later = gather(paths).await;
    match findings::has_moved(&status, &later) {
        true => findings::judge_settling(later),
        false => findings::judge(later),
    }
}

async fn gather(paths: &Paths) -> json::Status {
    let (agent, dataplane) = tokio::join!(
        within("weir-agent", ask_agent(paths)),
        within("weir-dataplane", ask_dataplane(paths))
    );
    let mut status = json::Status::default();
    match dataplane {
        Ok(dataplane) => status.dataplane = Some(dataplane),
        Err(error) => status.errors.push(format!("dataplane: {error:#}")),
    }
    match agent {
        Ok(agent) => status.agent = Some(agent),
        Err(error) => status.errors.push(format!("agent: {error:#}")),
    }
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = status.agent.as_ref().map(|it| it.node.clone()).filter(|it| !it.is_empty());
    status.node = name.unwrap_or_else(|| host().trim().to_owned());
    status
}

async fn within<T>(
    process: &str,
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let hangs = |_| {
        let waited = ANSWER_TIMEOUT.as_secs();
        anyhow!("{process} takes calls but has not answered for {waited} s: it hangs")
    };
    timeout(ANSWER_TIMEOUT, answer).await.map_err(hangs)?
}

async fn ask_dataplane(paths: &Paths) -> anyhow::Result<json::Dataplane> {
    let mut client = connect_observe(&paths.dataplane_socket()).await?;
    Ok(client.status(StatusRequest {}).await.map_err(explain)?.into_inner().into())
}

async fn ask_agent(paths: &Paths) -> anyhow::Result<json::Agent> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    Ok(client.status(AgentStatusRequest {}).await.map_err(explain)?.into_inner().into())
}
