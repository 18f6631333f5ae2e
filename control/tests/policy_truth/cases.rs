//! The truth table: reads `dataplane/tests/policy/*.txt`.
//!
//! A file is a list of cases. `## case NAME` begins one; then come manifests, which are added to
//! the world of `world.yaml`; then, after `## probes`, what is expected, a line each:
//!
//! ```text
//! x/*,203.0.113.10 -> y/a 80/TCP,8/ICMP : egress allow by RULE; ingress deny by RULE
//! ```
//!
//! Ends are `namespace/pod` or addresses; `*` stands for x, y and z, or a, b and c, where both ends
//! are never the same pod. What is said of no direction is that it allows. `by` names a rule that
//! decides, as `NetworkPolicy x/web: spec.ingress[0]` or `default deny of NetworkPolicy x/web`.
//! Text before the first case says what the file is about. This file needs nothing but `std`, so
//! that any test can read the table.

use std::path::Path;

/// A named case.
pub struct Case {
    /// `FILE: NAME`.
    pub name: String,
    /// YAML documents on top of the world.
    pub manifests: String,
    pub lines: Vec<Line>,
}

/// A line of probes.
pub struct Line {
    /// As it was written.
    pub text: String,
    pub probes: Vec<Ends>,
    pub egress: Expected,
    pub ingress: Expected,
}

/// Who speaks to whom, on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    pub from: String,
    pub to: String,
    /// Port, or ICMP type.
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`, `ICMP` or `ICMPv6`.
    pub protocol: String,
}

/// What a direction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub verdict: Wanted,
    pub rule: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Allow,
    Deny,
    Redirect,
}

/// All cases, by file and in their order, and the world that they have in common.
pub fn read_folder(folder: &Path) -> (String, Vec<Case>) {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    paths.retain(|it| it.extension().is_some_and(|it| it == "txt"));
    paths.sort();
    let cases = paths.iter().flat_map(|path| {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        read_cases(&stem, &std::fs::read_to_string(path).unwrap())
    });
    (std::fs::read_to_string(folder.join("world.yaml")).unwrap(), cases.collect())
}

fn read_cases(file: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut is_in_probes = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## case ") {
            is_in_probes = false;
            let name = format!("{file}: {name}");
            cases.push(Case { name, manifests: String::new(), lines: Vec::new() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        if line == "## probes" {
            is_in_probes = true;
        } else if !is_in_probes {
            case.manifests.push_str(line);
            case.manifests.push('\n');
        } else if !line.trim().is_empty() {
            let read = read_line(line);
            case.lines.push(read.unwrap_or_else(|| panic!("{}: cannot read: {line}", case.name)));
        }
    }
    let idle = cases.iter().find(|it| it.lines.is_empty());
    assert!(idle.is_none(), "no probes: {}", idle.unwrap().name);
    cases
}

fn read_line(line: &str) -> Option<Line> {
    let (ends, verdicts) = line.split_once(" : ")?;
    let (from, rest) = ends.split_once(" -> ")?;
    let (to, ports) = rest.split_once(' ')?;
    let allowed = Expected { verdict: Wanted::Allow, rule: None };
    let (mut egress, mut ingress) = (allowed.clone(), allowed);
    for verdict in verdicts.split("; ").filter(|it| *it != "allow") {
        let (direction, what) = verdict.split_once(' ')?;
        let (what, rule) = what.split_once(" by ").unwrap_or((what, ""));
        let verdict = match what {
            "allow" => Wanted::Allow,
            "deny" => Wanted::Deny,
            "redirect" => Wanted::Redirect,
            _ => return None,
        };
        let expected = Expected { verdict, rule: (!rule.is_empty()).then(|| rule.to_string()) };
        match direction {
            "egress" => egress = expected,
            "ingress" => ingress = expected,
            _ => return None,
        }
    }
    let mut probes = Vec::new();
    for port in ports.split(',') {
        let (port, protocol) = port.split_once('/')?;
        let port = port.parse().ok()?;
        for from in from.split(',').flat_map(expand) {
            for to in to.split(',').flat_map(expand) {
                if from != to || !line.contains('*') {
                    let (from, protocol) = (from.clone(), protocol.to_string());
                    probes.push(Ends { from, to, port, protocol });
                }
            }
        }
    }
    Some(Line { text: line.to_string(), probes, egress, ingress })
}

fn expand(end: &str) -> Vec<String> {
    let Some((namespace, pod)) = end.split_once('/') else { return vec![end.to_string()] };
    let choose = |part: &str, all: [&str; 3]| match part {
        "*" => all.map(str::to_string).to_vec(),
        one => vec![one.to_string()],
    };
    let pods = choose(pod, ["a", "b", "c"]);
    let namespaces = choose(namespace, ["x", "y", "z"]).into_iter();
    namespaces.flat_map(|it| pods.iter().map(move |pod| format!("{it}/{pod}"))).collect()
}
