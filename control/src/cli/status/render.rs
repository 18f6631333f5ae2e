//! The status for people: what is wrong first, then the two halves, as short as it can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use super::findings::{gauge_owner, is_full};
use super::json::{Agent, Dataplane, Device, Finding, Gauge, Severity, State, Status, Worker};
use crate::cli::human::{percent, plural, show_count, show_duration};
use crate::cli::table::Columns;

/// Findings that text shows; JSON has them all.
const FINDINGS_SHOWN: usize = 20;

/// What follows from a process that does not answer, and where to look.
const WITHOUT_AGENT: [&str; 3] = [
    "does not answer",
    "pods and services go on as they are; new pods and changes wait",
    "see its log: container `agent` of the node's weir pod, or what `weir up` prints",
];
const WITHOUT_DATAPLANE: [&str; 3] = [
    "does not answer",
    "services do not work; pods follow --failure-mode",
    "see its log: container `dataplane` of the node's weir pod, or what `weir up` prints",
];

/// One line.
pub(super) fn brief(status: &Status) -> String {
    let mut line = format!("{} {}", status.node, status.state);
    if let Some(first) = status.findings.first().filter(|_| status.state != State::Healthy) {
        let _ = write!(line, ": {}: {}", first.subject, first.reason);
        let more = status.findings.iter().filter(|it| it.severity != Severity::Ignored).count() - 1;
        if more > 0 {
            let _ = write!(line, " (and {more} more)");
        }
        return line;
    }
    if let (Some(agent), Some(dataplane)) = (&status.agent, &status.dataplane) {
        let flows: u64 = dataplane.workers.iter().map(|it| it.flows).sum();
        let (pods, revision) = (plural(agent.endpoints, "pod"), agent.acknowledged_revision);
        let _ = write!(line, ": revision {revision}, {pods}, {}", plural(flows, "flow"));
    }
    line
}

/// Node and state, as the first line.
pub(in super::super) fn headline(status: &Status) -> String {
    let wrong = status.findings.iter().filter(|it| it.severity != Severity::Ignored).count();
    match wrong {
        0 => format!("{}: {}", status.node, status.state),
        _ => format!("{}: {}, {}", status.node, status.state, plural(wrong as u64, "finding")),
    }
}

/// Everything.
pub(super) fn full(status: &Status) -> String {
    let mut text = format!("{}\n", headline(status));
    for line in findings_lines(&status.findings) {
        let _ = writeln!(text, "  {line}");
    }
    text.push('\n');
    match &status.agent {
        Some(agent) => text.push_str(&agent_lines(agent)),
        None => add_lines(&mut text, "agent", WITHOUT_AGENT),
    }
    text.push('\n');
    match &status.dataplane {
        Some(dataplane) => text.push_str(&dataplane_lines(dataplane)),
        None => add_lines(&mut text, "dataplane", WITHOUT_DATAPLANE),
    }
    text
}

/// Findings, aligned.
pub(in super::super) fn findings_lines(findings: &[Finding]) -> Vec<String> {
    let line = |it: &Finding| format!("{:<11}  {}: {}", it.severity, it.subject, it.reason);
    let mut lines: Vec<String> = findings.iter().take(FINDINGS_SHOWN).map(line).collect();
    if let Some(more) = findings.len().checked_sub(FINDINGS_SHOWN).filter(|it| *it > 0) {
        lines.push(format!("and {more} more: weir status -o json"));
    }
    lines
}

/// A line with a label, aligned with all others.
fn add(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "{label:<12}{value}");
}

/// Several lines, the first of them with the label.
fn add_lines<'a>(
    text: &mut String,
    label: &str,
    lines: impl IntoIterator<Item = impl AsRef<str> + 'a>,
) {
    for (at, line) in lines.into_iter().enumerate() {
        add(text, if at == 0 { label } else { "" }, line.as_ref());
    }
}

fn agent_lines(agent: &Agent) -> String {
    let mut text = String::new();
    add(&mut text, "agent", &format!("{}, pid {}", agent.version, agent.pid));
    if !agent.source.is_empty() {
        let state = match agent.source_state.as_str() {
            _ if !agent.synced => "still being read",
            "" => "all read",
            _ => "see above",
        };
        add(&mut text, "  source", &format!("{}, {state}", agent.source));
    }
    let objects = [
        plural(agent.services, "service"),
        plural(agent.backends, "backend"),
        plural(agent.policies, "policy"),
        format!("{} here", plural(agent.endpoints, "pod")),
    ];
    add(&mut text, "  objects", &objects.join(", "));
    let (sent, acknowledged) = (agent.sent_revision, agent.acknowledged_revision);
    let revision = match (agent.dataplane_connected, sent == acknowledged) {
        (true, true) => format!("{sent}, acknowledged"),
        (true, false) => format!("{sent} sent, {acknowledged} acknowledged"),
        (false, _) => {
            format!("{sent} sent, {acknowledged} acknowledged; not connected to the dataplane")
        }
    };
    add(&mut text, "  revision", &revision);
    text
}

