//! What `weir status` prints. Read again by `kubectl weir`, also where the node runs another
//! version.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use weir_api::v1;

/// `weir status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Status {
    /// Name of the node.
    pub node: String,
    pub state: State,
    /// Why it is not healthy, the worst first; those that change nothing come last.
    pub findings: Vec<Finding>,
    pub agent: Option<Agent>,
    pub dataplane: Option<Dataplane>,
    /// Why one of them is absent.
    pub errors: Vec<String>,
}

/// The node as a whole.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in super::super) enum State {
    #[default]
    Healthy,
    /// It works, and something is wrong.
    Degraded,
    /// The agent or the dataplane does not answer.
    Unreachable,
}

impl State {
    /// The exit status that tells it: 0, 1 or 2.
    pub(in super::super) fn exit_status(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Degraded => 1,
            Self::Unreachable => 2,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unreachable => "unreachable",
        })
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Finding {
    pub severity: Severity,
    /// What it is about: "agent", "pool", "Service default/web (web.yaml:9)".
    pub subject: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// How bad a finding is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in super::super) enum Severity {
    /// A process does not answer.
    Unreachable,
    /// Something of weir does not work as it should.
    Degraded,
    /// An object, or a part of it, does not apply.
    Refused,
    /// A part of an object has no effect. The node is healthy all the same.
    Ignored,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unreachable => "unreachable",
            Self::Degraded => "degraded",
            Self::Refused => "refused",
            Self::Ignored => "ignored",
        })
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Agent {
    pub version: String,
    pub pid: u32,
    pub node: String,
    /// Where its objects come from: "kubernetes https://...", "manifests /dir".
    pub source: String,
    pub source_state: String,
    pub synced: bool,
    pub dataplane_connected: bool,
    /// Why it is not connected.
    pub link_reason: String,
    pub sent_revision: u64,
    pub acknowledged_revision: u64,
    pub services: u32,
    pub backends: u32,
    pub endpoints: u32,
    /// Network policies of all kinds.
    pub policies: u32,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) struct Problem {
    pub object: String,
    pub location: String,
    /// "refused" or "ignored".
    pub severity: Severity,
    pub reason: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Dataplane {
    pub version: String,
    pub pid: u32,
    pub uptime_ns: u64,
    pub accepted_revision: u64,
    pub snapshot_revision: u64,
    pub from_disk: bool,
    pub agent_connected: bool,
    pub adopted_flows: u32,
    /// Largest IP packet of pods, bytes.
    pub mtu: u32,
    /// What the kernel and the devices can do.
    pub capabilities: BTreeMap<String, String>,
    pub degraded: Vec<String>,
    pub workers: Vec<Worker>,
    pub devices: Vec<Device>,
    pub gauges: Vec<Gauge>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Worker {
    pub worker: u32,
    /// -1: not pinned.
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

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Device {
    pub name: String,
    pub queue: u32,
    pub worker: u32,
    pub xdp_mode: String,
    pub reason: String,
    pub counters: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Gauge {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub used: u64,
    pub limit: u64,
}

impl From<v1::AgentStatus> for Agent {
    fn from(it: v1::AgentStatus) -> Self {
        Self {
            version: it.version,
            pid: it.pid,
            node: it.node,
            source: it.source,
            source_state: it.source_state,
            synced: it.synced,
            dataplane_connected: it.dataplane_connected,
            link_reason: it.link_reason,
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
            v1::Severity::Ignored => Severity::Ignored,
            v1::Severity::Refused | v1::Severity::Unspecified => Severity::Refused,
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
            mtu: it.mtu,
            capabilities: it.capabilities,
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
