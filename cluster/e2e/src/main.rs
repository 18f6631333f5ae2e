//! `weir-e2e`: upstream's own network tests, and scenarios of weir's own, on a cluster whose only
//! network is weir. `scripts/e2e` builds and runs it; docs/e2e.md has the results.

mod build;
mod cases;
mod cluster;
mod known;
mod report;
mod results;
mod run;
mod scenario;
mod schedule;
mod table;

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use regex::Regex;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use cases::{Case, Environment, Group};
use cluster::{Cluster, output_of};
use results::{Outcome, Record, Results};
use run::Runner;
use schedule::Schedule;
use table::Account;

/// Upstream's network tests and weir's own scenarios on a real cluster
#[derive(Parser)]
#[command(name = "scripts/e2e")]
struct Arguments {
    /// A chosen subset that takes at most 20 minutes
    #[arg(long)]
    quick: bool,
    /// Of the cluster, so that it is nobody else's
    #[arg(long, default_value = "e2e")]
    name: String,
    /// Of the cluster; several cases need three
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Only these groups
    #[arg(long, num_args = 1..)]
    group: Vec<Group>,
    /// Only cases whose text this regular expression matches
    #[arg(long)]
    focus: Option<Regex>,
    /// Leave out what passed with another build of weir too; without it, only with this one
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    /// Run everything again
    #[arg(long)]
    fresh: bool,
    /// Leave the cluster up
    #[arg(long)]
    keep: bool,
    /// Of weir, for a cluster that has to be started
    #[arg(long)]
    image_tar: Option<PathBuf>,
    /// Use the cluster that is up, whatever it runs, and leave it up
    #[arg(long)]
    reuse: bool,
    /// Cases at one time
    #[arg(long, default_value_t = 3)]
    parallel: usize,
    /// Print the cases, and run nothing
    #[arg(long)]
    list: bool,
    /// Run this scenario instead
    #[arg(long)]
    scenario: Option<scenario::Name>,
    #[command(flatten)]
    options: scenario::Options,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked for; whether nothing unexpected happened.
fn run(arguments: &Arguments) -> Result<bool> {
    let cluster = Cluster::new(&arguments.name)?;
    if arguments.list {
        for case in choose(arguments)? {
            println!("{:<13} {}", case.group, case.short_name());
        }
        return Ok(true);
    }
    let build = if arguments.reuse {
        cluster.build()?
    } else {
        let build = build::identify(&cluster.root)?;
        cluster.up(arguments.nodes, &build, arguments.image_tar.as_deref())?;
        build
    };
    let result = match arguments.scenario {
        Some(name) => scenario::run(name, &arguments.options, &cluster).map(|()| true),
        None => run_cases(arguments, &cluster, &build),
    };
    if !arguments.keep && !arguments.reuse {
        cluster.down()?;
    }
    result
}

/// Runs the cases that were asked for.
fn run_cases(arguments: &Arguments, cluster: &Cluster, build: &str) -> Result<bool> {
    let folder = Cluster::cache()?.join("e2e");
    let cases = choose(arguments)?;
    let mut results = Results::open(&folder.join("results.jsonl"))?;
    println!("weir {build}, {} nodes, {} cases", arguments.nodes, cases.len());
    let environment = Environment { nodes: arguments.nodes, kernel_has_sctp: has_sctp() };
    let waiting = set_aside(arguments, environment, &cases, &mut results, build)?;
    let runner =
        Runner { cluster: cluster.clone(), logs: folder.join("logs"), interrupted: listen()? };
    let mut schedule = Schedule {
        runner: &runner,
        results: &mut results,
        build: build.into(),
        nodes: arguments.nodes,
        parallel: arguments.parallel.max(1),
        progress: (0, 0),
    };
    schedule.run(&waiting)?;
    let known = known::read_known()?;
    let account = Account { cases: &cases, results: &results, known: &known, build };
    let text = account.describe();
    println!("\n{text}\nlogs: {}", runner.logs.display());
    let table: PathBuf = folder.join("table.txt");
    fs::write(&table, text).with_context(|| table.display().to_string())?;
    Ok(account.unexpected().is_empty() && !runner.interrupted.load(Ordering::Relaxed))
}

/// The cases that were asked for.
fn choose(arguments: &Arguments) -> Result<Vec<Case>> {
    let mut list = Command::new(Cluster::built("e2e.test")?);
    let cases = cases::read_list(&output_of(list.arg("--list-tests"))?)?;
    let is_wanted = |case: &Case| {
        let focus = arguments.focus.as_ref().is_none_or(|focus| focus.is_match(&case.name));
        let group = arguments.group.is_empty() || arguments.group.contains(&case.group);
        focus && group && (!arguments.quick || case.is_quick())
    };
    let cases: Vec<Case> = cases.into_iter().filter(is_wanted).collect();
    ensure!(!cases.is_empty(), "no case is in these groups and matches");
    Ok(cases)
}

/// Records what cannot run here, and gives what is to be run.
fn set_aside(
    arguments: &Arguments,
    environment: Environment,
    cases: &[Case],
    results: &mut Results,
    build: &str,
) -> Result<Vec<Case>> {
    let mut waiting = Vec::new();
    for case in cases {
        let record = results.find(&case.name);
        let is_done = record.is_some_and(|record| {
            let same = record.build == build && record.nodes == arguments.nodes;
            record.outcome == Outcome::Passed && (same || arguments.resume)
        });
        if let Some(reason) = case.exclusion(environment) {
            results.add(Record {
                case: case.name.clone(),
                group: case.group.to_string(),
                outcome: Outcome::Skipped,
                reason,
                seconds: 0.0,
                tries: 0,
                build: build.into(),
                nodes: arguments.nodes,
            })?;
        } else if arguments.fresh || !is_done {
            waiting.push(case.clone());
        }
    }
    Ok(waiting)
}

/// Whether this kernel makes SCTP sockets.
fn has_sctp() -> bool {
    socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP)).is_ok()
}

/// Set when somebody wants this to end: results stay, the cluster goes.
fn listen() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).context("a signal handler")?;
    }
    Ok(interrupted)
}
