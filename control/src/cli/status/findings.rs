//! What is wrong with a node, from what its processes say.

use super::json::{Agent, Dataplane, Finding, Gauge, Problem, Severity, State, Status};
use crate::cli::human::percent;

/// Fuller than this is worth a word before it is too late, percent.
pub(in super::super) const FULL_PERCENT: u64 = 80;

/// Whether a change is on its way to the workers.
pub(super) fn is_settling(status: &Status) -> bool {
    let sent = status.agent.as_ref().is_some_and(|it| {
        it.synced && it.dataplane_connected && it.acknowledged_revision < it.sent_revision
    });
    sent || status.dataplane.as_ref().is_some_and(is_behind)
}

fn is_behind(dataplane: &Dataplane) -> bool {
    dataplane.workers.iter().any(|it| it.snapshot_revision != dataplane.snapshot_revision)
}

/// Whether something has arrived meanwhile, or nothing is on its way any more.
pub(super) fn has_moved(before: &Status, after: &Status) -> bool {
    let acknowledged = |it: &Status| it.agent.as_ref().map(|it| it.acknowledged_revision);
    let in_use = |it: &Status| {
        let workers = it.dataplane.iter().flat_map(|it| &it.workers);
        workers.map(|it| it.snapshot_revision).collect::<Vec<_>>()
    };
    !is_settling(after)
        || acknowledged(before) != acknowledged(after)
        || in_use(before) != in_use(after)
}

/// Judges a status where changes arrive all the time: that some are under way means nothing.
pub(super) fn judge_settling(status: Status) -> Status {
    judge_with(status, false)
}

/// Judges a status: its state and what is wrong.
pub(super) fn judge(status: Status) -> Status {
    judge_with(status, true)
}

fn judge_with(mut status: Status, is_stuck: bool) -> Status {
    let mut findings = Vec::new();
    for error in &status.errors {
        let (subject, reason) = error.split_once(": ").unwrap_or(("weir", error));
        findings.push(finding(Severity::Unreachable, subject, reason.to_owned()));
    }
    if let Some(agent) = &status.agent {
        judge_agent(agent, status.dataplane.is_some(), is_stuck, &mut findings);
    }
    if let Some(dataplane) = &status.dataplane {
        judge_dataplane(dataplane, status.agent.as_ref(), is_stuck, &mut findings);
    }
    findings.sort_by_key(|it| it.severity);
    status.state = match findings.first().map(|it| it.severity) {
        Some(Severity::Unreachable) => State::Unreachable,
        Some(Severity::Degraded | Severity::Refused) => State::Degraded,
        Some(Severity::Ignored) | None => State::Healthy,
    };
    status.findings = findings;
    status
}

fn finding(severity: Severity, subject: &str, reason: String) -> Finding {
    Finding { severity, subject: subject.to_owned(), reason }
}

fn judge_agent(agent: &Agent, has_dataplane: bool, is_stuck: bool, findings: &mut Vec<Finding>) {
    let mut degraded =
        |subject, reason| findings.push(finding(Severity::Degraded, subject, reason));
    let source_state = agent.source_state.as_str();
    if !source_state.is_empty() {
        degraded("source", source_state.to_owned());
    } else if !agent.synced {
        degraded("source", "objects are still being read: nothing is sent before that".into());
    }
    if !agent.dataplane_connected && has_dataplane {
        let why = match agent.link_reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        degraded("agent", format!("not connected to the dataplane, so nothing changes{why}"));
    }
    let (sent, acknowledged) = (agent.sent_revision, agent.acknowledged_revision);
    if is_stuck && agent.synced && agent.dataplane_connected && acknowledged < sent {
        let reason = format!("the dataplane has not acknowledged revision {sent} for a second");
        degraded("agent", reason);
    }
    // What the source says of itself may be among the problems, too.
    let is_told = |it: &&Problem| source_state.contains(&format!("{}: {}", it.object, it.reason));
    for problem in agent.problems.iter().filter(|it| !is_told(it)) {
        let subject = match problem.location.as_str() {
            "" => problem.object.clone(),
            location => format!("{} ({location})", problem.object),
        };
        findings.push(Finding {
            severity: problem.severity,
            subject,
            reason: problem.reason.clone(),
        });
    }
}

fn judge_dataplane(
    dataplane: &Dataplane,
    agent: Option<&Agent>,
    is_stuck: bool,
    findings: &mut Vec<Finding>,
) {
    let mut degraded = |subject: &str, reason| {
        findings.push(finding(Severity::Degraded, subject, reason));
    };
    for reason in &dataplane.degraded {
        degraded("dataplane", reason.clone());
    }
    // What the agent says of the connection is more than this.
    if !dataplane.agent_connected && agent.is_none_or(|it| it.dataplane_connected) {
        let state = if dataplane.from_disk { "the state of the disk" } else { "its last state" };
        degraded(
            "dataplane",
            format!("no agent is connected: it runs {state}, and nothing changes"),
        );
    }
    let current = dataplane.snapshot_revision;
    for it in dataplane.workers.iter().filter(|it| is_stuck && it.snapshot_revision != current) {
        let (worker, revision) = (it.worker, it.snapshot_revision);
        degraded("dataplane", format!("worker {worker} still runs revision {revision}"));
    }
    for gauge in dataplane.gauges.iter().filter(|it| is_full(it)) {
        degraded("pool", describe_full(gauge));
    }
}

/// Whether there is little room left.
pub(super) fn is_full(gauge: &Gauge) -> bool {
    gauge.limit > 0 && percent(gauge.used, gauge.limit) > FULL_PERCENT
}

/// `flows` or `flows, worker 3`.
pub(super) fn gauge_owner(gauge: &Gauge) -> String {
    let labels: Vec<String> =
        gauge.labels.iter().map(|(name, value)| format!("{name} {value}")).collect();
    labels.join(", ")
}

fn describe_full(gauge: &Gauge) -> String {
    let (used, limit) = (gauge.used, gauge.limit);
    let todo = match gauge.name.as_str() {
        "flows" => ": at 100 % new connections are dropped; give more --flows-max",
        "frames in use" => ": at 100 % packets are dropped; give more --frames",
        _ => "",
    };
    let owner = match gauge_owner(gauge).as_str() {
        "" => String::new(),
        owner => format!(" of {owner}"),
    };
    format!("{}{owner}: {used} of {limit} ({} %){todo}", gauge.name, percent(used, limit))
}
