//! The plugin's calls, inside the agent's loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tonic::Status;
use tracing::{info, warn};
use weir_api::cni::{GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, host_interface, pod_mac};
use weir_api::v1::{
    AllocateReply, AllocateRequest, AttachEndpointReply, AttachEndpointRequest, AttachRequest,
    Attachment,
};

use super::conf::ConfState;
use super::ipam::{Ipam, IpamError, Space};
use super::leases::{KnownNode, Lease, LeaseError, LeaseStore};
use crate::agent::{Answer, Core};
use crate::clock::wall_time;
use crate::desired::DesiredKey;
use crate::endpoints::is_pod_name;

/// Leases, and the allocator behind them.
#[derive(Debug)]
pub struct CniState {
    pub(super) leases: LeaseStore,
    pub(super) ipam: Box<dyn Ipam>,
    /// Host interfaces that have gone, and since when.
    pub(super) gone: BTreeMap<String, Duration>,
    pub(super) conf: ConfState,
}

impl CniState {
    /// Gives the allocator what the leases say.
    #[must_use]
    pub fn new(leases: LeaseStore, mut ipam: Box<dyn Ipam>) -> Self {
        ipam.resume(leases.last());
        for lease in leases.iter() {
            if let Err(error) = ipam.adopt(&lease.host_interface, &lease.addresses) {
                warn!("lease of {}: {error}: it is void", lease.endpoint_name());
            }
        }
        Self { leases, ipam, gone: BTreeMap::new(), conf: ConfState::NotWanted }
    }

    /// Runtimes are told by a file.
    #[must_use]
    pub fn with_conf(mut self) -> Self {
        self.conf = ConfState::Missing("not written yet".into());
        self
    }

    /// Why runtimes have not been told, where they should be.
    pub(crate) fn missing_conf(&self) -> Option<String> {
        match &self.conf {
            ConfState::Missing(reason) => {
                Some(format!("container runtimes do not use weir yet: {reason}"))
            }
            ConfState::NotWanted | ConfState::Written => None,
        }
    }
}

impl Core {
    /// Whether pods can be given a network now, and if not, why.
    pub(crate) fn check_cni_ready(&self) -> Result<(), Status> {
        if self.cni.is_none() {
            return Err(not_served());
        }
        if !self.publisher.is_connected() {
            let reason = format!("the dataplane is not connected: {}", self.link_reason);
            return Err(Status::failed_precondition(reason));
        }
        if !self.is_synced {
            return Err(Status::unavailable("the cluster's objects have not been read yet"));
        }
        if self.pod_space().ranges.is_empty() {
            let name = &self.desired.settings().name;
            return Err(Status::unavailable(format!("Node {name}: {}", IpamError::NoRange)));
        }
        if self.publisher.acknowledged_revision() == 0 {
            return Err(Status::unavailable("the dataplane has not taken its first state yet"));
        }
        Ok(())
    }

    /// Gives an attachment its addresses.
    pub(super) fn allocate(
        &mut self,
        request: &AllocateRequest,
        mtu: u32,
    ) -> Result<AllocateReply, Status> {
        let attachment = read_attachment(request.attachment.as_ref())?;
        let host_interface = host_interface(&attachment);
        let lease = Lease {
            host_interface: host_interface.clone(),
            container_id: attachment.container_id.clone(),
            ifname: attachment.ifname.clone(),
            pod_namespace: request.pod_namespace.clone(),
            pod_name: request.pod_name.clone(),
            pod_uid: request.pod_uid.clone(),
            addresses: Vec::new(),
            mac: pod_mac(&attachment).to_string(),
            mtu,
            since: wall_time().to_string(),
        };
        let name = lease.endpoint_name();
        if !is_pod_name(&name) {
            let reason = format!(
                "{name:?} is not the name of a pod: K8S_POD_NAMESPACE and \
                K8S_POD_NAME come from the runtime"
            );
            return Err(Status::invalid_argument(reason));
        }
        let space = self.pod_space();
        let (acknowledged, now) = (self.publisher.acknowledged_revision(), self.clock.elapsed());
        let cni = self.cni.as_mut().ok_or_else(not_served)?;
        if let Some(known) = cni.leases.find(&host_interface) {
            return match known.container_id.is_empty() || belongs_to(known, &attachment) {
                true => Ok(reply(known)),
                false => Err(explain_collision(known)),
            };
        }
        cni.ipam.follow(&space);
        cni.ipam.acknowledge(acknowledged);
        let addresses = cni.ipam.allocate(&host_interface, now).map_err(|it| refuse(&it))?;
        let lease = Lease { addresses, ..lease };
        let last = cni.ipam.last_given();
        if let Err(error) = cni.leases.put(lease.clone(), last) {
            // Nobody has had it: revision 0 is acknowledged.
            cni.ipam.release(&host_interface, 0, now);
            return Err(internal(&error));
        }
        info!("pod {name}: {}, on {host_interface}", list(&lease));
        Ok(reply(&lease))
    }

