//! What `weir endpoint list` prints. Read again by `kubectl weir`.

use serde::{Deserialize, Serialize};
use weir_api::v1;

/// A pod attached to the node.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Endpoint {
    pub name: String,
    pub interface: String,
    pub ifindex: u32,
    pub mac: String,
    pub addresses: Vec<String>,
    /// "ready", or what is wrong and what to do.
    pub state: String,
    /// RFC 3339: when the pod was created; empty where not known.
    pub created: String,
    /// Absent: as fast as it can.
    pub bandwidth: Option<Bandwidth>,
    /// What the dataplane enforces; absent where it does not answer, or does not have the endpoint.
    pub policy: Option<EndpointRules>,
}

/// Limits in bits per second; 0: none.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct Bandwidth {
    pub ingress_bits_per_s: u64,
    pub egress_bits_per_s: u64,
}

/// Whether there is policy about an endpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct EndpointRules {
    pub identity: u32,
    /// Name of its rules; empty: no policy.
    pub rules: String,
    /// The rules are missing or were refused: everything is denied.
    pub closed: bool,
    pub audited: bool,
    pub ingress_enforced: bool,
    pub egress_enforced: bool,
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
            created: it.created,
            bandwidth: it.bandwidth.map(|it| Bandwidth {
                ingress_bits_per_s: it.ingress_bits_per_s,
                egress_bits_per_s: it.egress_bits_per_s,
            }),
            policy: None,
        }
    }
}

impl From<v1::EndpointPolicy> for EndpointRules {
    fn from(it: v1::EndpointPolicy) -> Self {
        Self {
            identity: it.identity,
            rules: it.policy_rules,
            closed: it.is_closed,
            audited: it.is_audited,
            ingress_enforced: it.has_ingress,
            egress_enforced: it.has_egress,
        }
    }
}
