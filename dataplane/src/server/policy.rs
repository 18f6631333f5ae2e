//! What people ask about policy: what is enforced at the endpoints, and what was decided.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use weir_api::v1 as wire;
use weir_api::v1::{EndpointPolicy, EnforcedRule, PolicyVerdict, VerdictsReply};
use weir_tables::policy::{Direction, L4Protocol, PolicyTable, RuleId};
use weir_tables::{Endpoint, PortId, Snapshot};

use super::convert::{address_bytes, show_direction, show_rule, show_verdict_kind};
use super::shared::Shared;
use crate::verdicts::{RECENT, VerdictEvent, VerdictKind};

/// What is counted apart.
type CountKey = (PortId, Direction, RuleId, VerdictKind);

/// Verdicts by endpoint, direction, rule and kind, over all workers.
pub type Counts = BTreeMap<CountKey, u64>;

/// The verdicts of all workers so far.
pub fn count(shared: &Shared) -> Counts {
    let mut counts = Counts::new();
    for it in shared.workers.iter().flat_map(|view| view.verdicts.counts()) {
        *counts.entry((it.endpoint, it.direction, it.rule, it.kind)).or_default() += it.count;
    }
    counts
}

/// The last verdicts of all workers: what is taken out of their rings stays here for all who ask.
#[derive(Debug, Default)]
pub struct VerdictHistory {
    events: Mutex<VecDeque<(u32, VerdictEvent)>>,
}

impl VerdictHistory {
    /// The last verdicts with their workers, oldest first. Of those that let through and of those
    /// that did not, as many as one worker keeps.
    pub fn read(&self, shared: &Shared) -> Vec<(u32, VerdictEvent)> {
        let logs = (0..).zip(&shared.workers);
        let news = logs.flat_map(|(worker, view)| {
            view.verdicts.drain_recent().into_iter().map(move |event| (worker, event))
        });
        self.add(news)
    }

    fn add(&self, news: impl Iterator<Item = (u32, VerdictEvent)>) -> Vec<(u32, VerdictEvent)> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news: Vec<_> = news.collect();
        // The clock wraps after 49 days; what is older than half of that sorts wrong.
        if let Some((_, first)) = news.first().copied() {
            news.sort_by_key(|(_, event)| event.at_ms.wrapping_sub(first.at_ms) as i32);
        }
        events.extend(news);
        for is_stopped in [false, true] {
            let of_kind = |(_, event): &&(u32, VerdictEvent)| event.kind.is_stopped() == is_stopped;
            let mut surplus = events.iter().filter(of_kind).count().saturating_sub(RECENT);
            events.retain(|event| {
                let goes = surplus > 0 && of_kind(&event);
                surplus -= usize::from(goes);
                !goes
            });
        }
        events.iter().copied().collect()
    }
}

/// What is enforced at the endpoint of a name, with its rules; without a name at all of them,
/// without rules.
pub fn show_endpoints(snapshot: &Snapshot, counts: &Counts, name: &str) -> Vec<EndpointPolicy> {
    let endpoints = snapshot.endpoints().map(|(endpoint, _)| endpoint);
    let mut endpoints: Vec<&Endpoint> =
        endpoints.filter(|endpoint| name.is_empty() || endpoint.name == name).collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    let show = |endpoint| show_endpoint(snapshot, counts, endpoint, !name.is_empty());
    endpoints.into_iter().map(show).collect()
}

fn show_endpoint(
    snapshot: &Snapshot,
    counts: &Counts,
    endpoint: &Endpoint,
    has_rules: bool,
) -> EndpointPolicy {
    let port = endpoint.port;
    let table = snapshot.policy_of(port);
    let identity = snapshot.policy().identity(endpoint.identity);
    let is_closed = endpoint.policy.is_some() && table.is_none_or(|table| table.is_closed());
    let has = |direction| is_closed || table.is_some_and(|table| table.has_rules(direction));
    let rules = |direction| match table {
        Some(table) if has_rules => show_rules(snapshot, counts, port, table, direction),
        _ => Vec::new(),
    };
    EndpointPolicy {
        name: endpoint.name.clone(),
        identity: endpoint.identity.0,
        labels: identity.map_or_else(Vec::new, |identity| identity.labels.clone()),
        policy_rules: endpoint.policy.clone().unwrap_or_default(),
        is_closed,
        is_audited: snapshot.is_audited(port),
        since_revision: table.map_or(0, |table| table.since()),
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
        has_ingress: has(Direction::Ingress),
        has_egress: has(Direction::Egress),
    }
}

