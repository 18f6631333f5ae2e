//! What the kernel needs to reach a pod by itself: from the host, and while no worker runs.

use std::net::IpAddr;

use super::route::{self, Prefix, RouteSpec};
use super::state::MAIN_TABLE;
use super::{Error, Netlink, address, host_prefix_len, link, sysctl};

impl Netlink {
    /// Routes each address to the pod's host-side veth, with a permanent neighbour entry under
    /// `pod_mac`. The veth itself gets the gateway's MAC, to which pods send: otherwise the kernel
    /// would take a packet that the eBPF programs leave to it for another host's. On that veth the
    /// reverse-path filter is loose and router advertisements are ignored: a pod is no router of
    /// the node. Forwarding itself is switched on by the host port.
    ///
    /// # Errors
    /// What the kernel refused; the message names interface and address.
    pub async fn ensure_pod_route(
        &self,
        ifindex: u32,
        addresses: &[IpAddr],
        pod_mac: [u8; 6],
        gateway_mac: [u8; 6],
    ) -> Result<(), Error> {
        let veth = link::require_index(&self.handle, ifindex).await?;
        link::set_mac(&self.handle, &veth, gateway_mac).await?;
        sysctl::set(&format!("net/ipv4/conf/{}/rp_filter", veth.name), "2")?;
        sysctl::set(&format!("net/ipv6/conf/{}/accept_ra", veth.name), "0")?;
        for pod in addresses {
            address::ensure_neighbour(&self.handle, &veth, *pod, pod_mac).await?;
            route::ensure(&self.handle, &pod_route(ifindex, *pod)).await?;
        }
        Ok(())
    }

    /// Withdraws the routes and neighbour entries of these addresses from that veth. What is not
    /// there, or went with its interface, is no error; a route that by now leads to another
    /// interface (the address was given to a new pod) stays.
    ///
    /// # Errors
    /// What the kernel refused; the message names interface and address.
    pub async fn remove_pod_route(&self, ifindex: u32, addresses: &[IpAddr]) -> Result<(), Error> {
        for pod in addresses {
            let spec = pod_route(ifindex, *pod);
            route::delete(&self.handle, spec.to_message()).await?;
            let neighbour = self.handle.neighbours().add(ifindex, *pod).message_mut().clone();
            let object = format!("{pod} on interface {ifindex}");
            address::delete_neighbour(&self.handle, neighbour, object).await?;
        }
        Ok(())
    }
}

fn pod_route(ifindex: u32, pod: IpAddr) -> RouteSpec {
    RouteSpec {
        table: MAIN_TABLE,
        destination: Prefix { address: pod, len: host_prefix_len(pod) },
        ifindex: Some(ifindex),
        gateway: None,
        source: None,
        metric: if pod.is_ipv4() { 0 } else { route::IPV6_DEFAULT_METRIC },
    }
}
