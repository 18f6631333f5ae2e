//! The answers of all nodes, together.

use std::collections::BTreeMap;
use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use tokio::task::JoinSet;

use super::kubectl::{Kubectl, Said};
use super::target::Target;
use crate::cli::endpoints::endpoint_table;
use crate::cli::json::{self, Endpoint, Finding, Severity, State, Status};
use crate::cli::status::{StatusArgs, findings_lines, headline};
use crate::cli::table::Columns;
use crate::cli::{Output, print_json};

/// Asks all at the same time, and gives the answers in the order of the targets.
pub(super) async fn ask_all<T, F>(
    targets: Vec<Target>,
    ask: impl Fn(Target) -> F,
) -> Vec<(Target, anyhow::Result<T>)>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (at, target) in targets.iter().enumerate() {
        let answer = ask(target.clone());
        tasks.spawn(async move { (at, answer.await) });
    }
    let mut answers: BTreeMap<usize, anyhow::Result<T>> = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (at, answer) = done.expect("no task panics or is cancelled");
        answers.insert(at, answer);
    }
    targets.into_iter().zip(answers.into_values()).collect()
}

/// What the nodes print, whatever their exit status.
async fn call_all(
    kubectl: &Kubectl,
    targets: Vec<Target>,
    remote: Vec<String>,
) -> Vec<(Target, anyhow::Result<Said>)> {
    ask_all(targets, |target| {
        let (kubectl, remote) = (kubectl.clone(), remote.clone());
        async move { target.call(&kubectl, &remote).await }
    })
    .await
}

/// Asks for JSON, whatever was asked for.
fn as_json(remote: &[String]) -> Vec<String> {
    let mut words: Vec<String> = vec!["-o".into(), "json".into()];
    let mut given = remote.iter();
    while let Some(word) = given.next() {
        match word.as_str() {
            "-o" | "--output" => drop(given.next()),
            "--brief" => {}
            it if it.starts_with("-o") || it.starts_with("--output=") => {}
            it => words.push(it.to_owned()),
        }
    }
    words
}

/// Reads what a node printed; where that is nothing, what it said instead.
fn parse<T: serde::de::DeserializeOwned>(target: &Target, said: Said) -> anyhow::Result<T> {
    if said.stdout.is_empty() {
        return Err(target.explain(said));
    }
    serde_json::from_slice(&said.stdout).context("weir there prints something else than JSON")
}

/// `kubectl weir status`: one line per node, then what is wrong on those that are not healthy.
pub(super) async fn status(
    kubectl: &Kubectl,
    targets: Vec<Target>,
    output: Output,
    args: &StatusArgs,
    remote: &[String],
) -> anyhow::Result<ExitCode> {
    // A node that waits takes that much longer to answer.
    let patience = kubectl.timeout + std::time::Duration::from_secs(args.wait);
    let answers = call_all(&kubectl.with_timeout(patience), targets, as_json(remote)).await;
    let read = |(target, answer): (Target, anyhow::Result<Said>)| {
        let status = answer.and_then(|said| parse::<Status>(&target, said));
        let mut status = status.unwrap_or_else(|error| unreachable_status(&error));
        // As the cluster names it.
        status.node.clone_from(&target.node);
        status
    };
    let all: Vec<Status> = answers.into_iter().map(read).collect();
    let worst = all.iter().map(|it| it.state).max().unwrap_or_default();
    match output {
        Output::Json => print_json(&all)?,
        Output::Table => print_statuses(&all, args.brief),
    }
    Ok(ExitCode::from(worst.exit_status()))
}

fn unreachable_status(error: &anyhow::Error) -> Status {
    let reason = format!("{error:#}");
    let finding =
        Finding { severity: Severity::Unreachable, subject: "weir".into(), reason: reason.clone() };
    Status {
        state: State::Unreachable,
        findings: vec![finding],
        errors: vec![reason],
        ..Status::default()
    }
}

