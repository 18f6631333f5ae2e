//! `weir policy check`: may this connection be opened? From manifests alone.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::Output;
use crate::model::{Problem, Severity};
use crate::offline::{
    Answer, BatchSummary, Cluster, End, Half, Probe, Reason, Verdict, answer_json, parse_l4,
    read_texts, run_batch,
};
use crate::policy::{CLUSTER_DEFAULT, Enforcement, PolicySettings};

/// Denied, or not as expected.
const NO: u8 = 1;
/// The question could not be answered.
const ERROR: u8 = 2;

/// What the text of a default deny begins with; the objects that isolate the pod follow.
const DEFAULT_DENY: &str = "default deny of ";

/// `weir policy check`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 allowed, 1 denied (with --batch: not as expected), 2 error."
)]
pub struct CheckArgs {
    /// A file or folder of manifests, or - for standard input. Repeatable.
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Who opens the connection: a pod, or an address.
    #[arg(long, value_name = "NAMESPACE/POD|IP")]
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    pub from: Option<String>,
    /// To whom.
    #[arg(long, value_name = "NAMESPACE/POD|IP")]
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    pub to: Option<String>,
    /// On which port; an ICMP type is written as 8/ICMP or 128/ICMPv6.
    #[arg(long, value_name = "PORT/PROTOCOL")]
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    pub port: Option<String>,
    /// Questions as JSON lines {"from","to","port","protocol","expect"}, from a file or, for -,
    /// from standard input; one line of JSON answers each.
    #[arg(long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[arg(from_global)]
    output: Output,
}

/// How manifests are read, by both commands that ask them.
#[derive(Debug, Clone, Args)]
pub struct ReadingArgs {
    /// Answer even if some manifests were refused.
    #[arg(long)]
    pub ignore_problems: bool,
    /// Whom default deny is about, as the agents are told.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub enable_policy: Enforcement,
    /// Name of this cluster, as the agents are told.
    #[arg(long, default_value = CLUSTER_DEFAULT, value_name = "NAME")]
    pub cluster_name: String,
}

impl CheckArgs {
    /// Answers; its exit status is the answer, too.
    ///
    /// # Errors
    /// None: an error is printed, and is a status of its own.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Ok(ExitCode::from(self.answer().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ERROR
        })))
    }

    fn answer(&self) -> anyhow::Result<u8> {
        let cluster = read_cluster(&self.files, &self.reading, "")?;
        let Some(cluster) = cluster else { return Ok(ERROR) };
        match (&self.batch, &self.from, &self.to, &self.port) {
            (Some(batch), ..) => answer_batch(&cluster, batch),
            (None, Some(from), Some(to), Some(port)) => self.answer_one(&cluster, from, to, port),
            _ => anyhow::bail!("give --from, --to and --port, or --batch"),
        }
    }

    fn answer_one(
        &self,
        cluster: &Cluster,
        from: &str,
        to: &str,
        port: &str,
    ) -> anyhow::Result<u8> {
        let l4 = parse_l4(port).context("--port")?;
        let from_end: End = from.parse().context("--from")?;
        let probe = Probe { from: from_end, to: to.parse().context("--to")?, l4 };
        let answer = cluster.judge(&probe)?;
        if self.output == Output::Json {
            print_text(&to_json(&answer_json(from, to, l4, &answer))?)?;
        } else {
            let names = [(from, &probe.from), (to, &probe.to)].map(|(text, end)| {
                match cluster.find_owner(end).filter(|it| it != text) {
                    Some(owner) => format!("{owner} ({text})"),
                    None => text.to_owned(),
                }
            });
            print_text(&format_answer(cluster, &names, &l4.to_string(), &answer))?;
        }
        Ok(if answer.verdict() == Verdict::Denied { NO } else { 0 })
    }
}

/// Reads manifests and prints what is wrong with them; `None` where that forbids an answer.
pub(super) fn read_cluster(
    paths: &[PathBuf],
    how: &ReadingArgs,
    which: &str,
) -> anyhow::Result<Option<Cluster>> {
    let mut texts = Vec::new();
    for path in paths {
        texts.extend(read_texts(path)?);
    }
    let settings = PolicySettings {
        enforcement: how.enable_policy,
        cluster: how.cluster_name.clone(),
        ..Cluster::settings()
    };
    let (cluster, problems) = Cluster::read_with(&texts, settings);
    Ok(report_problems(&problems, how.ignore_problems, which).then_some(cluster))
}

