//! The commands that ask the agent or the dataplane and print the answer.

use std::time::Duration;

use anyhow::anyhow;
use weir_api::paths::Paths;
use weir_api::socket::{connect_agent, connect_observe};
use weir_api::v1::{
    AgentStatusRequest, AttachEndpointRequest, DetachEndpointRequest, EndpointsRequest,
    FlowsRequest, ServicesRequest, StatusRequest,
};

use super::table::Columns;
use super::{Output, json, print_json};

/// `weir status`. Prints what answers; fails where one of the two does not.
pub(super) async fn status(paths: &Paths, output: Output) -> anyhow::Result<()> {
    let mut status = json::Status { agent: None, dataplane: None, errors: Vec::new() };
    match ask_dataplane(paths).await {
        Ok(dataplane) => status.dataplane = Some(dataplane),
        Err(error) => status.errors.push(format!("{error:#}")),
    }
    match ask_agent(paths).await {
        Ok(agent) => status.agent = Some(agent),
        Err(error) => status.errors.push(format!("{error:#}")),
    }
    match output {
        Output::Json => print_json(&status)?,
        Output::Table => print_status(&status),
    }
    match status.errors.is_empty() {
        true => Ok(()),
        false => Err(anyhow!("{}", status.errors.join("\n"))),
    }
}

async fn ask_dataplane(paths: &Paths) -> anyhow::Result<json::Dataplane> {
    let mut client = connect_observe(&paths.dataplane_socket()).await?;
    Ok(client.status(StatusRequest {}).await.map_err(explain)?.into_inner().into())
}

async fn ask_agent(paths: &Paths) -> anyhow::Result<json::Agent> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    Ok(client.status(AgentStatusRequest {}).await.map_err(explain)?.into_inner().into())
}

fn print_status(status: &json::Status) {
    if let Some(it) = &status.dataplane {
        let uptime = Duration::from_nanos(it.uptime_ns);
        println!("dataplane  pid {}, version {}, up {:.0?}", it.pid, it.version, uptime);
        let origin = if it.from_disk { ", from disk" } else { "" };
        println!("  state    revision {}{origin}", it.snapshot_revision);
        println!("  agent    {}", if it.agent_connected { "connected" } else { "not connected" });
        if it.adopted_flows > 0 {
            println!("  flows    {} taken over from the process before", it.adopted_flows);
        }
        for reason in &it.degraded {
            println!("  degraded {reason}");
        }
        print_workers(&it.workers);
        print_devices(&it.devices);
    }
    if let Some(it) = &status.agent {
        println!("agent      pid {}, version {}, node {}", it.pid, it.version, it.node);
        let read = if it.synced { "read" } else { "being read" };
        let (services, backends, policies) = (it.services, it.backends, it.policies);
        println!(
            "  source   {read}: {services} services, {backends} backends, {policies} policies"
        );
        println!("  pods     {} attached", it.endpoints);
        let connected = if it.dataplane_connected { "connected" } else { "not connected" };
        let (sent, acknowledged) = (it.sent_revision, it.acknowledged_revision);
        println!("  link     {connected}, revision {sent} sent, {acknowledged} acknowledged");
        print_problems(&it.problems);
    }
}

fn print_workers(workers: &[json::Worker]) {
    let titles =
        [">worker", ">cpu", ">revision", ">rx", ">tx", ">dropped", ">flows", ">frames free"];
    let mut columns = Columns::new(&titles);
    for it in workers {
        columns.add([
            it.worker.to_string(),
            it.cpu.to_string(),
            it.snapshot_revision.to_string(),
            it.rx_packets.to_string(),
            it.tx_packets.to_string(),
            it.dropped_packets.to_string(),
            format!("{}/{}", it.flows, it.flows_max),
            format!("{}/{}", it.frames_free, it.frames_home),
        ]);
    }
    columns.print("no workers");
}

fn print_devices(devices: &[json::Device]) {
    let mut columns = Columns::new(&["device", ">queue", ">worker", "xdp", "why"]);
    for it in devices {
        columns.add([
            it.name.clone(),
            it.queue.to_string(),
            it.worker.to_string(),
            it.xdp_mode.clone(),
            it.reason.clone(),
        ]);
    }
    columns.print("no devices");
}

fn print_problems(problems: &[json::Problem]) {
    for it in problems {
        let parts = [it.location.as_str(), it.object.as_str(), it.severity, it.reason.as_str()];
        let line: Vec<&str> = parts.into_iter().filter(|it| !it.is_empty()).collect();
        println!("  problem  {}", line.join(": "));
    }
}

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

/// `weir endpoint list`.
pub(super) async fn endpoints(paths: &Paths, output: Output) -> anyhow::Result<()> {
    let mut client = connect_agent(&paths.agent_socket()).await?;
    let reply = client.endpoints(EndpointsRequest {}).await.map_err(explain)?.into_inner();
    let endpoints: Vec<json::Endpoint> = reply.endpoints.into_iter().map(Into::into).collect();
    if output == Output::Json {
        return print_json(&endpoints);
    }
    let mut columns =
        Columns::new(&["endpoint", "interface", ">index", "mac", "addresses", "state"]);
    for it in endpoints {
        let addresses = it.addresses.join(", ");
        columns.add([it.name, it.interface, it.ifindex.to_string(), it.mac, addresses, it.state]);
    }
    columns.print("no endpoints");
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
