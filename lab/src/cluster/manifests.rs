//! A cluster's objects as a user of Kubernetes would write them.

use std::{fmt::Write as _, net::SocketAddr};

use super::{
    network::{node_addresses, pod_ranges},
    node_name,
};
use crate::testbed::{Addresses, ECHO_PORT, HTTP_PORT};

/// A kind of address that a service answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ClusterIp,
    /// At this node's address, from 0.
    NodePort(u8),
    LoadBalancer,
    ExternalIp,
}

/// A port that every service of a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Http,
    Echo,
    Iperf,
    Dns,
}

impl Port {
    /// Name, protocol, port, port of the backend, and the first of its node ports.
    const ALL: [(&str, &str, u16, u16, u16); 6] = [
        ("http", "TCP", 80, HTTP_PORT, 30_000),
        ("echo", "UDP", 7, ECHO_PORT, 30_000),
        ("iperf", "TCP", 5201, 5201, 31_000),
        ("iperf-udp", "UDP", 5201, 5201, 31_000),
        ("dns", "TCP", 53, 53, 32_000),
        ("dns-udp", "UDP", 53, 53, 32_000),
    ];

    fn numbers(self) -> (u16, u16) {
        let index = match self {
            Self::Http => 0,
            Self::Echo => 1,
            Self::Iperf => 2,
            Self::Dns => 4,
        };
        let (_, _, port, _, node_port) = Self::ALL[index];
        (port, node_port)
    }
}

/// One backend of a service.
#[derive(Clone, Copy, Debug)]
pub struct BackendAt {
    pub addresses: Addresses,
    /// The number of its node, from 0.
    pub node: u8,
}

/// A Service of type LoadBalancer with an external IP, dual stack, and its EndpointSlices.
#[derive(Clone, Debug)]
pub struct ClusterService {
    pub name: &'static str,
    /// Below 100: the last part of its addresses and node ports.
    pub number: u8,
    pub backends: Vec<BackendAt>,
    /// More lines of its spec, each `field: value`.
    pub spec: Vec<&'static str>,
}

impl ClusterService {
    /// Where it answers.
    #[must_use]
    pub fn at(&self, kind: Kind, family: usize, port: Port) -> SocketAddr {
        let (port, node_port) = port.numbers();
        let (addresses, port) = match kind {
            Kind::ClusterIp => (self.cluster_ip(), port),
            Kind::NodePort(node) => (node_addresses(node), node_port + u16::from(self.number)),
            Kind::LoadBalancer => (self.outside(0), port),
            Kind::ExternalIp => (self.outside(100), port),
        };
        SocketAddr::new(addresses.both()[family], port)
    }

    fn cluster_ip(&self) -> Addresses {
        let number = self.number;
        Addresses::new([10, 96, 0, number], [0xfd00, 0x10, 0x96, 0, 0, 0, 0, number.into()])
    }

    fn outside(&self, first: u8) -> Addresses {
        let number = first + self.number;
        Addresses::new([203, 0, 113, number], [0x2001, 0xdb8, 2, 0, 0, 0, 0, number.into()])
    }

    /// The Service and two slices.
    #[must_use]
    pub fn yaml(&self) -> String {
        let (inside, balancer, external) = (self.cluster_ip(), self.outside(0), self.outside(100));
        let mut ports = String::new();
        let mut targets = String::new();
        for (name, protocol, port, target, node_port) in Port::ALL {
            let node_port = node_port + u16::from(self.number);
            let _ = write!(
                ports,
                "\n    - {{name: {name}, protocol: {protocol}, port: {port}, \
                 targetPort: {target}, nodePort: {node_port}}}"
            );
            let _ = write!(targets, "\n- {{name: {name}, protocol: {protocol}, port: {target}}}");
        }
        let spec: String = self.spec.iter().map(|line| format!("\n  {line}")).collect();
        let mut yaml = format!(
            r#"apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  clusterIP: {v4}
  clusterIPs: [{v4}, "{v6}"]
  externalIPs: [{ext4}, "{ext6}"]{spec}
  ports:{ports}
status:
  loadBalancer: {{ingress: [{{ip: {out4}}}, {{ip: "{out6}"}}]}}
"#,
            name = self.name,
            v4 = inside.v4,
            v6 = inside.v6,
            ext4 = external.v4,
            ext6 = external.v6,
            out4 = balancer.v4,
            out6 = balancer.v6,
        );
        for family in [0, 1] {
            yaml.push_str(&self.slice(family, &targets));
        }
        yaml
    }

    fn slice(&self, family: usize, targets: &str) -> String {
        let version = [4, 6][family];
        let mut endpoints = String::new();
        for BackendAt { addresses, node } in &self.backends {
            let (address, node) = (addresses.both()[family], node_name(*node));
            let _ = write!(
                endpoints,
                "\n- {{addresses: [\"{address}\"], nodeName: {node}, conditions: {{ready: true}}}}"
            );
        }
        if endpoints.is_empty() {
            endpoints.push_str(" []");
        }
        format!(
            r"---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-{version}
  namespace: default
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv{version}
ports:{targets}
endpoints:{endpoints}
",
            name = self.name,
        )
    }
}

/// A Node with its range of pods.
#[must_use]
pub fn cluster_node_yaml(number: u8) -> String {
    let Addresses { v4, v6 } = node_addresses(number);
    let [pods4, pods6] = pod_ranges(number);
    let name = node_name(number);
    format!(
        r#"apiVersion: v1
kind: Node
metadata: {{name: {name}}}
spec: {{podCIDR: {pods4}, podCIDRs: [{pods4}, "{pods6}"]}}
status:
  addresses: [{{type: InternalIP, address: {v4}}}, {{type: InternalIP, address: "{v6}"}}]
"#
    )
}