fn dataplane_lines(dataplane: &Dataplane) -> String {
    let mut text = String::new();
    let uptime = show_duration(Duration::from_nanos(dataplane.uptime_ns));
    let Dataplane { version, pid, .. } = dataplane;
    add(&mut text, "dataplane", &format!("{version}, pid {pid}, up {uptime}"));
    add(&mut text, "  revision", &revision_in_use(dataplane));
    if dataplane.adopted_flows > 0 {
        let adopted = plural(dataplane.adopted_flows, "flow");
        add(&mut text, "  restart", &format!("{adopted} taken over from the process before"));
    }
    if dataplane.mtu > 0 {
        add(&mut text, "  mtu", &dataplane.mtu.to_string());
    }
    add_capabilities(&mut text, &dataplane.capabilities);
    add_table(&mut text, "devices", &device_table(&dataplane.devices));
    add_table(&mut text, "workers", &worker_table(dataplane));
    add_table(&mut text, "pools", &pool_table(&dataplane.gauges));
    text
}

fn revision_in_use(dataplane: &Dataplane) -> String {
    let current = dataplane.snapshot_revision;
    let mut text = current.to_string();
    let is_behind = |it: &&Worker| it.snapshot_revision != current;
    let behind: Vec<String> =
        dataplane.workers.iter().filter(is_behind).map(|it| it.worker.to_string()).collect();
    if behind.is_empty() {
        text.push_str(", in use by all workers");
    } else {
        let _ = write!(text, ", not yet in use by workers {}", behind.join(", "));
    }
    if dataplane.from_disk {
        text.push_str("; from disk, no agent since the start");
    }
    text
}

/// What works in one line; what does not, each with its reason.
fn add_capabilities(text: &mut String, capabilities: &BTreeMap<String, String>) {
    if let Some(kernel) = capabilities.get("kernel") {
        add(text, "  kernel", kernel);
    }
    let others = || capabilities.iter().filter(|(name, _)| *name != "kernel");
    let there: Vec<&str> =
        others().filter(|(_, value)| *value == "yes").map(|(name, _)| name.as_str()).collect();
    if !there.is_empty() {
        add(text, "  has", &there.join(", "));
    }
    let missing = others().filter(|(_, value)| *value != "yes");
    add_lines(text, "  but", missing.map(|(name, value)| format!("{name}: {value}")));
}

/// A title, and the table below it, as far to the right as all values.
fn add_table(text: &mut String, title: &str, columns: &Columns) {
    if !columns.is_empty() {
        add_lines(text, &format!("  {title}"), columns.lines());
    }
}

/// Queues of one device that work alike share a row.
fn device_table(devices: &[Device]) -> Columns {
    let mut rows: BTreeMap<[&str; 3], [BTreeSet<u32>; 2]> = BTreeMap::new();
    for it in devices {
        // Why it is as it should be is of no interest.
        let reason = if it.xdp_mode == "native" { "" } else { &it.reason };
        let [queues, workers] = rows.entry([&it.name, &it.xdp_mode, reason]).or_default();
        queues.insert(it.queue);
        workers.insert(it.worker);
    }
    let has_reasons = rows.keys().any(|[_, _, reason]| !reason.is_empty());
    let mut titles = vec!["device", "xdp", "queues", "workers"];
    titles.extend(has_reasons.then_some("because"));
    let mut columns = Columns::new(&titles);
    for ([name, mode, reason], [queues, workers]) in rows {
        let row = [name.to_owned(), mode.to_owned(), show_ranges(&queues), show_ranges(&workers)];
        columns.add(row.into_iter().chain(has_reasons.then(|| reason.to_owned())));
    }
    columns
}

/// `0-3, 7`.
fn show_ranges(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let show = |(first, last): (u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.into_iter().map(show).collect::<Vec<_>>().join(", ")
}

fn worker_table(dataplane: &Dataplane) -> Columns {
    let titles = [">worker", ">cpu", ">turns", ">rx", ">tx", ">dropped", ">flows", ">frames free"];
    let mut columns = Columns::new(&titles);
    for it in &dataplane.workers {
        columns.add([
            it.worker.to_string(),
            if it.cpu < 0 { "any".into() } else { it.cpu.to_string() },
            show_count(it.turns),
            show_count(it.rx_packets),
            show_count(it.tx_packets),
            show_count(it.dropped_packets),
            format!("{}/{}", it.flows, it.flows_max),
            format!("{}/{}", it.frames_free, it.frames_home),
        ]);
    }
    columns
}

/// The fullest of each kind, and every one that is nearly full.
fn pool_table(gauges: &[Gauge]) -> Columns {
    let mut fullest: BTreeMap<&str, &Gauge> = BTreeMap::new();
    let fill = |it: &Gauge| percent(it.used, it.limit);
    for it in gauges {
        let known = fullest.entry(&it.name).or_insert(it);
        if fill(it) > fill(known) {
            *known = it;
        }
    }
    let mut columns = Columns::new(&["pool", "fullest", ">used", ">limit", ">percent", ""]);
    for it in gauges {
        if !is_full(it) && !std::ptr::eq(fullest[it.name.as_str()], it) {
            continue;
        }
        columns.add([
            it.name.clone(),
            gauge_owner(it),
            it.used.to_string(),
            it.limit.to_string(),
            format!("{} %", fill(it)),
            if is_full(it) { "! nearly full".into() } else { String::new() },
        ]);
    }
    columns
}
