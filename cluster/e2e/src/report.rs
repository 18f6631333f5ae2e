//! Ginkgo's JSON report of one process, which ran one case.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::results::Outcome;

/// Of a reason, so that a table stays a table.
const REASON_CHARS_MAX: usize = 600;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    leaf_node_type: String,
    state: String,
    #[serde(default)]
    num_attempts: u32,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
    #[serde(default)]
    location: Location,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Location {
    file_name: String,
    line_number: u32,
}

/// What the report says: how the case ended, and why if it did not pass.
///
/// # Errors
/// There is no report, it is not one, or nothing ran and nothing failed.
pub fn read(path: &Path) -> Result<(Outcome, String)> {
    let name = || format!("{}: no report: e2e.test ended early", path.display());
    let text = fs::read_to_string(path).with_context(name)?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<(Outcome, String)> {
    let suites: Vec<Suite> = serde_json::from_str(text).context("not a report of Ginkgo")?;
    let mut specs = suites.into_iter().filter_map(|suite| suite.spec_reports).flatten();
    let ended = specs.find(|spec| {
        let is_case = spec.leaf_node_type == "It" && spec.num_attempts > 0;
        is_case || !["passed", "skipped", "pending"].contains(&spec.state.as_str())
    });
    let spec = ended.context("no case ran: is it still in e2e.test?")?;
    let why = spec.failure.map(|failure| failure.describe()).unwrap_or_default();
    Ok(match spec.state.as_str() {
        "passed" => (Outcome::Passed, String::new()),
        "skipped" | "pending" => (Outcome::Skipped, why),
        state => (Outcome::Failed, format!("{state}: {why}")),
    })
}

impl Failure {
    /// One line, with the place.
    fn describe(&self) -> String {
        let words: Vec<&str> = self.message.split_whitespace().collect();
        let message: String = words.join(" ").chars().take(REASON_CHARS_MAX).collect();
        let file = self.location.file_name.rsplit('/').next().unwrap_or_default();
        format!("{message} ({file}:{})", self.location.line_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(specs: &str) -> String {
        format!(r#"[{{"SuitePath": "/", "SpecReports": [{specs}]}}]"#)
    }

    const OTHER: &str = r#"{"LeafNodeType": "It", "State": "skipped", "NumAttempts": 0},
        {"LeafNodeType": "ReportBeforeSuite", "State": "passed", "NumAttempts": 0}"#;

    fn case(state: &str, failure: &str) -> String {
        let failure = match failure {
            "" => String::new(),
            message => format!(
                r#", "Failure": {{"Message": "{message}",
                    "Location": {{"FileName": "e2e/network/a.go", "LineNumber": 7}}}}"#
            ),
        };
        let case = format!(r#"{{"LeafNodeType": "It", "State": "{state}", "NumAttempts": 1"#);
        report(&format!("{OTHER}, {case}{failure}}}"))
    }

    #[test]
    fn the_case_that_ran_is_found() {
        assert_eq!(parse(&case("passed", "")).unwrap(), (Outcome::Passed, String::new()));
        let skipped = parse(&case("skipped", "needs 3 zones")).unwrap();
        assert_eq!(skipped, (Outcome::Skipped, "needs 3 zones (a.go:7)".into()));
        let failed = parse(&case("failed", "no\\n answer")).unwrap();
        assert_eq!(failed, (Outcome::Failed, "failed: no answer (a.go:7)".into()));
    }

    #[test]
    fn a_failure_before_the_case_is_the_cases() {
        let before = r#"{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed",
            "Failure": {"Message": "nodes are not ready"}}"#;
        let (outcome, reason) = parse(&report(&format!("{OTHER}, {before}"))).unwrap();
        assert_eq!(outcome, Outcome::Failed);
        assert!(reason.contains("nodes are not ready"), "{reason}");
        assert!(parse(&report(OTHER)).is_err(), "nothing ran");
        assert!(parse("[").is_err());
    }
}
