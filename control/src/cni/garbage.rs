//! Freeing what no runtime gives back: not every runtime asks for garbage collection, and a DEL is
//! lost where the runtime or the agent was away.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::Status;
use tracing::{info, warn};
use weir_api::cni::{host_interface, is_host_interface};
use weir_api::v1::Attachment;

use super::leases::Lease;
use crate::agent::{AgentService, Core};
use crate::model::Name;

/// How often interfaces are looked at.
const PERIOD: Duration = Duration::from_secs(30);
/// How long an interface must have been gone: ADD takes its address before it makes it.
const GRACE: Duration = Duration::from_secs(60);

/// Looks for leases without an interface, until the agent stops.
pub async fn run_garbage_collector(service: AgentService) {
    let free = |core: &mut Core| core.free_abandoned(core.clock.elapsed());
    while service.change(free).await.is_ok() {
        tokio::time::sleep(PERIOD).await;
    }
}

impl Core {
    /// Releases everything of containers that are not named. All of it is tried; the first error is
    /// told at the end.
    pub(super) fn collect_garbage(&mut self, valid: &[Attachment]) -> Result<Vec<String>, Status> {
        let kept: BTreeSet<String> = valid.iter().map(host_interface).collect();
        let mut released = Vec::new();
        let mut first_error = Ok(());
        for name in self.known_interfaces().difference(&kept) {
            match self.release_interface(name) {
                Ok(_) => released.push(name.clone()),
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        first_error.map(|()| released)
    }

    /// Frees leases and endpoints whose interface has been gone for a while and whose pod does not
    /// run here any more.
    pub(super) fn free_abandoned(&mut self, now: Duration) {
        // Without the cluster's word nobody knows which pods run here.
        if !self.is_synced || self.cni.is_none() {
            return;
        }
        for interface in self.known_interfaces() {
            let is_there = match self.endpoints.has_interface(&interface) {
                Ok(is_there) => is_there,
                Err(error) => {
                    warn!("{interface}: cannot be looked up: {error}");
                    continue;
                }
            };
            let is_live = is_there || self.is_claimed(&interface);
            let Some(cni) = self.cni.as_mut() else { return };
            if is_live {
                cni.gone.remove(&interface);
                continue;
            }
            let since = *cni.gone.entry(interface.clone()).or_insert(now);
            if now.saturating_sub(since) < GRACE {
                continue;
            }
            info!("{interface}: gone, and no pod here has its addresses: freeing them");
            if let Err(error) = self.release_interface(&interface) {
                warn!("{interface}: cannot be freed: {}", error.message());
            }
        }
    }

    /// Whether a pod of this node says that it has one of the addresses behind an interface.
    fn is_claimed(&self, interface: &str) -> bool {
        let lease = self.cni.as_ref().and_then(|it| it.leases.find(interface));
        let endpoint = self.endpoints.find_by_interface(interface);
        let name = lease.map(Lease::endpoint_name).or_else(|| endpoint.map(|it| it.name.clone()));
        let addresses = lease.map(|it| &it.addresses).or(endpoint.map(|it| &it.addresses));
        let pod = name.and_then(|it| Name::parse(&it)).and_then(|it| self.desired.pod(&it));
        let Some((pod, addresses)) = pod.zip(addresses) else { return false };
        let is_here = pod.node.as_ref().is_none_or(|it| *it == self.desired.settings().name);
        is_here && addresses.iter().any(|it| pod.addresses.contains(it))
    }

    /// Host interfaces of all leases, and of endpoints that a plugin made.
    fn known_interfaces(&self) -> BTreeSet<String> {
        let leases = self.cni.iter().flat_map(|it| it.leases.iter());
        let leased = leases.map(|it| it.host_interface.clone());
        let endpoints = self.endpoints.iter().map(|it| it.interface.clone());
        leased.chain(endpoints.filter(|it| is_host_interface(it))).collect()
    }
}
