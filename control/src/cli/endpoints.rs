//! `weir endpoint list`: the pods of the node, with what policy enforces at each.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use weir_api::paths::Paths;
use weir_api::socket::{connect_agent, connect_observe};
use weir_api::v1::{EndpointsRequest, PolicyRequest};

use super::human::{show_duration, show_rate};
use super::show::explain;
use super::table::Columns;
use super::{Output, json, print_json};
use crate::clock::wall_time;

/// Lists them. Without the dataplane what policy enforces is not known, and standard error says so.
pub(super) async fn list(paths: &Paths, output: Output) -> anyhow::Result<()> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    let reply = client.endpoints(EndpointsRequest {}).await.map_err(explain)?.into_inner();
    let mut endpoints: Vec<json::Endpoint> = reply.endpoints.into_iter().map(Into::into).collect();
    match ask_policy(paths).await {
        Ok(mut policies) => {
            for it in &mut endpoints {
                it.policy = policies.remove(&it.name);
            }
        }
        Err(error) => eprintln!("without identities and policy: {error:#}"),
    }
    match output {
        Output::Json => print_json(&endpoints)?,
        Output::Table => {
            let rows = endpoints.iter().map(|it| (None, it));
            endpoint_table(rows).print("no endpoints");
        }
    }
    Ok(())
}

async fn ask_policy(paths: &Paths) -> anyhow::Result<BTreeMap<String, json::EndpointRules>> {
    let mut client = connect_observe(&paths.dataplane_socket()).await?;
    let request = PolicyRequest { endpoint: String::new() };
    let reply = client.policy(request).await.map_err(explain)?.into_inner();
    Ok(reply.endpoints.into_iter().map(|it| (it.name.clone(), it.into())).collect())
}

/// Endpoints, with their nodes where several are shown. Columns that nobody fills are left out.
pub(super) fn endpoint_table<'a>(
    rows: impl Iterator<Item = (Option<&'a str>, &'a json::Endpoint)> + Clone,
) -> Columns {
    let has_nodes = rows.clone().any(|(node, _)| node.is_some());
    let has_bandwidth = rows.clone().any(|(_, it)| it.bandwidth.is_some());
    let has_audit = rows.clone().any(|(_, it)| it.policy.as_ref().is_some_and(|it| it.audited));
    let has_age = rows.clone().any(|(_, it)| !it.created.is_empty());
    let mut titles = Vec::new();
    titles.extend(has_nodes.then_some("node"));
    titles.extend(["endpoint", "addresses", ">identity", "ingress", "egress", "rules"]);
    titles.extend(has_audit.then_some("audit"));
    titles.extend(["interface", "state"]);
    titles.extend(has_bandwidth.then_some("bandwidth"));
    titles.extend(has_age.then_some(">age"));
    let mut columns = Columns::new(&titles);
    for (node, it) in rows {
        let mut cells = Vec::new();
        cells.extend(has_nodes.then(|| node.unwrap_or_default().to_owned()));
        cells.extend([it.name.clone(), it.addresses.join(", ")]);
        cells.extend(policy_cells(it.policy.as_ref()));
        let is_audited = it.policy.as_ref().is_some_and(|it| it.audited);
        cells.extend(has_audit.then(|| if is_audited { "yes".into() } else { "no".to_owned() }));
        cells.extend([it.interface.clone(), it.state.clone()]);
        cells.extend(has_bandwidth.then(|| show_bandwidth(it.bandwidth)));
        cells.extend(has_age.then(|| show_age(&it.created)));
        columns.add(cells);
    }
    columns
}

/// Identity, ingress, egress and rules.
fn policy_cells(policy: Option<&json::EndpointRules>) -> [String; 4] {
    let Some(it) = policy else { return std::array::from_fn(|_| "?".to_owned()) };
    let direction = |is_enforced| match (it.closed, is_enforced) {
        (true, _) => "closed".to_owned(),
        (false, true) => "enforced".to_owned(),
        (false, false) => "open".to_owned(),
    };
    let rules = if it.rules.is_empty() { "-".into() } else { it.rules.clone() };
    [it.identity.to_string(), direction(it.ingress_enforced), direction(it.egress_enforced), rules]
}

/// `in 10M, out 1.5G` bits per second.
fn show_bandwidth(bandwidth: Option<json::Bandwidth>) -> String {
    let limits = bandwidth.unwrap_or_default();
    let limits = [("in", limits.ingress_bits_per_s), ("out", limits.egress_bits_per_s)];
    let show =
        |(what, rate): &(&str, u64)| (*rate > 0).then(|| format!("{what} {}", show_rate(*rate)));
    let shown: Vec<String> = limits.iter().filter_map(show).collect();
    if shown.is_empty() { "-".into() } else { shown.join(", ") }
}

fn show_age(created: &str) -> String {
    let Ok(created) = created.parse::<Timestamp>() else { return "-".into() };
    // Clocks differ: what was created in the future is new.
    show_duration(wall_time().duration_since(created).try_into().unwrap_or_default())
}
