//! The flags of `kubectl weir`, beside those of `weir`.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::cli::Cli;

/// The namespace that weir is installed in, unless told otherwise.
pub(super) const NAMESPACE: &str = "weir-system";

/// weir on the nodes of a cluster, through kubectl.
///
/// Without --node or --pod every node is asked. `maglev`, `policy check` and `policy diff` run
/// here.
#[derive(Debug, Parser)]
#[command(name = "kubectl-weir", bin_name = "kubectl weir", version)]
pub struct PluginCli {
    #[command(flatten)]
    pub(super) plugin: PluginFlags,
    #[command(flatten)]
    pub(super) weir: Cli,
}

/// Where to run it, and how kubectl reaches the cluster. A flag that a command has itself (`weir
/// up`) is of the same type here, because clap takes it for the same.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct PluginFlags {
    /// Ask weir on this node.
    #[arg(long, global = true, value_name = "NAME")]
    #[arg(conflicts_with = "pod")]
    pub node: Option<String>,
    /// Ask weir on the node of this pod.
    #[arg(long, global = true, value_name = "NAMESPACE/NAME")]
    pub pod: Option<String>,
    /// The namespace of weir's pods.
    #[arg(long, short = 'n', global = true, default_value = NAMESPACE)]
    #[arg(value_name = "NAMESPACE")]
    pub namespace: String,
    /// The kubeconfig's context to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Path of the kubeconfig.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// How long a node may take to answer.
    #[arg(long, global = true, default_value_t = 30)]
    #[arg(value_name = "SECONDS")]
    pub node_timeout: u64,
}

/// Those that take a value, as they are typed.
const FLAGS: [&str; 7] =
    ["--node", "--pod", "--namespace", "-n", "--context", "--kubeconfig", "--node-timeout"];

/// The words without the plugin's flags: what the node's `weir` is given.
pub(super) fn split_flags(words: &[String]) -> Vec<String> {
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word.clone());
            rest.extend(words.cloned());
            break;
        }
        if FLAGS.contains(&word.as_str()) {
            words.next();
            continue;
        }
        let name = word.split_once('=').map_or(word.as_str(), |(name, _)| name);
        let is_short = word.starts_with("-n") && !word.starts_with("--");
        if !FLAGS.contains(&name) && !is_short {
            rest.push(word.clone());
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_node_is_given_what_is_not_for_kubectl() {
        PluginCli::command().debug_assert();
        let split = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            split_flags(&words).join(" ")
        };
        assert_eq!(split("status --node worker-1 -o json"), "status -o json");
        assert_eq!(split("--pod=a/b -n weir flow list --limit 5"), "flow list --limit 5");
        assert_eq!(split("-nweir --context=x drops --all --kubeconfig f"), "drops --all");
        assert_eq!(split("policy show a/b --node-timeout 3"), "policy show a/b");
        let cli = PluginCli::parse_from(["kubectl-weir", "drops", "-n", "x", "--node=y", "--all"]);
        assert_eq!((cli.plugin.namespace.as_str(), cli.plugin.node.as_deref()), ("x", Some("y")));
    }
}
