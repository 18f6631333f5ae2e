//! A pod of a testbed: a host with one interface, as a CNI plugin would have made it.

use std::{net::IpAddr, process::Command, time::Duration};

use super::manifests::{Addresses, ECHO_PORT, HTTP_PORT};
use crate::{Host, Lab, LinkOptions, Process, Result, command::program};

/// The gateway of every pod, answered for by the dataplane; its MAC is the same on every node.
const GATEWAY_V4: &str = "169.254.1.1";
const GATEWAY_V6: &str = "fe80::1";
const GATEWAY_MAC: [u8; 6] = [0x02, 0x77, 0x65, 0x69, 0x72, 0x01];

const SOON: Duration = Duration::from_secs(20);

/// One pod: its namespace and the servers inside.
#[derive(Debug)]
pub struct Pod {
    host: Host,
    namespace: String,
    name: String,
    interface: String,
    addresses: Addresses,
    mac: [u8; 6],
    servers: Vec<Process>,
}

impl Pod {
    /// A namespace whose only way out is a veth to `node`; `name` is `NAMESPACE/NAME`, or one in
    /// the namespace `default`.
    pub(super) fn new(
        lab: &Lab,
        node: &Host,
        name: &str,
        interface: String,
        addresses: Addresses,
    ) -> Result<Self> {
        let host = lab.host(&format!("pod-{}", name.replace('/', "-")))?;
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        lab.link(&host, "eth0", node, &interface, &LinkOptions::default())?;
        host.addr("eth0", &format!("{}/32", addresses.v4))?;
        host.addr("eth0", &format!("{}/128", addresses.v6))?;
        for gateway in [GATEWAY_V4, GATEWAY_V6] {
            host.neighbour("eth0", gateway, GATEWAY_MAC)?;
            host.route(&format!("default via {gateway} dev eth0 onlink"))?;
        }
        let mac = host.interface("eth0")?.mac;
        let (namespace, name) = (namespace.into(), name.into());
        Ok(Self { host, namespace, name, interface, addresses, mac, servers: Vec::new() })
    }

    /// Starts an HTTP and a UDP echo server that tell the pod's name.
    pub(super) fn serve(&mut self) -> Result<()> {
        for (server, port) in [("weir-lab-http", HTTP_PORT), ("weir-lab-udp", ECHO_PORT)] {
            let mut command = Command::new(program(server)?);
            command.args(["serve", "--name", &self.name]);
            for address in self.addresses.both() {
                command
                    .args(["--listen", &format!("{}", std::net::SocketAddr::new(address, port))]);
            }
            let process = self.host.spawn(command)?;
            let IpAddr::V6(last) = self.addresses.both()[1] else { unreachable!("IPv6 is second") };
            process.wait_for_output(&format!("listening on [{last}]"), SOON)?;
            self.servers.push(process);
        }
        Ok(())
    }

    /// Its namespace, for running programs in it.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its namespace in Kubernetes.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name in Kubernetes, without the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's end of its veth.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Of `eth0` inside.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The processes of its servers.
    #[must_use]
    pub fn servers(&self) -> &[Process] {
        &self.servers
    }

    /// Connections that its kernel holds to a local TCP port.
    ///
    /// # Errors
    /// [`Error::Command`](crate::Error::Command) with what `ss` said.
    pub fn count_established(&self, port: u16) -> Result<usize> {
        self.count(port, &["state", "established"])
    }

    /// The same, with those that were closed here but whose other end does not know yet.
    ///
    /// # Errors
    /// Those of [`Pod::count_established`].
    pub fn count_unfinished(&self, port: u16) -> Result<usize> {
        self.count(port, &["state", "established", "state", "fin-wait-1"])
    }

    fn count(&self, port: u16, states: &[&str]) -> Result<usize> {
        let filter = format!("sport = :{port}");
        let words = [&["ss", "-Htn"], states, &[filter.as_str()]].concat();
        Ok(self.host.run(words)?.lines().count())
    }
}
