//! What `-o json` prints. Field names are stable: scripts read them.

use std::net::SocketAddr;

use serde::Serialize;
use weir_api::convert::parse_address;
use weir_api::object::protocol_name;
use weir_api::v1;

mod endpoint;
mod policy;
mod status;

pub(super) use endpoint::{Bandwidth, Endpoint, EndpointRules};
pub(super) use policy::{Drops, EndpointPolicy, EnforcedRule, VerdictTotals};
pub(super) use status::{
    Agent, Dataplane, Device, Finding, Gauge, Problem, Severity, State, Status, Worker,
};

#[derive(Debug, Serialize)]
pub(super) struct Service {
    pub name: String,
    pub frontend: String,
    #[serde(rename = "type")]
    pub type_: String,
    pub algorithm: String,
    pub backends: Vec<Backend>,
    /// For clients outside the cluster; absent: the same.
    pub external_backends: Option<Vec<Backend>>,
    pub affinity_timeout_s: u32,
    pub source_ranges: Vec<String>,
    pub source_ranges_deny: bool,
    /// "snat" or "dsr"; empty for cluster IPs.
    pub forwarding: String,
    /// Empty where no node answers for the address.
    pub announced_by: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Backend {
    pub address: String,
    pub state: String,
    pub weight: u32,
    /// Empty where not known.
    pub node_address: String,
}

/// One direction of one flow; `translated_*` are empty where nothing changes.
#[derive(Debug, Serialize)]
pub(super) struct Flow {
    pub worker: u32,
    pub protocol: &'static str,
    pub source: String,
    pub destination: String,
    pub translated_source: String,
    pub translated_destination: String,
    pub state: String,
    pub packets: u64,
    pub bytes: u64,
    pub idle_ns: u64,
    pub expires_in_ns: u64,
    pub port: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Drop {
    pub reason: String,
    pub packets: u64,
    pub description: String,
}

/// `weir snat top`.
#[derive(Debug, Serialize)]
pub(super) struct SnatUsage {
    pub port_min: u32,
    pub port_max: u32,
    pub flows: u64,
    pub remotes: Vec<SnatRemote>,
    pub clients: Vec<SnatClient>,
}

#[derive(Debug, Serialize)]
pub(super) struct SnatRemote {
    pub protocol: &'static str,
    pub source: String,
    pub destination: String,
    pub worker: u32,
    pub used: u64,
    pub limit: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct SnatClient {
    pub address: String,
    /// `namespace/name` of a pod on this node; empty for others.
    pub endpoint: String,
    pub flows: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct MaglevRun {
    pub slots: usize,
    pub backend: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Attached {
    pub name: String,
    pub revision: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Detached {
    pub name: String,
    pub existed: bool,
}

impl From<v1::ServiceState> for Service {
    fn from(it: v1::ServiceState) -> Self {
        let backend = |it: v1::ServiceBackend| Backend {
            address: it.address,
            state: it.state,
            weight: it.weight,
            node_address: it.node_address,
        };
        let external = it.external_backends.into_iter().map(backend).collect();
        Self {
            name: it.name,
            frontend: it.frontend,
            type_: it.r#type,
            algorithm: it.algorithm,
            backends: it.backends.into_iter().map(backend).collect(),
            external_backends: it.has_external_backends.then_some(external),
            affinity_timeout_s: it.affinity_timeout_s,
            source_ranges: it.source_ranges,
            source_ranges_deny: it.source_ranges_deny,
            forwarding: it.forwarding,
            announced_by: it.announced_by,
        }
    }
}

impl From<v1::Flow> for Flow {
    fn from(it: v1::Flow) -> Self {
        Self {
            worker: it.worker,
            protocol: protocol_name(it.protocol()),
            source: join_address(&it.source, it.source_port),
            destination: join_address(&it.destination, it.destination_port),
            translated_source: join_address(&it.translated_source, it.translated_source_port),
            translated_destination: join_address(
                &it.translated_destination,
                it.translated_destination_port,
            ),
            state: it.state,
            packets: it.packets,
            bytes: it.bytes,
            idle_ns: it.idle_ns,
            expires_in_ns: it.expires_in_ns,
            port: it.port,
        }
    }
}

impl From<v1::DropCount> for Drop {
    fn from(it: v1::DropCount) -> Self {
        Self { reason: it.reason, packets: it.packets, description: it.description }
    }
}

impl From<v1::SnatUsageReply> for SnatUsage {
    fn from(it: v1::SnatUsageReply) -> Self {
        let remote = |it: v1::SnatRemote| SnatRemote {
            protocol: protocol_name(it.protocol()),
            source: show_address(&it.source),
            destination: join_address(&it.destination, it.destination_port),
            worker: it.worker,
            used: it.used,
            limit: it.limit,
        };
        let client = |it: v1::SnatClient| SnatClient {
            address: show_address(&it.address),
            endpoint: String::new(),
            flows: it.flows,
        };
        Self {
            port_min: it.port_min,
            port_max: it.port_max,
            flows: it.flows,
            remotes: it.remotes.into_iter().map(remote).collect(),
            clients: it.clients.into_iter().map(client).collect(),
        }
    }
}

fn show_address(address: &[u8]) -> String {
    parse_address(address).map_or_else(|_| format!("{address:02x?}"), |it| it.to_string())
}

/// `address:port`; empty where the dataplane left the address out.
fn join_address(address: &[u8], port: u32) -> String {
    if address.is_empty() {
        return String::new();
    }
    match (parse_address(address), u16::try_from(port)) {
        (Ok(address), Ok(port)) => SocketAddr::new(address, port).to_string(),
        _ => format!("{address:02x?}:{port}"),
    }
}
