//! `kubectl weir sysdump`: the nodes' archives in one, with the cluster's objects that are about
//! the network. No Secret is asked for, and of pods that are not weir's a table only.

use std::process::ExitCode;
use std::time::Duration;

use super::args::PluginFlags;
use super::kubectl::Kubectl;
use super::pods;
use super::show::ask_all;
use super::target::{self, Target};
use crate::cli::sysdump::{Archive, Collected, SysdumpArgs};
use crate::clock::Clock;

/// Of one node, with all that it has to run.
const NODE_TIMEOUT: Duration = Duration::from_secs(180);
/// Lines of each container's log.
const LOG_LINES: &str = "--tail=20000";

/// Objects of the whole cluster: the file, and what kubectl is asked for.
const OBJECTS: [(&str, &[&str]); 16] = [
    ("version.yaml", &["version", "-o", "yaml"]),
    ("nodes.yaml", &["get", "nodes", "-o", "yaml"]),
    ("namespaces.yaml", &["get", "namespaces", "-o", "yaml"]),
    ("pods.txt", &["get", "pods", "-A", "-o", "wide", "--show-labels"]),
    ("services.yaml", &["get", "services", "-A", "-o", "yaml"]),
    ("endpointslices.yaml", &["get", "endpointslices", "-A", "-o", "yaml"]),
    ("networkpolicies.yaml", &["get", "networkpolicies", "-A", "-o", "yaml"]),
    ("ciliumnetworkpolicies.yaml", &["get", "ciliumnetworkpolicies", "-A", "-o", "yaml"]),
    (
        "ciliumclusterwidenetworkpolicies.yaml",
        &["get", "ciliumclusterwidenetworkpolicies", "-o", "yaml"],
    ),
    ("ciliumcidrgroups.yaml", &["get", "ciliumcidrgroups", "-o", "yaml"]),
    ("clusternetworkpolicies.yaml", &["get", "clusternetworkpolicies", "-o", "yaml"]),
    ("loadbalancerpools.yaml", &["get", "loadbalancerpools.weir.dev", "-o", "yaml"]),
    ("customresourcedefinitions.txt", &["get", "customresourcedefinitions"]),
    ("leases.yaml", &["get", "leases", "-A", "-o", "yaml"]),
    ("ipaddresses.txt", &["get", "ipaddresses"]),
    ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp", "-o", "wide"]),
];

pub(super) async fn run(
    kubectl: &Kubectl,
    flags: &PluginFlags,
    args: &SysdumpArgs,
) -> anyhow::Result<ExitCode> {
    let node = match (&flags.node, &flags.pod) {
        (Some(node), _) => Some(node.clone()),
        (None, Some(pod)) => Some(pods::find_node(kubectl, pod).await?),
        (None, None) => None,
    };
    let targets = match &node {
        Some(node) => vec![target::find(kubectl, node).await?],
        None => target::find_all(kubectl).await?,
    };
    let of = node.as_deref().unwrap_or("cluster");
    let destination = args.destination(of);
    let mut archive = Archive::new(destination.open()?, args.limit_mb * 1_000_000);
    for (path, words) in OBJECTS {
        archive.add(&format!("cluster/{path}"), collect(kubectl, words).await)?;
    }
    add_own_objects(kubectl, &mut archive).await?;
    for target in &targets {
        add_logs(kubectl, &mut archive, target).await?;
    }
    let patient = kubectl.with_timeout(NODE_TIMEOUT);
    let limit = format!("--limit-mb={}", args.limit_mb);
    let remote =
        ["sysdump".into(), "-f".into(), "-".into(), limit, format!("--flows={}", args.flows)];
    let answers = ask_all(targets, |target| {
        let (kubectl, remote) = (patient.clone(), remote.to_vec());
        async move { Ok(collect_node(&kubectl, &target, &remote).await) }
    });
    for (target, answer) in answers.await {
        archive.merge(&format!("nodes/{}", target.node), answer?)?;
    }
    destination.tell(&archive.finish(of)?);
    Ok(ExitCode::SUCCESS)
}

/// Weir's own objects, with their conditions and events.
async fn add_own_objects(kubectl: &Kubectl, archive: &mut Archive) -> anyhow::Result<()> {
    let namespace = kubectl.namespace.clone();
    let select = "app.kubernetes.io/name=weir";
    let kinds = "daemonsets,deployments,pods,configmaps,serviceaccounts";
    let own = ["-n", &namespace, "get", kinds, "-l", select, "-o", "yaml"];
    archive.add("weir/objects.yaml", collect(kubectl, &own).await)?;
    for kind in ["daemonsets", "deployments", "pods"] {
        let words = ["-n", &namespace, "describe", kind, "-l", select];
        archive.add(&format!("weir/{kind}.txt"), collect(kubectl, &words).await)?;
    }
    let roles = ["get", "clusterroles,clusterrolebindings", "-l", select, "-o", "yaml"];
    archive.add("weir/roles.yaml", collect(kubectl, &roles).await)?;
    let words = ["-n", &namespace, "logs", "-l", "app.kubernetes.io/component=operator"];
    let words = [&words[..], &["--all-containers", "--prefix", "--timestamps", LOG_LINES]].concat();
    archive.add("logs/operator.log", collect(kubectl, &words).await)
}

/// The logs of a node's weir pod, of its containers and of those before them.
async fn add_logs(kubectl: &Kubectl, archive: &mut Archive, target: &Target) -> anyhow::Result<()> {
    for container in ["dataplane", "agent"] {
        for (suffix, previous) in [("log", &[][..]), ("previous.log", &["--previous"])] {
            let words = ["-n", &kubectl.namespace, "logs", &target.pod, "-c", container];
            let words = [&words[..], &["--timestamps", LOG_LINES], previous].concat();
            let mut item = collect(kubectl, &words).await;
            // A container that has never ended has no log before this one.
            let is_first = item.error.as_ref().is_some_and(|it| it.contains("previous terminated"));
            if is_first && !previous.is_empty() {
                item.note = "the container has not been restarted".into();
                item.error = None;
            }
            let path = format!("logs/{}/{container}.{suffix}", target.node);
            archive.add(&path, item)?;
        }
    }
    Ok(())
}

/// What kubectl prints. What goes wrong is in the result.
async fn collect(kubectl: &Kubectl, words: &[&str]) -> Collected {
    let clock = Clock::start();
    let (content, error) = match kubectl.call(words).await {
        Err(error) => (Vec::new(), Some(error.to_string())),
        Ok(said) if said.status.success() => (said.stdout, None),
        Ok(mut said) => {
            (std::mem::take(&mut said.stdout), Some(said.into_error(words).to_string()))
        }
    };
    let source = format!("kubectl {}", words.join(" "));
    Collected { source, content, took_ms: elapsed_ms(clock), error, ..Collected::default() }
}

async fn collect_node(kubectl: &Kubectl, target: &Target, remote: &[String]) -> Collected {
    let clock = Clock::start();
    let (content, error) = match target.call(kubectl, remote).await {
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        Ok(said) if said.status.success() => (said.stdout, None),
        Ok(mut said) => {
            let content = std::mem::take(&mut said.stdout);
            (content, Some(format!("{:#}", target.explain(said))))
        }
    };
    let source = format!("weir sysdump in pod {}", target.pod);
    Collected { source, content, took_ms: elapsed_ms(clock), error, ..Collected::default() }
}

fn elapsed_ms(clock: Clock) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}
