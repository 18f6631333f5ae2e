//! The process behind a running cluster: it holds the lab, starts the control plane and the nodes,
//! starts again what ends, and does what other commands ask through a socket. SIGTERM ends it and
//! everything it started.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use weir_lab::{
    Lab, Process,
    clock::{pause, wait_until},
};

use crate::{
    cluster::{Cluster, RunningNode},
    control_plane::{API_SERVER, CLIENTS, SERVERS, command_of},
    network::{LinkChange, Network},
    node,
    paths::State,
    plan::NodePlan,
    process::Identity,
};

/// For a node's mounts and containerd's start.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// For etcd and the API server, on a busy machine.
const API_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the control plane's programs are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// What the supervisor is to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub nodes: Vec<NodePlan>,
    /// Of the segment, in bytes.
    pub mtu: Option<u32>,
}

/// What other commands ask.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    ChangeLink { node: String, change: LinkChange },
    RunApiServer(bool),
    Describe,
}

/// Text for a human, or what went wrong.
type Answer = std::result::Result<String, String>;

/// Asks the supervisor of a running cluster.
pub fn ask(state: &State, request: &Request) -> Result<String> {
    let path = state.socket();
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("the supervisor does not listen on {}", path.display()))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Answer = serde_json::from_str(&line).context("the supervisor gave no answer")?;
    answer.or_else(|error| bail!(error))
}

/// Runs until a signal.
pub fn run(state: &State) -> Result<()> {
    rustix::process::setsid().context("cannot leave the session")?;
    Identity::own()?.write(&state.supervisor())?;
    let spec: Spec = serde_json::from_slice(&fs::read(state.folder.join("spec.json"))?)?;
    weir_lab::clean_up_on_signal()?;
    let lab = Lab::new(&state.lab())?;
    let network = Network::new(&lab, &spec.nodes, spec.mtu)?;
    let listener = UnixListener::bind(state.socket())?;
    let mut supervisor = Supervisor {
        state: state.clone(),
        lab,
        network,
        control_plane: BTreeMap::new(),
        nodes: Vec::new(),
        stopped: None,
    };
    SERVERS.iter().try_for_each(|program| supervisor.start(program))?;
    supervisor.start_nodes(&spec.nodes)?;
    let cluster = supervisor.describe_cluster()?;
    wait_until("the API server to be ready", API_TIMEOUT, || {
        cluster.ask(&["get", "--raw=/readyz"]).ok()
    })?;
    CLIENTS.iter().try_for_each(|program| supervisor.start(program))?;
    // The other commands take it that everything runs.
    let unfinished = state.cluster().with_extension("new");
    fs::write(&unfinished, serde_json::to_string_pretty(&cluster)?)?;
    fs::rename(unfinished, state.cluster())?;
    let supervisor = Arc::new(Mutex::new(supervisor));
    let watched = supervisor.clone();
    thread::Builder::new().name("watch".into()).spawn(move || {
        loop {
            pause(WATCH_INTERVAL);
            lock(&watched).restart_ended();
        }
    })?;
    for stream in listener.incoming() {
        if let Err(error) = stream.map_err(Into::into).and_then(|it| serve(&supervisor, it)) {
            eprintln!("a request: {error:#}");
        }
    }
    Ok(())
}

fn serve(supervisor: &Mutex<Supervisor>, stream: UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let answer: Answer = lock(supervisor).answer(request).map_err(|error| format!("{error:#}"));
    writeln!(&stream, "{}", serde_json::to_string(&answer)?)?;
    Ok(())
}

struct Supervisor {
    state: State,
    lab: Lab,
    network: Network,
    /// By program, with how often it was started.
    control_plane: BTreeMap<&'static str, (Process, u32)>,
    nodes: Vec<(NodePlan, Process)>,
    /// The program that is not to run now.
    stopped: Option<&'static str>,
}

impl Supervisor {
    fn start(&mut self, program: &'static str) -> Result<()> {
        let process = self.network.outside().spawn(command_of(&self.state, program)?)?;
        let starts = self.control_plane.get(program).map_or(0, |(_, starts)| *starts);
        self.control_plane.insert(program, (process, starts + 1));
        Ok(())
    }

    /// All at once; then waits for each.
    fn start_nodes(&mut self, plans: &[NodePlan]) -> Result<()> {
        for (number, plan) in plans.iter().enumerate() {
            let spec = node::prepare(&self.state, plan)?;
            let mut command = Command::new("unshare");
            command.args(["--mount", "--pid", "--uts", "--fork", "--kill-child=KILL", "--"]);
            command.arg(std::env::current_exe()?).arg("node-init").arg(spec);
            let process = self.network.node(number).spawn(command)?;
            self.nodes.push((plan.clone(), process));
        }
        for (plan, process) in &self.nodes {
            let file = node::pid_file(&self.state, plan);
            let what = format!("{} to run containerd and kubelet", plan.name());
            let ready = || {
                let is_over = !process.is_running();
                (file.exists() || is_over).then_some(is_over)
            };
            if wait_until(&what, NODE_TIMEOUT, ready)? {
                bail!("{} ended: {}{}", plan.name(), process.stdout(), process.stderr());
            }
        }
        Ok(())
    }

    fn describe_cluster(&self) -> Result<Cluster> {
        let mut nodes = Vec::new();
        for (plan, _) in &self.nodes {
            let pid = fs::read_to_string(node::pid_file(&self.state, plan))?;
            nodes.push(RunningNode { name: plan.name(), pid: pid.trim().parse()? });
        }
        let outside = self.network.outside().namespace_path();
        Ok(Cluster { name: self.state.name.clone(), outside, nodes })
    }

    fn restart_ended(&mut self) {
        for program in SERVERS.into_iter().chain(CLIENTS) {
            let is_running =
                self.control_plane.get(program).is_some_and(|(process, _)| process.is_running());
            if is_running || self.stopped == Some(program) {
                continue;
            }
            eprintln!("{program} ended: starting it again");
            if let Err(error) = self.start(program) {
                eprintln!("{program}: {error:#}");
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<String> {
        match request {
            Request::ChangeLink { node, change } => {
                self.network.change(&self.lab, &node, &change)?;
                Ok(self.network.describe().join("\n"))
            }
            Request::RunApiServer(true) => {
                self.stopped = None;
                self.restart_ended();
                Ok(format!("{API_SERVER} is started"))
            }
            Request::RunApiServer(false) => {
                self.stopped = Some(API_SERVER);
                if let Some((process, _)) = self.control_plane.get(API_SERVER) {
                    process.kill();
                }
                Ok(format!("{API_SERVER} is killed"))
            }
            Request::Describe => Ok(self.describe()),
        }
    }

    fn describe(&self) -> String {
        let mut lines = Vec::new();
        for (program, (process, starts)) in &self.control_plane {
            let state = if process.is_running() { "runs" } else { "is down" };
            lines.push(format!("{program}: {state}, pid {}, starts {starts}", process.pid()));
        }
        for (plan, process) in &self.nodes {
            let state = if process.is_running() { "runs" } else { "is dead" };
            lines.push(format!("{}: {state}", plan.name()));
        }
        lines.extend(self.network.describe());
        lines.join("\n")
    }
}

/// Locks also after a panic elsewhere: the cluster is to be cleaned up all the same.
fn lock(supervisor: &Mutex<Supervisor>) -> MutexGuard<'_, Supervisor> {
    supervisor.lock().unwrap_or_else(PoisonError::into_inner)
}