    /// Attaches what was allocated; the answer comes when the dataplane runs it.
    pub(super) fn attach_lease(
        &mut self,
        request: AttachRequest,
        answer: Answer<AttachEndpointReply>,
    ) {
        let found = read_attachment(request.attachment.as_ref()).and_then(|it| self.lease(&it));
        match found {
            Ok(lease) => {
                let request = AttachEndpointRequest {
                    name: lease.endpoint_name(),
                    interface: lease.host_interface.clone(),
                    mac: lease.mac.clone(),
                    addresses: lease.addresses.iter().map(ToString::to_string).collect(),
                    port_mappings: request.port_mappings,
                    bandwidth: request.bandwidth,
                };
                self.attach(&request, answer);
            }
            Err(status) => {
                // A caller that has gone needs no answer.
                let _ = answer.send(Err(status));
            }
        }
    }

    /// Whether an attachment is as it was made.
    pub(super) fn check_lease(
        &self,
        attachment: Option<&Attachment>,
    ) -> Result<AllocateReply, Status> {
        let lease = self.lease(&read_attachment(attachment)?)?;
        let name = lease.endpoint_name();
        let wrong = |reason: String| Status::failed_precondition(format!("pod {name}: {reason}"));
        let endpoint = self.endpoints.find(&name);
        let endpoint = endpoint.filter(|it| it.interface == lease.host_interface);
        let Some(endpoint) = endpoint else {
            return Err(wrong(format!("{} is not attached", lease.host_interface)));
        };
        self.endpoints.check_identity(endpoint).map_err(wrong)?;
        if endpoint.addresses != lease.addresses {
            return Err(wrong(format!("it is not attached with {}", list(&lease))));
        }
        match self.publisher.refused().get(&DesiredKey::Endpoint(name.clone())) {
            Some(reason) => Err(wrong(format!("the dataplane refuses it: {reason}"))),
            None => Ok(reply(&lease)),
        }
    }

    /// Detaches and frees whatever has this host interface; false where nothing is known of it.
    ///
    /// The endpoint of a pod that has got another interface meanwhile stays.
    pub(super) fn release_interface(&mut self, host_interface: &str) -> Result<bool, Status> {
        let name = self.endpoints.find_by_interface(host_interface).map(|it| it.name.clone());
        if let Some(name) = &name {
            let detached = self.endpoints.detach(name);
            detached.map_err(|error| Status::internal(error.to_string()))?;
            info!("endpoint {name}: detached");
            self.desired.remove_endpoint(name);
            self.publisher.record(self.desired.recompute());
        }
        // Before the source has been read nothing is sent, and then a full state, which is without
        // it: whatever is freed until then need not wait for that.
        let revision = if self.is_synced { self.publisher.covering_revision() } else { 0 };
        let now = self.clock.elapsed();
        let Some(cni) = self.cni.as_mut() else { return Ok(name.is_some()) };
        cni.gone.remove(host_interface);
        let Some(lease) = cni.leases.find(host_interface).cloned() else {
            return Ok(name.is_some());
        };
        cni.leases.remove(&[host_interface.to_owned()].into()).map_err(|it| internal(&it))?;
        cni.ipam.release(host_interface, revision, now);
        info!("pod {}: {} freed", lease.endpoint_name(), list(&lease));
        Ok(true)
    }

