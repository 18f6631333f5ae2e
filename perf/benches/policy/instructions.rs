//! Instructions, counted by valgrind: they are the same on a busy machine.

use std::env;
use std::fs;
use std::hint::black_box;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use weir_perf::samples::Options;

use crate::packets;
use crate::verdict::{self, FEW, MANY, PEERS};

/// What the process that valgrind runs has to do: number of rules and kind of peer, or what
/// [`packets`] says.
pub const CASE: &str = "WEIR_POLICY_CASE";

/// What is counted: the questions of one case, once.
pub fn run(case: &str) {
    if let Some(case) = case.strip_prefix(packets::CASE) {
        return packets::run(case);
    }
    let (rules, kind) = case.split_once(' ').expect("rules and a kind of peer");
    let snapshot = verdict::snapshot(rules.parse().expect("a number of rules"));
    let (_, peer) = PEERS.into_iter().find(|(name, _)| *name == kind).expect("a kind of peer");
    black_box(verdict::judge_all(&snapshot, &verdict::questions(peer)));
}

pub fn measure(options: &Options) {
    let heading = "instructions of a verdict, 10,000 identities";
    if !options.wants(heading) {
        return;
    }
    if !is_possible(heading) {
        return;
    }
    println!("{heading} (valgrind)");
    for (kind, _) in PEERS {
        let per_verdict = |rules| {
            let all = count(&format!("{rules} {kind}"), "*judge_all*")?;
            anyhow::Ok(all / verdict::questions(PEERS[0].1).len() as f64)
        };
        match (per_verdict(FEW), per_verdict(MANY)) {
            (Ok(few), Ok(many)) => {
                let ratio = many / few;
                println!(
                    "  {kind:10}  {FEW} rules {few:7.1}  {MANY} rules {many:7.1}  ratio {ratio:.3}"
                );
            }
            (Err(error), _) | (_, Err(error)) => println!("  {kind}: {error:#}"),
        }
    }
    println!();
}

/// Whether valgrind is there; says so if not.
pub fn is_possible(heading: &str) -> bool {
    let is_there = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        println!("SKIPPED {heading}: valgrind is not installed\n");
    }
    is_there
}

/// Instructions of a case within a function.
pub fn count(case: &str, function: &str) -> Result<f64> {
    let out = env::temp_dir().join(format!("weir-policy-{}", std::process::id()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={function}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .env(CASE, case)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("valgrind")?;
    anyhow::ensure!(run.success(), "valgrind: {run}");
    let text = fs::read_to_string(&out)?;
    fs::remove_file(&out)?;
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(totals.context("no totals in what callgrind wrote")?.trim().parse()?)
}
