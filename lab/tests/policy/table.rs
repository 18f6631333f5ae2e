//! Cases of the truth table over real sockets: what the file says, what `weir policy check` says
//! and what packets do must be the same.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_lab::{
    clock::Stopwatch,
    probe::{Answer, Outcome, Question},
};

use crate::{
    bed::{Bed, name_protocol},
    cases::{Case, Ends, Line, Wanted},
};

/// How long a question may take that is denied.
const TIMEOUT: Duration = Duration::from_millis(700);
/// The same for one that should pass and did not: this machine may be busy.
const SECOND_TIMEOUT: Duration = Duration::from_secs(3);
/// For all questions at once.
const ALL_TIMEOUT: Duration = Duration::from_secs(6);

/// Mismatches that are explained in full.
const EXPLAINED_MAX: usize = 12;

/// A question, and what is said about it.
struct Probe<'c> {
    line: &'c Line,
    question: Question,
    /// What the file says; `None`: it speaks of the other family.
    written: Option<bool>,
}

/// What came of all cases.
#[derive(Default)]
pub struct Summary {
    cases: usize,
    /// By sockets, both families.
    asked: usize,
    passed: usize,
    /// Of the family that the file does not speak of.
    mirrored: usize,
    /// Where the file's verdict is another one than that of the other family.
    family_matters: usize,
    late: usize,
    mismatches: Vec<String>,
    revision_ms: Vec<u64>,
}

/// Runs all cases; fails where anything disagrees, after all were run.
pub fn check_cases(bed: &Bed, cases: &[Case]) -> Result<()> {
    let watch = Stopwatch::start();
    check_network(bed, cases)?;
    let mut summary = Summary::default();
    for case in cases {
        if let Err(error) = check_case(bed, case, &mut summary) {
            summary.mismatches.push(format!("{}: {error:#}", case.name));
        }
    }
    bed.apply("")?;
    let Summary { asked, passed, mirrored, family_matters, late, .. } = summary;
    let denied = asked - passed;
    summary.revision_ms.sort_unstable();
    let ms = &summary.revision_ms;
    println!(
        "{} cases, {asked} probes ({passed} passed, {denied} did not, {mirrored} of the family \
         that the case does not name, which mattered for {family_matters}; {late} passed at the \
         second attempt), {:.0} s; from the file to all workers: median {} ms, at most {} ms; {} \
         mismatches",
        summary.cases,
        watch.elapsed().as_secs_f64(),
        ms.get(ms.len() / 2).unwrap_or(&0),
        ms.last().unwrap_or(&0),
        summary.mismatches.len(),
    );
    for mismatch in summary.mismatches.iter().take(EXPLAINED_MAX) {
        println!("{mismatch}");
    }
    ensure!(summary.mismatches.is_empty(), "{} mismatches", summary.mismatches.len());
    Ok(())
}

/// Without a policy everything passes that any case asks: so what is denied later is denied by
/// policy.
fn check_network(bed: &Bed, cases: &[Case]) -> Result<()> {
    let all = cases.iter().flat_map(|case| &case.lines).flat_map(|line| &line.probes);
    let mut seen = BTreeSet::new();
    let mut questions = Vec::new();
    for ends in all {
        for it in bed.questions(ends)? {
            if seen.insert((it.from, it.to, it.protocol, it.port)) {
                questions.push(it);
            }
        }
    }
    bed.serve(&questions)?;
    let mut failed = questions.clone();
    for _ in 0..2 {
        let answers = bed.ask(&failed, ALL_TIMEOUT)?;
        let asked = std::mem::take(&mut failed).into_iter().zip(answers);
        let lost = asked.filter(|(_, it)| it.outcome != Outcome::Answered);
        failed = lost.map(|(it, _)| bed.question(it.from, it.to, it.protocol, it.port)).collect();
    }
    println!(
        "without a policy: {} of {} pass (SCTP: crafted INITs, seen by a raw socket at their \
         destination; ICMP: ping sockets)",
        questions.len() - failed.len(),
        questions.len()
    );
    ensure!(failed.is_empty(), "without a policy these do not pass: {failed:?}");
    Ok(())
}

