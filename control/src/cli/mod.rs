//! What people type: arguments as given here, work in the modules.

mod agent_args;
mod cni_args;
mod endpoints;
mod human;
mod json;
mod lb_args;
mod locate;
mod maglev;
mod plugin;
mod policy_args;
mod policy_check;
mod policy_diff;
mod policy_show;
mod show;
mod snat;
mod status;
mod sysdump;
mod table;
mod up;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use weir_api::paths::{Paths, RUN_DIR};
use weir_api::v1::AttachEndpointRequest;

pub use agent_args::{AgentArgs, AgentCommand, init_logging};
pub use lb_args::{DsrDispatchArg, LoadBalancerArgs, Seed, TableSize};
pub use maglev::{BackendArg, MaglevArgs, format_maglev};
pub use plugin::{PluginCli, is_plugin, run_plugin};
pub use policy_args::PolicyArgs;
pub use policy_check::CheckArgs;
pub use policy_diff::DiffArgs;
pub use status::StatusArgs;
pub use sysdump::SysdumpArgs;
pub use up::{UpArgs, run_up};

/// A Kubernetes network dataplane in userspace.
#[derive(Debug, Parser)]
#[command(name = "weir", version)]
pub struct Cli {
    /// Folder of the sockets.
    #[arg(long, global = true, default_value = RUN_DIR, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// How to print: a table for people, or JSON with stable names.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// One JSON document.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the dataplane and the agent, from a directory of manifests or the API server.
    Up(Box<UpArgs>),
    Status(StatusArgs),
    /// The services and their backends.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// The flows that the dataplane tracks.
    #[command(subcommand)]
    Flow(FlowCommand),
    /// The source ports of the node, which flows that leave it share.
    #[command(subcommand)]
    Snat(SnatCommand),
    /// The pods attached to this node.
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Print the Maglev table of some backends; needs no dataplane.
    Maglev(MaglevArgs),
    /// Network policy: what it allows and denies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Packets dropped, by reason, and what policy denied last.
    Drops {
        /// Also the reasons that never occurred.
        #[arg(long)]
        all: bool,
    },
    Sysdump(SysdumpArgs),
}

/// `weir service`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// List every address and port with its backends.
    List,
}

/// `weir flow`.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// List flows.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: u32,
    },
}

/// `weir snat`.
#[derive(Debug, Subcommand)]
pub enum SnatCommand {
    /// List the remotes and the clients with the most flows: who exhausts the ports.
    Top {
        /// At most this many of each.
        #[arg(long, default_value_t = 10, value_name = "N")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}

/// `weir policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// What this node enforces: at all pods, or at one of them with every rule.
    Show {
        /// namespace/name of a pod.
        endpoint: Option<String>,
    },
    /// Ask whether a connection may be opened, of manifests alone.
    Check(Box<CheckArgs>),
    /// Which connections a change of manifests opens and closes.
    Diff(Box<DiffArgs>),
}

/// `weir endpoint`.
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Attach a pod's interface; the same call twice changes nothing.
    Attach {
        /// namespace/name of the pod.
        name: String,
        /// Host side of the pod's veth pair.
        #[arg(long, value_name = "IF")]
        interface: String,
        /// MAC address of the interface inside the pod.
        #[arg(long)]
        mac: String,
        /// Address of the pod; once per address.
        #[arg(long = "address", required = true, value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Detach a pod.
    Detach {
        /// namespace/name of the pod.
        name: String,
    },
    /// List the attached pods.
    List,
}

/// Prints an error as people read it: its message, without a backtrace.
#[must_use]
pub fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Runs what was typed. Some commands answer by their exit status, too.
///
/// # Errors
/// For people: what failed, where, and what to do.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let paths = Paths { run_dir: cli.run_dir, ..Paths::default() };
    let output = cli.output;
    match cli.command {
        Command::Up(args) => run_up(*args, paths.run_dir).await,
        Command::Maglev(args) => maglev::run(&args, output),
        Command::Status(args) => return status::run(&paths, output, &args).await,
        Command::Service(ServiceCommand::List) => show::services(&paths, output).await,
        Command::Flow(FlowCommand::List { limit }) => show::flows(&paths, output, limit).await,
        Command::Sysdump(args) => return sysdump::run(&paths, &args).await,
        Command::Snat(SnatCommand::Top { limit }) => snat::top(&paths, output, limit).await,
        Command::Policy(PolicyCommand::Show { endpoint }) => {
            policy_show::show(&paths, output, endpoint).await
        }
        Command::Policy(PolicyCommand::Check(args)) => return args.run(),
        Command::Policy(PolicyCommand::Diff(args)) => return args.run(),
        Command::Drops { all } => policy_show::drops(&paths, output, all).await,
        Command::Endpoint(EndpointCommand::List) => endpoints::list(&paths, output).await,
        Command::Endpoint(EndpointCommand::Detach { name }) => {
            show::detach(&paths, output, name).await
        }
        Command::Endpoint(EndpointCommand::Attach { name, interface, mac, addresses }) => {
            let addresses = addresses.iter().map(ToString::to_string).collect();
            let request = AttachEndpointRequest {
                name,
                interface,
                mac,
                addresses,
                ..AttachEndpointRequest::default()
            };
            show::attach(&paths, output, request).await
        }
    }?;
    Ok(ExitCode::SUCCESS)
}
