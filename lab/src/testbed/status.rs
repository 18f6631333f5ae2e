//! What `weir ... -o json` says, as far as the testbed and its users read it.

use serde::Deserialize;

/// `weir status`; a part that does not answer is absent.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub agent: Option<Agent>,
    pub dataplane: Option<Dataplane>,
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Agent {
    pub pid: u32,
    pub synced: bool,
    pub dataplane_connected: bool,
    pub sent_revision: u64,
    pub acknowledged_revision: u64,
    pub services: u32,
    pub backends: u32,
    pub endpoints: u32,
    pub problems: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Dataplane {
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
}

#[derive(Clone, Debug, Deserialize)]
pub struct Worker {
    pub worker: u32,
    pub cpu: i32,
    pub snapshot_revision: u64,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub dropped_packets: u64,
    pub flows: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    pub name: String,
    pub queue: u32,
    pub worker: u32,
    pub xdp_mode: String,
}

/// One line of `weir service list`.
#[derive(Clone, Debug, Deserialize)]
pub struct Frontend {
    /// `namespace/name:port` of the Service.
    pub name: String,
    pub frontend: String,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Backend {
    pub address: String,
    pub state: String,
}

/// `weir drops`.
#[derive(Clone, Debug, Deserialize)]
pub struct Drops {
    pub drops: Vec<Drop>,
}

/// One reason to drop packets.
#[derive(Clone, Debug, Deserialize)]
pub struct Drop {
    pub reason: String,
    pub packets: u64,
}

impl Frontend {
    /// `namespace/name` of the Service.
    #[must_use]
    pub fn service(&self) -> &str {
        self.name.split_once(':').map_or(&self.name, |(service, _)| service)
    }
}

impl Status {
    /// Whether the agent has read its manifests and every worker runs what it made of them.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        // The dataplane acknowledges a revision when every worker runs it.
        self.agent.as_ref().is_some_and(|agent| {
            agent.synced
                && agent.dataplane_connected
                && agent.acknowledged_revision == agent.sent_revision
        })
    }
}
