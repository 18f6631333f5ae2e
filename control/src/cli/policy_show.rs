//! `weir policy show` and `weir drops`: what is enforced, and what became of packets.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_api::paths::Paths;
use weir_api::socket::connect_observe;
use weir_api::v1::{DropsRequest, PolicyRequest, VerdictKind, VerdictsRequest};

use super::show::explain;
use super::table::Columns;
use super::{Output, json, print_json};

/// Denied packets that a table shows; JSON has all that the dataplane keeps.
const RECENT_SHOWN: usize = 20;

/// All endpoints, or one of them with its rules.
pub(super) async fn show(
    paths: &Paths,
    output: Output,
    endpoint: Option<String>,
) -> anyhow::Result<()> {
    let mut client = connect_observe(&paths.dataplane_socket()).await?;
    let has_rules = endpoint.is_some();
    let request = PolicyRequest { endpoint: endpoint.unwrap_or_default() };
    let reply = client.policy(request).await.map_err(explain)?.into_inner();
    let counts = client.verdicts(VerdictsRequest {}).await.map_err(explain)?.into_inner().counts;
    let mut totals: BTreeMap<String, json::VerdictTotals> = BTreeMap::new();
    for count in counts {
        totals.entry(count.endpoint.clone()).or_default().add(&count);
    }
    let complete = |it: weir_api::v1::EndpointPolicy| {
        let totals = totals.remove(&it.name).unwrap_or_default();
        json::EndpointPolicy::new(it, totals, has_rules)
    };
    let endpoints: Vec<json::EndpointPolicy> = reply.endpoints.into_iter().map(complete).collect();
    match (output, endpoints.as_slice()) {
        (Output::Json, [it]) if has_rules => print_json(it),
        (Output::Json, all) => print_json(&all),
        (Output::Table, [it]) if has_rules => {
            print_endpoint(it);
            Ok(())
        }
        (Output::Table, all) => {
            print_endpoints(all);
            Ok(())
        }
    }
}

fn print_endpoints(endpoints: &[json::EndpointPolicy]) {
    let titles = [
        "endpoint",
        ">identity",
        "rules",
        "ingress",
        "egress",
        "audit",
        ">allowed",
        ">denied",
        ">audited",
    ];
    let mut columns = Columns::new(&titles);
    for it in endpoints {
        let state = |is_enforced| match (it.closed, is_enforced) {
            (true, _) => "closed".to_owned(),
            (false, true) => "enforced".into(),
            (false, false) => "open".into(),
        };
        columns.add([
            it.name.clone(),
            it.identity.to_string(),
            if it.policy_rules.is_empty() { "-".into() } else { it.policy_rules.clone() },
            state(it.ingress_enforced),
            state(it.egress_enforced),
            if it.audited { "yes".into() } else { "no".into() },
            it.verdicts.allowed.to_string(),
            (it.verdicts.denied + it.verdicts.redirected).to_string(),
            it.verdicts.audited.to_string(),
        ]);
    }
    columns.print("no endpoints");
}

fn print_endpoint(endpoint: &json::EndpointPolicy) {
    println!("endpoint  {}", endpoint.name);
    println!("identity  {}", endpoint.identity);
    for label in &endpoint.labels {
        println!("  {label}");
    }
    let (name, since) = (&endpoint.policy_rules, endpoint.since_revision);
    match (name.is_empty(), endpoint.closed) {
        (true, _) => println!("rules     none: no policy selects it, everything is allowed"),
        (false, true) => println!(
            "rules     {name}, closed: they are missing or were refused, so everything is denied; \
             weir status says why"
        ),
        (false, false) => println!("rules     {name}, since revision {since}"),
    }
    if endpoint.audited {
        println!("audit     what is denied passes all the same, and is counted as audited");
    }
    if name.is_empty() || endpoint.closed {
        return;
    }
    let directions = [
        ("ingress", endpoint.ingress_enforced, &endpoint.ingress),
        ("egress", endpoint.egress_enforced, &endpoint.egress),
    ];
    for (direction, is_enforced, rules) in directions {
        println!();
        match is_enforced {
            true => println!("{direction}: the first rule that matches decides"),
            false => println!("{direction}: open, no policy is about it"),
        }
        print_rules(rules.as_deref().unwrap_or_default());
    }
}