    fn lease(&self, attachment: &Attachment) -> Result<Lease, Status> {
        let cni = self.cni.as_ref().ok_or_else(not_served)?;
        let lease = cni.leases.find(&host_interface(attachment));
        let lease = lease.filter(|it| it.container_id.is_empty() || belongs_to(it, attachment));
        lease.cloned().ok_or_else(|| {
            let Attachment { container_id, ifname } = attachment;
            Status::failed_precondition(format!(
                "container {container_id} has no addresses for {ifname}: ADD it first"
            ))
        })
    }

    /// Where addresses of this node's pods may come from now.
    fn pod_space(&self) -> Space {
        let own = self.known_node();
        let leased = |it: &str| self.cni.as_ref().is_some_and(|cni| cni.leases.find(it).is_some());
        let by_hand = self.endpoints.iter().filter(|it| !leased(&it.interface));
        let mut reserved: BTreeSet<_> =
            by_hand.flat_map(|it| it.addresses.iter().copied()).collect();
        reserved.extend(&self.desired.settings().addresses);
        reserved.extend(own.addresses);
        Space { ranges: own.pod_ranges, reserved }
    }

    /// What the source says of this node; until it does, what it said before the start.
    pub(super) fn known_node(&self) -> KnownNode {
        let own = self.desired.own_node().map(|it| KnownNode {
            addresses: it.addresses.clone(),
            pod_ranges: it.pod_ranges.clone(),
        });
        match &self.cni {
            Some(cni) if !self.is_synced => cni.leases.node().clone(),
            _ => own.unwrap_or_default(),
        }
    }

    /// Keeps on disk what the source says of this node.
    pub(crate) fn keep_known_node(&mut self) {
        if !self.is_synced || self.cni.is_none() {
            return;
        }
        let node = self.known_node();
        let Some(cni) = &mut self.cni else { return };
        if *cni.leases.node() != node
            && let Err(error) = cni.leases.put_node(node)
        {
            warn!("{error}");
        }
    }
}

pub(super) fn read_attachment(attachment: Option<&Attachment>) -> Result<Attachment, Status> {
    let given = attachment.filter(|it| !it.container_id.is_empty() && !it.ifname.is_empty());
    given.cloned().ok_or_else(|| {
        Status::invalid_argument("attachment: give a container's id and an interface's name")
    })
}

fn belongs_to(lease: &Lease, attachment: &Attachment) -> bool {
    (&lease.container_id, &lease.ifname) == (&attachment.container_id, &attachment.ifname)
}

fn reply(lease: &Lease) -> AllocateReply {
    let write = |it: &IpAddr| format!("{it}/{}", if it.is_ipv4() { 32 } else { 128 });
    let gateway = |it: &IpAddr| match it.is_ipv4() {
        true => GATEWAY_IPV4.to_string(),
        false => GATEWAY_IPV6.to_string(),
    };
    AllocateReply {
        host_interface: lease.host_interface.clone(),
        host_mac: GATEWAY_MAC.to_string(),
        pod_mac: lease.mac.clone(),
        addresses: lease.addresses.iter().map(write).collect(),
        gateways: lease.addresses.iter().map(gateway).collect(),
        mtu: lease.mtu,
    }
}

fn list(lease: &Lease) -> String {
    let addresses: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
    addresses.join(" and ")
}

fn not_served() -> Status {
    Status::unavailable("this agent serves no CNI plugin")
}

fn internal(error: &LeaseError) -> Status {
    warn!("{error}");
    Status::internal(error.to_string())
}

fn explain_collision(known: &Lease) -> Status {
    Status::already_exists(format!(
        "{} is the name of the interface of container {} ({}) too: a new container gets another \
         one, and the runtime makes one when it tries again",
        known.host_interface,
        known.container_id,
        known.endpoint_name()
    ))
}

fn refuse(error: &IpamError) -> Status {
    let message = error.to_string();
    // Callers that are told to come again would fill the log; probes say it once.
    if !matches!(error, IpamError::NoRange) {
        warn!("{message}");
    }
    match error {
        IpamError::NoRange => Status::unavailable(message),
        IpamError::Exhausted { .. } => Status::resource_exhausted(message),
        IpamError::Taken { .. } => Status::already_exists(message),
    }
}
