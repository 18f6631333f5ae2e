//! Questions and answers as JSON lines.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};
use weir_tables::policy::{L4, L4Protocol};

use super::probe::{EndRef, check_l4};
use super::{Answer, Cluster, Half, Verdict};

/// Longer lines are refused, whatever they say.
const LINE_BYTES_MAX: u64 = 1 << 16;

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchSummary {
    /// Lines with a verdict.
    pub answered: u64,
    /// Lines that could not be answered.
    pub errors: u64,
    /// Verdicts that differ from what their line expects.
    pub unexpected: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question<'a> {
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    port: u64,
    #[serde(borrow, default = "default_protocol")]
    protocol: Cow<'a, str>,
    #[serde(default)]
    expect: Option<Expected>,
}

fn default_protocol() -> Cow<'static, str> {
    Cow::Borrowed("TCP")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allowed,
    Denied,
}

#[derive(Debug, Serialize)]
struct AnswerLine<'a> {
    from: &'a str,
    to: &'a str,
    port: u16,
    protocol: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect: Option<&'static str>,
    egress: Option<HalfLine<'a>>,
    ingress: Option<HalfLine<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    unexpected: bool,
}

#[derive(Debug, Serialize)]
struct HalfLine<'a> {
    verdict: &'static str,
    rules: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect: Option<&'static str>,
    /// Where no rule says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    #[serde(skip_serializing_if = "is_false")]
    audited: bool,
}

#[derive(Debug, Serialize)]
struct ErrorLine {
    error: String,
    line: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(it: &bool) -> bool {
    !*it
}

impl<'a> AnswerLine<'a> {
    fn new(from: &'a str, to: &'a str, l4: L4, answer: &'a Answer) -> Self {
        Self {
            from,
            to,
            port: l4.port,
            protocol: protocol_name(l4.protocol),
            verdict: answer.verdict().as_str(),
            redirect: answer.redirect(),
            egress: answer.egress.as_ref().map(HalfLine::new),
            ingress: answer.ingress.as_ref().map(HalfLine::new),
            unexpected: false,
        }
    }
}

impl<'a> HalfLine<'a> {
    fn new(half: &'a Half) -> Self {
        Self {
            verdict: half.verdict.as_str(),
            rules: &half.rules,
            redirect: half.redirect,
            why: half.reason.explain(),
            audited: half.is_audited && half.verdict == Verdict::Denied,
        }
    }
}

fn protocol_name(protocol: L4Protocol) -> &'static str {
    match protocol {
        L4Protocol::Tcp => "TCP",
        L4Protocol::Udp => "UDP",
        L4Protocol::Sctp => "SCTP",
        L4Protocol::Icmp => "ICMP",
        L4Protocol::Icmpv6 => "ICMPv6",
        L4Protocol::Other => "other",
    }
}

/// One answer as `--batch` writes it.
pub fn answer_json<'a>(
    from: &'a str,
    to: &'a str,
    l4: L4,
    answer: &'a Answer,
) -> impl Serialize + 'a {
    AnswerLine::new(from, to, l4, answer)
}

/// Answers each line of `questions` with one line, in order. A line that cannot be answered says
/// so. Whoever writes a line and waits gets its answer before the next one is read.
///
/// # Errors
/// Reading or writing fails.
pub fn run_batch(
    cluster: &Cluster,
    questions: impl Read,
    mut answers: impl Write,
) -> io::Result<BatchSummary> {
    let mut questions = BufReader::with_capacity(1 << 16, questions);
    let mut summary = BatchSummary::default();
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        if questions.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            answers.flush()?;
            return Ok(summary);
        }
        number += 1;
        let is_cut = line.len() as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n');
        if is_cut {
            skip_line(&mut questions)?;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let result = match is_cut {
            true => Err(format!("longer than {LINE_BYTES_MAX} bytes")),
            false => answer_line(cluster, text, &mut answers, &mut summary)?,
        };
        if let Err(reason) = result {
            summary.errors += 1;
            let error = ErrorLine { error: format!("line {number}: {reason}"), line: number };
            serde_json::to_writer(&mut answers, &error)?;
        }
        answers.write_all(b"\n")?;
        if questions.buffer().is_empty() {
            answers.flush()?;
        }
    }
}

fn skip_line(questions: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = questions.fill_buf()?;
        let end = buffer.iter().position(|it| *it == b'\n');
        let (bytes, is_end) = match end {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        questions.consume(bytes);
        if is_end {
            return Ok(());
        }
    }
}

fn answer_line(
    cluster: &Cluster,
    text: &[u8],
    answers: &mut impl Write,
    summary: &mut BatchSummary,
) -> io::Result<Result<(), String>> {
    let question: Question<'_> = match serde_json::from_slice(text) {
        Ok(question) => question,
        Err(error) => return Ok(Err(explain_syntax(&error))),
    };
    let (l4, answer) = match answer_question(cluster, &question) {
        Ok(answer) => answer,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut line = AnswerLine::new(&question.from, &question.to, l4, &answer);
    let verdict = match answer.verdict() {
        Verdict::Denied => Expected::Denied,
        Verdict::Allowed | Verdict::Redirect => Expected::Allowed,
    };
    line.unexpected = question.expect.is_some_and(|it| it != verdict);
    summary.answered += 1;
    summary.unexpected += u64::from(line.unexpected);
    serde_json::to_writer(answers, &line)?;
    Ok(Ok(()))
}

/// Without the place that serde adds: it counts lines from the start of this one.
fn explain_syntax(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    format!("{reason} (at column {})", error.column())
}

fn answer_question(cluster: &Cluster, question: &Question<'_>) -> Result<(L4, Answer), String> {
    let ask = || {
        let l4 = check_l4(question.port, &question.protocol)?;
        let from = cluster.resolve(EndRef::parse(&question.from)?)?;
        let to = cluster.resolve(EndRef::parse(&question.to)?)?;
        let halves = cluster.decide(from, to, l4)?;
        let [egress, ingress] = halves.map(|it| it.map(|half| cluster.explain(half, l4)));
        Ok((l4, Answer { egress, ingress }))
    };
    ask().map_err(|error: super::OfflineError| error.to_string())
}