fn print_statuses(all: &[Status], is_brief: bool) {
    let titles =
        ["node", "state", "agent", "dataplane", ">revision", ">pods", ">flows", ">findings"];
    let mut columns = Columns::new(&titles);
    let dash = || "-".to_owned();
    for it in all {
        let (agent, dataplane) = (it.agent.as_ref(), it.dataplane.as_ref());
        let flows = |it: &json::Dataplane| it.workers.iter().map(|it| it.flows).sum::<u64>();
        columns.add([
            it.node.clone(),
            it.state.to_string(),
            agent.map_or_else(dash, |it| it.version.clone()),
            dataplane.map_or_else(dash, |it| it.version.clone()),
            dataplane.map_or_else(dash, |it| it.snapshot_revision.to_string()),
            agent.map_or_else(dash, |it| it.endpoints.to_string()),
            dataplane.map_or_else(dash, |it| flows(it).to_string()),
            it.findings.len().to_string(),
        ]);
    }
    columns.print("no nodes");
    for it in all.iter().filter(|it| !is_brief && it.state != State::Healthy) {
        println!("\n{}", headline(it));
        for line in findings_lines(&it.findings) {
            println!("  {line}");
        }
    }
}

/// `kubectl weir endpoint list`: the pods of all nodes in one table.
pub(super) async fn endpoints(
    kubectl: &Kubectl,
    targets: Vec<Target>,
    remote: &[String],
) -> anyhow::Result<ExitCode> {
    let answers = call_all(kubectl, targets, as_json(remote)).await;
    let mut by_node: Vec<(String, Vec<Endpoint>)> = Vec::new();
    let mut failures = Vec::new();
    for (target, answer) in answers {
        match answer.and_then(|said| parse(&target, said)) {
            Ok(endpoints) => by_node.push((target.node, endpoints)),
            Err(error) => failures.push((target.node, error)),
        }
    }
    let rows = by_node
        .iter()
        .flat_map(|(node, endpoints)| endpoints.iter().map(move |it| (Some(node.as_str()), it)));
    endpoint_table(rows).print("no endpoints");
    Ok(tell_failures(&failures))
}

/// Any command as JSON: an object with the answer of each node under its name.
pub(super) async fn json(
    kubectl: &Kubectl,
    targets: Vec<Target>,
    remote: &[String],
) -> anyhow::Result<ExitCode> {
    let answers = call_all(kubectl, targets, as_json(remote)).await;
    let mut by_node: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    let mut failures = Vec::new();
    for (target, answer) in answers {
        match answer.and_then(|said| parse(&target, said)) {
            Ok(value) => drop(by_node.insert(target.node, value)),
            Err(error) => failures.push((target.node, error)),
        }
    }
    print_json(&by_node)?;
    Ok(tell_failures(&failures))
}

/// Any command as text, each node's under its name.
pub(super) async fn text(
    kubectl: &Kubectl,
    targets: Vec<Target>,
    remote: &[String],
) -> anyhow::Result<ExitCode> {
    let answers = call_all(kubectl, targets, remote.to_vec()).await;
    let mut failures = Vec::new();
    for (at, (target, answer)) in answers.into_iter().enumerate() {
        let gap = if at == 0 { "" } else { "\n" };
        match answer {
            Ok(said) if said.status.success() => {
                println!("{gap}==> {} <==", target.node);
                print!("{}", String::from_utf8_lossy(&said.stdout));
                if !said.stderr.is_empty() {
                    eprintln!("{}: {}", target.node, said.stderr);
                }
            }
            Ok(said) => {
                let error = target.explain(said);
                failures.push((target.node, error));
            }
            Err(error) => failures.push((target.node, error)),
        }
    }
    Ok(tell_failures(&failures))
}

fn tell_failures(failures: &[(String, anyhow::Error)]) -> ExitCode {
    for (node, error) in failures {
        eprintln!("error: {node}: {error:#}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
