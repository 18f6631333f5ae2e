//! Ports by number, range and name.

use serde_json::Value;

use super::Direction;
use super::{Protocol, Question, ends, items};

impl Question<'_> {
    /// Whether the probe's port is a named one, here where names are of the pods behind the port:
    /// of the policy's own pod for ingress; for egress of whichever pods the rule chooses.
    ///
    /// `protocol` is what the rule wants, `None` for any.
    pub fn is_named_port(
        &self,
        name: &str,
        protocol: Option<Protocol>,
        is_chosen: impl Fn(&Value) -> bool,
    ) -> bool {
        if protocol.is_some_and(|it| it != self.protocol) {
            return false;
        }
        match self.direction {
            Direction::Ingress => self.has_port(self.pod, name),
            Direction::Egress => {
                let mut pods = self.world.of_kind("Pod").filter(|it| !ends::is_on_host_network(it));
                pods.any(|it| self.has_port(it, name) && is_chosen(it))
            }
        }
    }

    /// Whether a container of the pod calls the probe's port and protocol by that name.
    fn has_port(&self, pod: &Value, name: &str) -> bool {
        let containers = items(&pod["spec"]["containers"]).iter();
        let mut ports = containers.flat_map(|it| items(&it["ports"]));
        ports.any(|it| {
            let protocol = it["protocol"].as_str().unwrap_or("TCP");
            it["name"] == name
                && it["containerPort"] == self.port
                && protocol == self.protocol.name()
        })
    }
}

/// Protocol by the name that Kubernetes has for it.
pub fn parse_protocol(name: &str) -> Protocol {
    match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => panic!("no protocol {other}"),
    }
}