fn report_problems(problems: &[Problem], ignore_problems: bool, which: &str) -> bool {
    for problem in problems {
        eprintln!("{which}{problem}");
    }
    let refused = problems.iter().filter(|it| it.severity == Severity::Refused).count();
    if refused > 0 && !ignore_problems {
        eprintln!(
            "error: manifests were refused ({refused} problems): a node would enforce something \
             else than they seem to say; --ignore-problems answers as that node would"
        );
    }
    refused == 0 || ignore_problems
}

fn answer_batch(cluster: &Cluster, path: &Path) -> anyhow::Result<u8> {
    let questions: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).with_context(|| format!("{}", path.display()))?)
    };
    let answers = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let summary = match run_batch(cluster, questions, answers) {
        // Whoever reads the answers has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => BatchSummary::default(),
        other => other.with_context(|| format!("{}", path.display()))?,
    };
    if summary.unexpected > 0 || summary.errors > 0 {
        let BatchSummary { answered, errors, unexpected } = summary;
        eprintln!("{answered} answers, {unexpected} not as expected, {errors} lines with errors");
    }
    Ok(match summary {
        BatchSummary { errors: 1.., .. } => ERROR,
        BatchSummary { unexpected: 1.., .. } => NO,
        _ => 0,
    })
}

fn format_answer(cluster: &Cluster, ends: &[String; 2], l4: &str, answer: &Answer) -> String {
    let [from, to] = ends;
    let (verdict, l7) = format_verdict(answer.verdict(), answer.redirect());
    let mut text = format!("{from} -> {to} {l4}: {verdict}{l7}\n");
    let halves = [("egress  of", from, &answer.egress), ("ingress of", to, &answer.ingress)];
    for (direction, end, half) in halves {
        match half {
            None => text += &format!("  {direction} {end}: no pod, so no policy is asked\n"),
            Some(half) => format_half(cluster, &format!("{direction} {end}"), half, &mut text),
        }
    }
    text
}

fn format_half(cluster: &Cluster, heading: &str, half: &Half, text: &mut String) {
    let (verdict, l7) = format_verdict(half.verdict, half.redirect);
    let why = match (half.reason, half.rules.first()) {
        (Reason::Rule, Some(rule)) => format!(" by {}{l7}", locate_rule(cluster, rule)),
        (reason, _) => reason.explain().map(|it| format!(", {it}")).unwrap_or_default(),
    };
    *text += &format!("  {heading}: {verdict}{why}\n");
    // That what is allowed would be denied otherwise goes without saying.
    let others = half.rules.iter().skip(1).filter(|it| !it.starts_with(DEFAULT_DENY));
    for rule in others {
        *text += &format!("    also about this, but later: {}\n", locate_rule(cluster, rule));
    }
    if half.is_audited && half.verdict == Verdict::Denied {
        *text += "    the pod is audited: a node lets this through and reports it\n";
    }
}

fn format_verdict(verdict: Verdict, redirect: Option<&str>) -> (&'static str, String) {
    let l7 = match (verdict, redirect) {
        (Verdict::Redirect, Some(l7 @ ("http" | "dns" | "tls"))) => {
            format!(", if its {} rules allow it", l7.to_uppercase())
        }
        (Verdict::Redirect, _) => ", if its L7 rules allow it".into(),
        (Verdict::Allowed | Verdict::Denied, _) => String::new(),
    };
    (verdict.as_str(), l7)
}

/// The rule, and where the objects that it names were read.
fn locate_rule(cluster: &Cluster, rule: &str) -> String {
    let objects = rule.strip_prefix(DEFAULT_DENY).unwrap_or(rule);
    let mut places: Vec<String> = Vec::new();
    for object in objects.split(", ") {
        if let Some(origin) = cluster.locate(object) {
            places.push(origin.to_string());
        }
    }
    match places.as_slice() {
        [] => rule.to_owned(),
        places => format!("{rule} ({})", places.join(", ")),
    }
}

pub(super) fn to_json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Prints, as long as somebody reads it.
pub(super) fn print_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
