//! `weir snat top`: who uses the node's source ports.

use std::collections::BTreeMap;

use weir_api::paths::Paths;
use weir_api::socket::{connect_agent, connect_observe};
use weir_api::v1::{EndpointsRequest, SnatUsageRequest};

use super::show::explain;
use super::table::Columns;
use super::{Output, json, print_json};

/// The remotes and the clients with the most ports, at most `limit` of each.
pub(super) async fn top(paths: &Paths, output: Output, limit: u32) -> anyhow::Result<()> {
    let mut client = connect_observe(&paths.dataplane_socket()).await?;
    let reply = client.snat_usage(SnatUsageRequest { limit }).await.map_err(explain)?.into_inner();
    let mut usage = json::SnatUsage::from(reply);
    // The dataplane alone is enough: without the agent, pods are shown by their addresses.
    let names = endpoint_names(paths).await.unwrap_or_default();
    for client in &mut usage.clients {
        client.endpoint = names.get(&client.address).cloned().unwrap_or_default();
    }
    match output {
        Output::Json => print_json(&usage),
        Output::Table => {
            print_usage(usage);
            Ok(())
        }
    }
}

/// The pods of this node by address.
async fn endpoint_names(paths: &Paths) -> anyhow::Result<BTreeMap<String, String>> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    let reply = client.endpoints(EndpointsRequest {}).await.map_err(explain)?.into_inner();
    let by_address = |it: weir_api::v1::EndpointState| {
        let name = it.name;
        it.addresses.into_iter().map(move |address| (address, name.clone()))
    };
    Ok(reply.endpoints.into_iter().flat_map(by_address).collect())
}

fn print_usage(usage: json::SnatUsage) {
    let range = format!("source ports {}-{}", usage.port_min, usage.port_max);
    if usage.flows == 0 {
        return println!("{range}: none in use, no flow leaves with the node's address");
    }
    println!("{range}: {} flows leave with the node's address\n", usage.flows);
    let titles = ["proto", "source", "destination", ">worker", ">used", ">of", ">percent"];
    let mut columns = Columns::new(&titles);
    for it in usage.remotes {
        columns.add([
            it.protocol.to_owned(),
            it.source,
            it.destination,
            it.worker.to_string(),
            it.used.to_string(),
            it.limit.to_string(),
            format!("{:.1}", it.used as f64 * 100.0 / it.limit.max(1) as f64),
        ]);
    }
    columns.print("no remotes");
    println!();
    let mut columns = Columns::new(&["client", "address", ">flows"]);
    for it in usage.clients {
        let name = if it.endpoint.is_empty() { "-".into() } else { it.endpoint };
        columns.add([name, it.address, it.flows.to_string()]);
    }
    columns.print("no clients");
}
