//! What weir itself says to the same questions, in the judge's words.

use std::collections::BTreeSet;
use std::path::PathBuf;

use weir_control::offline::{self, Cluster, parse_l4};

use crate::naive::{Answer, Half, Probe, Verdict};

/// A cluster as weir compiles it. Nothing in the manifests may be wrong, but for what is expected.
pub fn read(texts: &[&str], is_expected: impl Fn(&str) -> bool) -> Result<Cluster, String> {
    let names = (0..).map(|at| PathBuf::from(format!("{at}.yaml")));
    let texts: Vec<(PathBuf, String)> = names.zip(texts.iter().map(|it| it.to_string())).collect();
    let (cluster, problems) = Cluster::read(&texts);
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    match problems.iter().find(|it| !is_expected(it)) {
        None => Ok(cluster),
        Some(problem) => Err(format!("weir refuses: {problem}")),
    }
}

/// Where weir's answer is not the judge's: a line for people.
pub fn differ(cluster: &Cluster, probe: &Probe, truth: &Answer) -> Option<String> {
    let l4 = parse_l4(&format!("{}/{}", probe.port, probe.protocol.name())).unwrap();
    let (from, to) = (probe.from.parse().unwrap(), probe.to.parse().unwrap());
    let answer = match cluster.judge(&offline::Probe { from, to, l4 }) {
        Ok(answer) => answer,
        Err(error) => return Some(format!("weir has no answer: {error}")),
    };
    let egress = differ_half("egress", answer.egress.as_ref(), truth.egress.as_ref());
    egress.or_else(|| differ_half("ingress", answer.ingress.as_ref(), truth.ingress.as_ref()))
}

/// The verdict, and that the rule that decides is one of those that may.
fn differ_half(
    direction: &str,
    half: Option<&offline::Half>,
    truth: Option<&Half>,
) -> Option<String> {
    let is_same = match (half, truth) {
        (None, None) => true,
        (Some(half), Some(truth)) => {
            let verdict = match half.verdict {
                offline::Verdict::Allowed => Verdict::Allow,
                offline::Verdict::Denied => Verdict::Deny,
                offline::Verdict::Redirect => Verdict::Redirect,
            };
            verdict == truth.verdict && is_rule_right(&half.rules, &truth.rules)
        }
        _ => false,
    };
    (!is_same).then(|| format!("{direction}: weir says {half:?}\n      the judge says {truth:?}"))
}

fn is_rule_right(rules: &[String], truth: &BTreeSet<String>) -> bool {
    let Some(first) = rules.first() else { return truth.is_empty() };
    match first.strip_prefix("default deny of ") {
        // It names all objects that isolate the pod.
        Some(objects) => {
            let objects = objects.split(", ").map(|it| format!("default deny of {it}"));
            objects.collect::<BTreeSet<_>>() == *truth
        }
        // Of a rule with several lists of ports, weir may name the list.
        None => truth.iter().any(|it| {
            first
                .strip_prefix(it.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }),
    }
}
