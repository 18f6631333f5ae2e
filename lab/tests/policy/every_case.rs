//! Network policy over real sockets: every case of the truth table, then what a table cannot say.
//! Slow: `scripts/policy` runs it.

mod bed;
#[allow(clippy::unwrap_used, reason = "a table that cannot be read fails the test")]
#[path = "../../../control/tests/policy_truth/cases.rs"]
mod cases;
mod change;
mod restart;
mod service;
mod small;
mod table;
mod traffic;

use anyhow::{Context, Result};
use weir_lab::{clock::Stopwatch, skipped};

use bed::Bed;
use cases::{Case, read_folder};

/// A part of a case's name with its file's, or of a check's: only these are run.
const ONLY: &str = "WEIR_POLICY_CASES";

type Check = fn(&mut Bed) -> Result<()>;

const CHECKS: [(&str, Check); 8] = [
    ("a transfer is cut, and goes on", |bed| change::check_transfer(bed)),
    ("from a label to its enforcement", |bed| change::measure_labels(bed)),
    ("a node and its own pods", |bed| small::check_own_node(bed)),
    ("audit by annotation", |bed| small::check_audit(bed)),
    ("services, by the client", |bed| service::check_ingress(bed)),
    ("services, by the backend", |bed| service::check_egress(bed)),
    ("a dataplane dies under default deny", restart::check_restart),
    ("reject", small::check_reject),
];

#[test]
fn every_case_over_real_sockets() {
    if skipped() {
        return;
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../dataplane/tests/policy");
    let (world, mut cases) = read_folder(folder.as_ref());
    let only = std::env::var(ONLY).unwrap_or_default();
    cases.retain(|case| case.name.contains(&only));
    let bed = Bed::new("policies", &world, &cases);
    let mut bed = bed.unwrap_or_else(|error| panic!("{error:#}"));
    let failures = run(&mut bed, &cases, &only);
    // Before the bed goes: it prints what its processes said.
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Everything, whatever fails before.
fn run(bed: &mut Bed, cases: &[Case], only: &str) -> Vec<String> {
    let mut failures = Vec::new();
    let mut note = |title: &str, outcome: Result<()>| {
        let outcome = outcome.context(title.to_owned());
        failures.extend(outcome.err().map(|error| format!("{error:#}")));
    };
    if !cases.is_empty() {
        note("the truth table", table::check_cases(bed, cases));
    }
    for (title, check) in CHECKS.into_iter().filter(|(title, _)| title.contains(only)) {
        let watch = Stopwatch::start();
        println!("--- {title}");
        let outcome = check(bed).and_then(|()| bed.apply(""));
        let word = if outcome.is_ok() { "good" } else { "FAILED" };
        println!("    {word}, {:.1} s", watch.elapsed().as_secs_f64());
        if let Err(error) = &outcome {
            println!("    {error:#}");
        }
        note(title, outcome);
    }
    failures
}