fn check_case(bed: &Bed, case: &Case, summary: &mut Summary) -> Result<()> {
    let watch = Stopwatch::start();
    bed.apply(&case.manifests)?;
    summary.revision_ms.push(u64::try_from(watch.elapsed().as_millis())?);
    let mut probes = Vec::new();
    for line in &case.lines {
        for ends in &line.probes {
            let is_v4 = is_about_v4(ends);
            let written = line.egress.verdict == Wanted::Allow;
            let written = written && line.ingress.verdict == Wanted::Allow;
            for question in bed.questions(ends)? {
                let is_native = question.to.is_ipv4() == is_v4;
                probes.push(Probe { line, written: is_native.then_some(written), question });
            }
        }
    }
    let questions: Vec<Question> = probes.iter().map(|it| it.question.clone()).collect();
    let judged = judge(bed, &probes)?;
    let mut answers = bed.ask(&questions, TIMEOUT)?;
    summary.late += ask_again(bed, &questions, &judged, &mut answers)?;
    summary.cases += 1;
    summary.asked += probes.len();
    for ((probe, judged), answer) in probes.iter().zip(judged).zip(answers) {
        let has_passed = answer.outcome == Outcome::Answered;
        summary.passed += usize::from(has_passed);
        summary.mirrored += usize::from(probe.written.is_none());
        let as_written = probe.line.egress.verdict == Wanted::Allow
            && probe.line.ingress.verdict == Wanted::Allow;
        let matters = probe.written.is_none() && as_written != judged;
        summary.family_matters += usize::from(matters);
        // Nothing but silence: nobody is told by the default.
        let is_clear = has_passed || answer.outcome == Outcome::Silent;
        if !is_clear || has_passed != judged || probe.written.is_some_and(|it| it != judged) {
            let words = ["did not pass", "passes"];
            let mismatch = format!(
                "{}: {}\n    {:?}\n    the file: {}, policy check: {}, packets: {:?}\n{}",
                case.name,
                probe.line.text,
                probe.question,
                probe.written.map_or("(other family)", |it| words[usize::from(it)]),
                words[usize::from(judged)],
                answer.outcome,
                if summary.mismatches.len() < EXPLAINED_MAX {
                    bed.explain(&probe.question)
                } else {
                    String::new()
                },
            );
            eprintln!("{mismatch}");
            summary.mismatches.push(mismatch);
        }
    }
    Ok(())
}

/// Which family a line of a case is about, where pods have both.
fn is_about_v4(ends: &Ends) -> bool {
    let given = [&ends.from, &ends.to].map(|it| it.parse::<std::net::IpAddr>().ok());
    given.into_iter().flatten().next().map_or(ends.protocol != "ICMPv6", |it| it.is_ipv4())
}

/// What `weir policy check --batch` says of the folder that the agents read: whether it passes.
/// What a proxy would decide does not, as long as there is none.
fn judge(bed: &Bed, probes: &[Probe]) -> Result<Vec<bool>> {
    let mut batch = String::new();
    for Probe { question: it, .. } in probes {
        let protocol = name_protocol(it.protocol);
        let line = json!({"from": it.from, "to": it.to, "port": it.port, "protocol": protocol});
        batch.push_str(&line.to_string());
        batch.push('\n');
    }
    let path = bed.world.lab().folder().join("batch.jsonl");
    fs::write(&path, batch)?;
    let (folder, path) = (bed.manifests(), path.display().to_string());
    let folder = folder.display().to_string();
    // What a node refuses is part of some cases.
    let arguments = ["policy", "check", "--ignore-problems", "-f", &folder, "--batch", &path];
    let printed = bed.world.nodes()[0].weir(&arguments)?;
    let answers = printed.lines().map(|line| {
        let answer: Value = serde_json::from_str(line)?;
        let verdict = answer["verdict"].as_str().with_context(|| line.to_owned())?;
        Ok(verdict == "allowed" && answer.get("redirect").is_none())
    });
    let answers = answers.collect::<Result<Vec<bool>>>()?;
    ensure!(answers.len() == probes.len(), "{} of {} judged", answers.len(), probes.len());
    Ok(answers)
}

/// Gives what should pass and did not a second chance; how many took it.
fn ask_again(
    bed: &Bed,
    questions: &[Question],
    judged: &[bool],
    answers: &mut [Answer],
) -> Result<usize> {
    let lost = |at: &usize| judged[*at] && answers[*at].outcome != Outcome::Answered;
    let lost: Vec<usize> = (0..questions.len()).filter(lost).collect();
    if lost.is_empty() {
        return Ok(0);
    }
    let again = lost.iter().map(|at| {
        let it = &questions[*at];
        bed.question(it.from, it.to, it.protocol, it.port)
    });
    let mut passed = 0;
    let again: Vec<Question> = again.collect();
    for (at, answer) in lost.iter().zip(bed.ask(&again, SECOND_TIMEOUT)?) {
        passed += usize::from(answer.outcome == Outcome::Answered);
        answers[*at] = answer;
    }
    Ok(passed)
}
