//! The testbed's addresses, and its objects as a user of Kubernetes would write them.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The address of one family or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// From octets, and from groups of 16 bits.
    #[must_use]
    pub const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        let [a, b, c, d] = v4;
        let [e, f, g, h, i, j, k, l] = v6;
        Self { v4: Ipv4Addr::new(a, b, c, d), v6: Ipv6Addr::new(e, f, g, h, i, j, k, l) }
    }

    /// IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The client's address on the network outside (RFC 5737, RFC 3849).
pub const CLIENT: Addresses = Addresses::new([192, 0, 2, 1], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1]);

/// The node's.
pub const NODE: Addresses = Addresses::new([192, 0, 2, 10], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10]);

/// Name of the Node object.
pub const NODE_NAME: &str = "node-1";

/// Ranges that the client reaches through the node: load balancers and pods.
pub(super) const BEHIND_NODE_V4: [&str; 2] = ["203.0.113.0/24", "10.244.0.0/16"];
pub(super) const BEHIND_NODE_V6: [&str; 2] = ["2001:db8:2::/64", "fd00:10:244::/64"];

/// The address of the `number`-th pod, from 0.
#[must_use]
pub fn pod_addresses(number: u16) -> Addresses {
    pod_addresses_on(0, number)
}

/// The same on the `node`-th node, from 0. With fewer than 246 pods a node these are in
/// 10.244.NODE.0/24 and fd00:10:244:NODE::/64.
#[must_use]
pub fn pod_addresses_on(node: u8, number: u16) -> Addresses {
    let number = number + 10;
    let [high, low] = (number + (u16::from(node) << 8)).to_be_bytes();
    let v6 = [0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, read_as_hex(number)];
    Addresses::new([10, 244, high, low], v6)
}

/// The number whose hexadecimal digits are the decimal ones of `number`, below 10,000: people find
/// an IPv6 address by that of IPv4.
fn read_as_hex(number: u16) -> u16 {
    let digits = [1000, 100, 10, 1].map(|place| number / place % 10);
    digits.into_iter().fold(0, |value, digit| value << 4 | digit)
}

/// A port of a Service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    pub name: &'static str,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    pub port: u16,
    pub target_port: u16,
}

/// A Service of type LoadBalancer, dual stack, whose addresses follow from its number.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: &'static str,
    /// Last part of all its addresses.
    pub number: u8,
    /// Selects pods by their label `app`.
    pub app: &'static str,
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Pods labelled `app: web` over HTTP.
    #[must_use]
    pub fn http() -> Self {
        let port = ServicePort { name: "http", protocol: "TCP", port: 80, target_port: HTTP_PORT };
        Self { name: "web", number: 80, app: "web", ports: vec![port] }
    }

    /// The same pods over UDP: an echo, and a port for [`LOAD_PORT`].
    #[must_use]
    pub fn udp() -> Self {
        let echo = ServicePort { name: "echo", protocol: "UDP", port: 7, target_port: ECHO_PORT };
        let load = ServicePort { name: "load", protocol: "UDP", port: 9, target_port: LOAD_PORT };
        Self { name: "echo", number: 7, app: "web", ports: vec![echo, load] }
    }

    /// Its addresses inside the cluster.
    #[must_use]
    pub fn cluster_ip(&self) -> Addresses {
        let v6 = [0xfd00, 0x10, 0x96, 0, 0, 0, 0, read_as_hex(self.number.into())];
        Addresses::new([10, 96, 0, self.number], v6)
    }

    /// Its addresses for the world outside.
    #[must_use]
    pub fn load_balancer(&self) -> Addresses {
        let v6 = [0x2001, 0xdb8, 2, 0, 0, 0, 0, read_as_hex(self.number.into())];
        Addresses::new([203, 0, 113, self.number], v6)
    }

    /// The manifest.
    #[must_use]
    pub fn yaml(&self) -> String {
        let Self { name, app, .. } = self;
        let (inside, outside) = (self.cluster_ip(), self.load_balancer());
        let mut ports = String::new();
        for ServicePort { name, protocol, port, target_port } in &self.ports {
            let _ = write!(
                ports,
                "\n    - {{name: {name}, protocol: {protocol}, port: {port}, \
                 targetPort: {target_port}}}"
            );
        }
        format!(
            r#"apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  type: LoadBalancer
  selector: {{app: {app}}}
  ipFamilyPolicy: RequireDualStack
  clusterIP: {v4}
  clusterIPs: [{v4}, "{v6}"]
  ports:{ports}
status:
  loadBalancer: {{ingress: [{{ip: {out4}}}, {{ip: "{out6}"}}]}}
"#,
            v4 = inside.v4,
            v6 = inside.v6,
            out4 = outside.v4,
            out6 = outside.v6,
        )
    }
}

/// Where the pods' HTTP servers listen.
pub const HTTP_PORT: u16 = 8080;
/// Where the pods' UDP servers listen.
pub const ECHO_PORT: u16 = 7007;
/// Where nothing of the testbed listens: for a packet generator's sinks.
pub const LOAD_PORT: u16 = 7009;

/// A Pod that runs and is ready.
#[must_use]
pub fn pod_yaml(name: &str, app: &str, addresses: Addresses) -> String {
    pod_yaml_on(NODE_NAME, name, app, addresses)
}

/// The same on another node.
#[must_use]
pub fn pod_yaml_on(node: &str, name: &str, app: &str, addresses: Addresses) -> String {
    let Addresses { v4, v6 } = addresses;
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  containers: [{{name: server, image: weir-lab}}]
status:
  phase: Running
  podIP: {v4}
  podIPs: [{{ip: {v4}}}, {{ip: "{v6}"}}]
  conditions: [{{type: Ready, status: "True"}}]
"#
    )
}

/// The Node.
#[must_use]
pub fn node_yaml() -> String {
    let Addresses { v4, v6 } = NODE;
    format!(
        r#"apiVersion: v1
kind: Node
metadata: {{name: {NODE_NAME}}}
status:
  addresses: [{{type: InternalIP, address: {v4}}}, {{type: InternalIP, address: "{v6}"}}]
"#
    )
}