fn print_rules(rules: &[json::EnforcedRule]) {
    if rules.is_empty() {
        return;
    }
    let titles = [">", "tier", "action", "peers", "ports", ">verdicts", "origin"];
    let mut columns = Columns::new(&titles);
    for (at, it) in rules.iter().enumerate() {
        let peers = match (it.any_peer, it.selectors.len()) {
            (true, _) => "any".to_owned(),
            (false, 0) => "nobody".into(),
            (false, 1) => format!("{} identities, 1 selector", it.identities),
            (false, selectors) => format!("{} identities, {selectors} selectors", it.identities),
        };
        columns.add([
            (at + 1).to_string(),
            it.tier.clone(),
            it.action.to_owned(),
            peers,
            if it.ports.is_empty() { "all".into() } else { it.ports.join(", ") },
            it.verdicts.to_string(),
            it.origin.clone(),
        ]);
    }
    columns.print("no rules");
}

/// `weir drops`.
pub(super) async fn drops(paths: &Paths, output: Output, all: bool) -> anyhow::Result<()> {
    let mut client = connect_observe(&paths.dataplane_socket()).await?;
    let reply = client.drops(DropsRequest {}).await.map_err(explain)?.into_inner();
    let verdicts = client.verdicts(VerdictsRequest {}).await.map_err(explain)?.into_inner();
    let counts = verdicts.counts.into_iter();
    let recent = verdicts.recent.into_iter();
    let drops = json::Drops {
        drops: reply.drops.into_iter().map(Into::into).collect(),
        denied: counts.filter(|it| it.verdict() != VerdictKind::Allowed).map(Into::into).collect(),
        recent: recent.filter(|it| it.verdict() != VerdictKind::Allowed).map(Into::into).collect(),
    };
    match output {
        Output::Json => print_json(&drops),
        Output::Table => {
            print_drops(drops, all);
            Ok(())
        }
    }
}

fn print_drops(drops: json::Drops, all: bool) {
    let mut columns = Columns::new(&[">packets", "reason", "meaning"]);
    for it in drops.drops.into_iter().filter(|it| all || it.packets > 0) {
        columns.add([it.packets.to_string(), it.reason, it.description]);
    }
    columns.print("no drops");
    if !drops.denied.is_empty() {
        println!("\nnot allowed by policy:");
        let titles = [">verdicts", "verdict", "endpoint", "direction", "rule"];
        let mut columns = Columns::new(&titles);
        for it in drops.denied {
            let (direction, verdict) = (it.direction.to_owned(), it.verdict.to_owned());
            columns.add([it.count.to_string(), verdict, it.endpoint, direction, it.rule]);
        }
        columns.print("none");
    }
    if !drops.recent.is_empty() {
        println!("\nthe last of them:");
        let titles = [
            ">ago",
            "verdict",
            "from",
            "to",
            "port",
            "peer",
            "endpoint",
            "direction",
            ">revision",
            "rule",
        ];
        let mut columns = Columns::new(&titles);
        let skipped = drops.recent.len().saturating_sub(RECENT_SHOWN);
        for it in drops.recent.into_iter().skip(skipped) {
            columns.add([
                format!("{:.1?}", Duration::from_nanos(it.ago_ns)),
                it.verdict.to_owned(),
                it.source,
                it.destination,
                it.port,
                it.peer_identity.to_string(),
                it.endpoint,
                it.direction.to_owned(),
                it.revision.to_string(),
                it.rule,
            ]);
        }
        columns.print("none");
    }
}
