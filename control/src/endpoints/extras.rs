//! What a CNI runtime asks for beside an interface, as it is kept on disk.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weir_api::convert::parse_l4_port;
use weir_api::object::protocol_name;
use weir_api::v1::{Bandwidth, PortMapping, Protocol};

use crate::model::HostPort;

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedPort {
    host_port: u16,
    container_port: u16,
    protocol: MappedProtocol,
    /// `None`: all addresses of the node.
    host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum MappedProtocol {
    Tcp,
    Udp,
    Sctp,
}

impl MappedPort {
    /// Reads a port mapping.
    ///
    /// # Errors
    /// What is wrong with it, and what to give.
    pub(super) fn read(mapping: &PortMapping) -> Result<Self, String> {
        let protocol = match mapping.protocol() {
            Protocol::Tcp => MappedProtocol::Tcp,
            Protocol::Udp => MappedProtocol::Udp,
            Protocol::Sctp => MappedProtocol::Sctp,
            other => {
                let name = protocol_name(other);
                return Err(format!("port mapping: {name} has no ports: give TCP, UDP or SCTP"));
            }
        };
        let read_port = |what: &str, port| {
            parse_l4_port(port).map_err(|error| format!("port mapping: {what}: {error}"))
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                format!("port mapping: {text:?} is not an IP address: give one of the node")
            })?),
        };
        Ok(Self {
            host_port: read_port("port of the host", mapping.host_port)?,
            container_port: read_port("port of the container", mapping.container_port)?,
            protocol,
            host_ip,
        })
    }

    pub(super) fn to_host_port(&self) -> HostPort {
        HostPort {
            host_ip: self.host_ip,
            l4_port: self.host_port,
            protocol: match self.protocol {
                MappedProtocol::Tcp => Protocol::Tcp,
                MappedProtocol::Udp => Protocol::Udp,
                MappedProtocol::Sctp => Protocol::Sctp,
            },
            container_port: self.container_port,
        }
    }
}

/// How fast a pod may receive and send; rates of 0 are no limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BandwidthLimits {
    ingress_bits_per_s: u64,
    ingress_burst_bits: u64,
    egress_bits_per_s: u64,
    egress_burst_bits: u64,
}

impl BandwidthLimits {
    /// `None` where nothing is limited.
    pub(super) fn read(it: &Bandwidth) -> Option<Self> {
        (it.ingress_bits_per_s > 0 || it.egress_bits_per_s > 0).then_some(Self {
            ingress_bits_per_s: it.ingress_bits_per_s,
            ingress_burst_bits: it.ingress_burst_bits,
            egress_bits_per_s: it.egress_bits_per_s,
            egress_burst_bits: it.egress_burst_bits,
        })
    }

    pub(super) fn to_wire(self) -> Bandwidth {
        Bandwidth {
            ingress_bits_per_s: self.ingress_bits_per_s,
            ingress_burst_bits: self.ingress_burst_bits,
            egress_bits_per_s: self.egress_bits_per_s,
            egress_burst_bits: self.egress_burst_bits,
        }
    }
}
