//! Ports of the node that a container runtime asks for: those of the Pod object, seen from the
//! other side, or the only ones where there is no Pod object.

use std::borrow::Cow;
use std::collections::BTreeMap;

use weir_api::convert::parse_address;

use super::Desired;
use crate::model::{HostPort, Kind, Name, ObjectKey, Pod};

impl Desired {
    /// Sets the ports that lead to an attached pod, beside those of its Pod object.
    pub fn set_port_mappings(&mut self, endpoint: &str, ports: Vec<HostPort>) {
        let Some(name) = Name::parse(endpoint) else { return };
        let had_any = match ports.is_empty() {
            true => self.mapped.remove(&name).is_some(),
            false => self.mapped.insert(name.clone(), ports).is_some(),
        };
        if had_any || self.mapped.contains_key(&name) {
            self.dirty.insert(ObjectKey { kind: Kind::Pod, name });
        }
    }

    /// A pod of this node with all ports of the node that lead to it; `None` where there is none.
    pub(super) fn find_pod_with_ports(&self, name: &Name) -> Option<Cow<'_, Pod>> {
        let own_name = Some(self.settings.name.as_str());
        let pod = self.pods.get(name).filter(|it| self.node_of(it) == own_name);
        let Some(mapped) = self.mapped.get(name) else {
            return pod.filter(|it| !it.host_ports.is_empty()).map(Cow::Borrowed);
        };
        let mut pod = pod.cloned().unwrap_or_else(|| new_pod(name));
        if pod.addresses.is_empty() {
            // Its status comes later, or never.
            let attached = self.attached.get(&name.to_string());
            let addresses = attached.into_iter().flat_map(|it| &it.addresses);
            pod.addresses = addresses.filter_map(|it| parse_address(it).ok()).collect();
        }
        let target = |it: &HostPort| (it.l4_port, it.protocol, it.container_port);
        let known: Vec<_> = pod.host_ports.iter().map(target).collect();
        pod.host_ports.extend(mapped.iter().filter(|it| !known.contains(&target(it))));
        Some(Cow::Owned(pod))
    }
}

/// A pod of which nobody knows more than that it is attached.
fn new_pod(name: &Name) -> Pod {
    Pod {
        name: name.clone(),
        origin: None,
        labels: BTreeMap::new(),
        addresses: Vec::new(),
        is_ready: false,
        is_terminating: false,
        ports: Vec::new(),
        created: None,
        node: None,
        host_ports: Vec::new(),
        service_account: String::new(),
        is_host_network: false,
        is_policy_audited: false,
    }
}
