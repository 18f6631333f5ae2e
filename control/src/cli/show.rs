//! The commands that ask the agent or the dataplane and print the answer.

use std::time::Duration;

use anyhow::anyhow;
use weir_api::paths::Paths;
use weir_api::socket::{connect_agent, connect_observe};
use weir_api::v1::{AttachEndpointRequest, DetachEndpointRequest, FlowsRequest, ServicesRequest};

use super::table::Columns;
use super::{Output, json, print_json};

/// `weir service list`.
pub(super) async fn services(paths: &Paths, output: Output) -> anyhow::Result<()> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    let reply = client.services(ServicesRequest {}).await.map_err(explain)?.into_inner();
    let services: Vec<json::Service> = reply.services.into_iter().map(Into::into).collect();
    if output == Output::Json {
        return print_json(&services);
    }
    let titles = ["service", "type", "frontend", "algorithm", "options", "backends"];
    let mut columns = Columns::new(&titles);
    for it in services {
        let mut backends = list_backends(&it.backends);
        if let Some(external) = &it.external_backends {
            backends = format!("{backends}; for clients outside: {}", list_backends(external));
        }
        let options = list_options(&it);
        columns.add([it.name, it.type_, it.frontend, it.algorithm, options, backends]);
    }
    columns.print("no services");
    Ok(())
}

fn list_backends(backends: &[json::Backend]) -> String {
    let describe = |it: &json::Backend| match (it.state.as_str(), it.weight) {
        ("active", 100) => it.address.clone(),
        ("active", weight) => format!("{} (weight {weight})", it.address),
        (state, _) => format!("{} ({state})", it.address),
    };
    let backends: Vec<String> = backends.iter().map(describe).collect();
    if backends.is_empty() { "none".into() } else { backends.join(", ") }
}

/// What is not the default.
fn list_options(service: &json::Service) -> String {
    let mut options = Vec::new();
    if !service.announced_by.is_empty() {
        options.push(format!("announced by {}", service.announced_by));
    }
    if service.forwarding == "dsr" {
        options.push("dsr".to_owned());
    }
    if service.affinity_timeout_s > 0 {
        options.push(format!("affinity {} s", service.affinity_timeout_s));
    }
    if !service.source_ranges.is_empty() {
        let what = if service.source_ranges_deny { "not from" } else { "from" };
        options.push(format!("{what} {}", service.source_ranges.join(" ")));
    }
    if options.is_empty() { "-".into() } else { options.join(", ") }
}

/// `weir flow list`.
pub(super) async fn flows(paths: &Paths, output: Output, limit: u32) -> anyhow::Result<()> {
    let mut client = connect_observe(&paths.dataplane_socket()).await?;
    let mut stream = client.flows(FlowsRequest { limit }).await.map_err(explain)?.into_inner();
    let mut flows: Vec<json::Flow> = Vec::new();
    while let Some(flow) = stream.message().await.map_err(explain)? {
        flows.push(flow.into());
    }
    if output == Output::Json {
        return print_json(&flows);
    }
    let titles = [
        ">worker",
        "proto",
        "source",
        "destination",
        "becomes",
        "state",
        ">packets",
        ">bytes",
        ">idle",
    ];
    let mut columns = Columns::new(&titles);
    for it in flows {
        let translated = [it.translated_source.as_str(), it.translated_destination.as_str()];
        let becomes = match translated {
            ["", ""] => "-".into(),
            ["", to] => format!("to {to}"),
            [from, ""] => format!("from {from}"),
            [from, to] => format!("from {from} to {to}"),
        };
        columns.add([
            it.worker.to_string(),
            it.protocol.to_owned(),
            it.source,
            it.destination,
            becomes,
            it.state,
            it.packets.to_string(),
            it.bytes.to_string(),
            format!("{:.1?}", Duration::from_nanos(it.idle_ns)),
        ]);
    }
    columns.print("no flows");
    Ok(())
}

/// `weir endpoint attach`.
pub(super) async fn attach(
    paths: &Paths,
    output: Output,
    request: AttachEndpointRequest,
) -> anyhow::Result<()> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    let name = request.name.clone();
    let revision = client.attach_endpoint(request).await.map_err(explain)?.into_inner().revision;
    match output {
        Output::Json => print_json(&json::Attached { name, revision })?,
        Output::Table => println!("{name}: attached, in revision {revision}"),
    }
    Ok(())
}

/// `weir endpoint detach`.
pub(super) async fn detach(paths: &Paths, output: Output, name: String) -> anyhow::Result<()> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    let request = DetachEndpointRequest { name: name.clone() };
    let existed = client.detach_endpoint(request).await.map_err(explain)?.into_inner().existed;
    match (output, existed) {
        (Output::Json, _) => print_json(&json::Detached { name, existed })?,
        (Output::Table, true) => println!("{name}: detached"),
        (Output::Table, false) => println!("{name}: was not attached"),
    }
    Ok(())
}

/// A status as its message alone: the codes mean nothing to people.
pub(super) fn explain(status: tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow!("the call failed: {:?}", status.code()),
        message => anyhow!("{message}"),
    }
}