fn show_rules(
    snapshot: &Snapshot,
    counts: &Counts,
    port: PortId,
    table: &PolicyTable,
    direction: Direction,
) -> Vec<EnforcedRule> {
    let identities = snapshot.policy().identities_by_rule(table, direction);
    let numbered = table.rules(direction).zip(identities);
    let show = |((id, rule), identities): ((RuleId, _), Option<u32>)| {
        let of_kind = |kind| counts.get(&(port, direction, id, kind)).copied().unwrap_or(0);
        EnforcedRule {
            rule: Some(show_rule(rule)),
            identities: identities.unwrap_or(0),
            verdicts: VerdictKind::ALL.into_iter().map(of_kind).sum(),
        }
    };
    numbered.map(show).collect()
}

/// What was decided, with names in place of numbers.
pub fn show_verdicts(
    snapshot: &Snapshot,
    counts: &Counts,
    recent: &[(u32, VerdictEvent)],
    now_ms: u32,
) -> VerdictsReply {
    let names: BTreeMap<PortId, &str> =
        snapshot.endpoints().map(|(endpoint, _)| (endpoint.port, &*endpoint.name)).collect();
    // What a worker still counted by an older snapshot is of no endpoint that there is.
    let counted = counts.iter().filter_map(|(&(port, direction, rule, kind), &count)| {
        Some(wire::VerdictCount {
            endpoint: (*names.get(&port)?).to_owned(),
            direction: show_direction(direction).into(),
            verdict: show_verdict_kind(kind).into(),
            rule: origin(snapshot, rule).0,
            count,
        })
    });
    let name = |port: PortId| match names.get(&port) {
        Some(name) => (*name).to_owned(),
        None => format!("a pod that has gone, on interface {}", port.0),
    };
    let show = |(worker, event): &(u32, VerdictEvent)| {
        show_event(snapshot, *worker, event, name(event.endpoint), now_ms)
    };
    VerdictsReply { counts: counted.collect(), recent: recent.iter().map(show).collect() }
}

fn show_event(
    snapshot: &Snapshot,
    worker: u32,
    event: &VerdictEvent,
    endpoint: String,
    now_ms: u32,
) -> PolicyVerdict {
    let (rule, log) = origin(snapshot, event.rule);
    let peer = snapshot.policy().identity(event.peer);
    // Of an ICMP packet the key has an identifier, and what was judged is its type.
    let ports = match event.l4.protocol {
        L4Protocol::Tcp | L4Protocol::Udp | L4Protocol::Sctp => (event.key.sport, event.l4.port),
        L4Protocol::Icmp | L4Protocol::Icmpv6 => (0, event.l4.port),
        L4Protocol::Other => (0, 0),
    };
    PolicyVerdict {
        ago_ns: u64::from(now_ms.wrapping_sub(event.at_ms)) * 1_000_000,
        revision: event.revision,
        worker,
        endpoint,
        direction: show_direction(event.direction).into(),
        verdict: show_verdict_kind(event.kind).into(),
        rule,
        log,
        protocol: event.key.protocol.into(),
        source: address_bytes(&event.key.src),
        source_port: ports.0.into(),
        destination: address_bytes(&event.key.dst),
        destination_port: ports.1.into(),
        peer_identity: event.peer.0,
        peer_labels: peer.map_or_else(Vec::new, |identity| identity.labels.clone()),
    }
}

/// A rule's origin, and its text for the log.
fn origin(snapshot: &Snapshot, rule: RuleId) -> (String, String) {
    match (snapshot.policy().rule(rule), rule) {
        (Some(it), _) => (it.origin.clone(), it.log.clone()),
        (None, RuleId::NONE) => ("no rule is about it".to_owned(), String::new()),
        (None, RuleId::MISSING) => {
            ("its rules are missing or were refused".to_owned(), String::new())
        }
        (None, RuleId(number)) => (format!("rule {number}, which is no more"), String::new()),
    }
}

#[cfg(test)]
mod tests;
