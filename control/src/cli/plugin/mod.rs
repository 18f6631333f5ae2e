//! `kubectl weir`: the same commands, run by the weir pods of nodes.
//!
//! The binary is `weir` itself under the name `kubectl-weir`. It calls `kubectl`, as plugins do, so
//! that the user's kubeconfig, context and login work as they always do.

mod args;
mod kubectl;
mod pods;
mod show;
mod sysdump;
mod target;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Parser;

pub use args::PluginCli;

use self::args::split_flags;
use self::kubectl::Kubectl;
use self::target::Target;
use super::{Command, EndpointCommand, Output, PolicyCommand};

/// Whether the program was started as kubectl's plugin.
#[must_use]
pub fn is_plugin(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    name.is_some_and(|it| it == "kubectl-weir" || it.starts_with("kubectl-weir."))
}

/// Runs what was typed after `kubectl`, the program's name first.
///
/// # Errors
/// For people: what failed, where, and what to do.
pub async fn run_plugin(words: Vec<String>) -> anyhow::Result<ExitCode> {
    let cli = PluginCli::parse_from(&words);
    let remote = split_flags(words.get(1..).unwrap_or_default());
    let (flags, output) = (cli.plugin, cli.weir.output);
    let needs_one = match &cli.weir.command {
        Command::Up(_) => bail!("weir up runs on a node itself, not through kubectl"),
        Command::Maglev(_) | Command::Policy(PolicyCommand::Check(_) | PolicyCommand::Diff(_)) => {
            return super::run(cli.weir).await;
        }
        Command::Endpoint(EndpointCommand::Attach { .. } | EndpointCommand::Detach { .. }) => true,
        _ => false,
    };
    let kubectl = Kubectl::new(&flags);
    if let Command::Sysdump(args) = &cli.weir.command {
        return sysdump::run(&kubectl, &flags, args).await;
    }
    // A pod that is asked about says where to ask.
    let pod = match (&flags.pod, &cli.weir.command) {
        (None, Command::Policy(PolicyCommand::Show { endpoint })) if flags.node.is_none() => {
            endpoint.clone()
        }
        (pod, _) => pod.clone(),
    };
    let node = match (flags.node, pod) {
        (Some(node), _) => Some(node),
        (None, Some(pod)) => Some(pods::find_node(&kubectl, &pod).await?),
        (None, None) => None,
    };
    if let Some(node) = node {
        let target = target::find(&kubectl, &node).await?;
        return target.run(&kubectl, &remote).await;
    }
    if needs_one {
        return Err(anyhow!("say on which node: --node NAME, or --pod NAMESPACE/NAME"));
    }
    run_everywhere(&kubectl, &cli.weir.command, output, &remote).await
}

/// Asks all nodes, and shows the answers together.
async fn run_everywhere(
    kubectl: &Kubectl,
    command: &Command,
    output: Output,
    remote: &[String],
) -> anyhow::Result<ExitCode> {
    let targets: Vec<Target> = target::find_all(kubectl).await?;
    let is_list = matches!(command, Command::Endpoint(EndpointCommand::List));
    match (command, output) {
        (Command::Status(args), _) => show::status(kubectl, targets, output, args, remote).await,
        (_, Output::Table) if is_list => show::endpoints(kubectl, targets, remote).await,
        (_, Output::Json) => show::json(kubectl, targets, remote).await,
        (_, Output::Table) => show::text(kubectl, targets, remote).await,
    }
}
