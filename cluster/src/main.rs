//! `weir-cluster`: a real Kubernetes on one machine. etcd and the control plane are plain processes
//! in one network namespace; each node has namespaces of its own, with its own containerd and
//! kubelet. `scripts/cluster` builds and runs it; cluster/README.md says how it works.

use std::{
    ffi::OsString,
    io::Write,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use weir_cluster::{
    cluster::Cluster,
    leftovers, load,
    network::LinkChange,
    node_init,
    paths::{self, State},
    plan,
    supervisor::{self, Request},
    up,
};

/// A real Kubernetes on one machine
#[derive(Parser)]
#[command(name = "scripts/cluster")]
struct Arguments {
    /// Of the cluster: several can be up at once
    #[arg(long, global = true, default_value = "weir")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts a cluster
    Up(up::Options),
    /// Ends it and removes everything, also after a crash
    Down,
    /// What runs, and how the links are
    Status,
    /// kubectl, as administrator
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// helm
    #[command(disable_help_flag = true)]
    Helm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs a program on a node
    Exec {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Runs a program beside the control plane, outside the cluster, with KUBECONFIG set
    Run {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Imports an archive of images into every node
    Load { archive: PathBuf },
    /// Makes the link of a node bad, or good again
    Link {
        node: String,
        #[command(flatten)]
        change: LinkChange,
    },
    /// Kills the API server, or starts it again
    ControlPlane {
        #[command(subcommand)]
        verb: ControlPlaneVerb,
    },
    /// Something about one node
    Node {
        #[command(subcommand)]
        verb: NodeVerb,
    },
    #[command(hide = true)]
    Supervise,
    #[command(hide = true)]
    NodeInit { spec: PathBuf },
}

#[derive(Subcommand)]
enum ControlPlaneVerb {
    Stop,
    Start,
}

#[derive(Subcommand)]
enum NodeVerb {
    /// Kills containerd, which starts again; pods run on
    RestartContainerd { node: String },
    /// Kills kubelet, which starts again
    RestartKubelet { node: String },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&State::of(&arguments.name), arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(state: &State, verb: Verb) -> Result<()> {
    let find = || Cluster::find(state);
    let tell = |request| supervisor::ask(state, &request).map(|answer| print(&answer));
    match verb {
        Verb::Up(options) => up::run(state, &options),
        Verb::Down => {
            plan::check_name(&state.name)?;
            leftovers::remove(state)
        }
        Verb::Status => print_status(state),
        Verb::Kubectl { arguments } => become_program(find()?.kubectl()?.args(arguments)),
        Verb::Helm { arguments } => {
            become_program(find()?.outside_command(paths::program("helm")?).args(arguments))
        }
        Verb::Exec { node, command } => {
            let (program, arguments) = command.split_first().context("no command")?;
            become_program(find()?.node(&node)?.command(program).args(arguments))
        }
        Verb::Run { command } => {
            let (program, arguments) = command.split_first().context("no command")?;
            become_program(find()?.outside_command(program).args(arguments))
        }
        Verb::Load { archive } => load::load(&find()?, &archive),
        Verb::Link { node, change } => tell(Request::ChangeLink { node, change }),
        Verb::ControlPlane { verb } => {
            tell(Request::RunApiServer(matches!(verb, ControlPlaneVerb::Start)))
        }
        Verb::Node { verb: NodeVerb::RestartContainerd { node } } => {
            find()?.node(&node)?.kill_program("containerd")
        }
        Verb::Node { verb: NodeVerb::RestartKubelet { node } } => {
            find()?.node(&node)?.kill_program("kubelet")
        }
        Verb::Supervise => supervisor::run(state),
        Verb::NodeInit { spec } => node_init::run(&spec),
    }
}

/// Replaces this process, so that signals and exit status are the program's own.
fn become_program(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", command.get_program().display()))
}

fn print_status(state: &State) -> Result<()> {
    let cluster = Cluster::find(state)?;
    let mut text = format!("state: {}\n", state.folder.display());
    text += &format!("control plane: network namespace {}\n", cluster.outside.display());
    for node in &cluster.nodes {
        text += &format!("{}: first process {}\n", node.name, node.pid);
    }
    text += &supervisor::ask(state, &Request::Describe)?;
    let nodes = cluster.ask(&["get", "nodes", "-o", "wide", "--request-timeout=5s"]);
    text += &format!("\n{}", nodes.unwrap_or_else(|error| format!("{error:#}")));
    print(&text);
    Ok(())
}

/// Whoever reads may have gone; that is no error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}
