//! What `-o json` prints. Field names are stable: scripts read them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use weir_api::convert::parse_address;
use weir_api::object::protocol_name;
use weir_api::v1;

mod policy;

pub(super) use policy::{Drops, EndpointPolicy, EnforcedRule, VerdictTotals};

/// `weir status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub agent: Option<Agent>,
    pub dataplane: Option<Dataplane>,
    /// Why one of them is absent.
    pub errors: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Agent {
    pub version: String,
    pub pid: u32,
    pub node: String,
    pub synced: bool,
    pub dataplane_connected: bool,
    pub sent_revision: u64,
    pub acknowledged_revision: u64,
    pub services: u32,
    pub backends: u32,
    pub endpoints: u32,
    /// Network policies of all kinds.
    pub policies: u32,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub object: String,
    pub location: String,
    pub severity: &'static str,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Dataplane {
    pub version: String,
    pub pid: u32,
    pub uptime_ns: u64,
    pub accepted_revision: u64,
    pub snapshot_revision: u64,
    pub from_disk: bool,
    pub agent_connected: bool,
    pub adopted_flows: u32,
    pub degraded: Vec<String>,
    pub workers: Vec<Worker>,
    pub devices: Vec<Device>,
    pub gauges: Vec<Gauge>,
}

#[derive(Debug, Serialize)]
pub(super) struct Worker {
    pub worker: u32,
    pub cpu: i32,
    pub snapshot_revision: u64,
    pub turns: u64,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub dropped_packets: u64,
    pub flows: u64,
    pub flows_max: u64,
    pub frames_free: u64,
    pub frames_home: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Device {
    pub name: String,
    pub queue: u32,
    pub worker: u32,
    pub xdp_mode: String,
    pub reason: String,
    pub counters: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Gauge {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub used: u64,
    pub limit: u64,
}

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
}

#[derive(Debug, Serialize)]
pub(super) struct Backend {
    pub address: String,
    pub state: String,
    pub weight: u32,
    /// Empty where not known.
    pub node_address: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Endpoint {
    pub name: String,
    pub interface: String,
    pub ifindex: u32,
    pub mac: String,
    pub addresses: Vec<String>,
    pub state: String,
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

impl From<v1::AgentStatus> for Agent {
    fn from(it: v1::AgentStatus) -> Self {
        Self {
            version: it.version,
            pid: it.pid,
            node: it.node,
            synced: it.synced,
            dataplane_connected: it.dataplane_connected,
            sent_revision: it.sent_revision,
            acknowledged_revision: it.acknowledged_revision,
            services: it.services,
            backends: it.backends,
            endpoints: it.endpoints,
            policies: it.policies,
            problems: it.problems.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::Problem> for Problem {
    fn from(it: v1::Problem) -> Self {
        let severity = match it.severity() {
            v1::Severity::Ignored => "ignored",
            v1::Severity::Refused | v1::Severity::Unspecified => "refused",
        };
        Self { object: it.object, location: it.location, severity, reason: it.reason }
    }
}

impl From<v1::DataplaneStatus> for Dataplane {
    fn from(it: v1::DataplaneStatus) -> Self {
        Self {
            version: it.version,
            pid: it.pid,
            uptime_ns: it.uptime_ns,
            accepted_revision: it.accepted_revision,
            snapshot_revision: it.snapshot_revision,
            from_disk: it.from_disk,
            agent_connected: it.agent_connected,
            adopted_flows: it.adopted_flows,
            degraded: it.degraded,
            workers: it.workers.into_iter().map(Into::into).collect(),
            devices: it.devices.into_iter().map(Into::into).collect(),
            gauges: it.gauges.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::WorkerStatus> for Worker {
    fn from(it: v1::WorkerStatus) -> Self {
        Self {
            worker: it.worker,
            cpu: it.cpu,
            snapshot_revision: it.snapshot_revision,
            turns: it.turns,
            rx_packets: it.rx_packets,
            tx_packets: it.tx_packets,
            dropped_packets: it.dropped_packets,
            flows: it.flows,
            flows_max: it.flows_max,
            frames_free: it.frames_free,
            frames_home: it.frames_home,
        }
    }
}

impl From<v1::DeviceStatus> for Device {
    fn from(it: v1::DeviceStatus) -> Self {
        Self {
            name: it.name,
            queue: it.queue,
            worker: it.worker,
            xdp_mode: it.xdp_mode,
            reason: it.reason,
            counters: it.counters,
        }
    }
}

impl From<v1::Gauge> for Gauge {
    fn from(it: v1::Gauge) -> Self {
        Self { name: it.name, labels: it.labels, used: it.used, limit: it.limit }
    }
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
        }
    }
}

impl From<v1::EndpointState> for Endpoint {
    fn from(it: v1::EndpointState) -> Self {
        Self {
            name: it.name,
            interface: it.interface,
            ifindex: it.ifindex,
            mac: it.mac,
            addresses: it.addresses,
            state: it.state,
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
