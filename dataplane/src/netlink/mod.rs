//! What the dataplane asks of the kernel: trunks, the host's port, routes of pods, and news.
//!
//! Reading order: [`trunk`] (a veth pair per worker), [`host_port`] (`weir0`), [`host_path`] (the
//! host's own packets to its NodePorts, its answers as a backend), [`port_ranges`] (the host's own
//! sockets stay off our L4 ports), [`pod_route`] (what the kernel needs to reach a pod),
//! [`pod_ways`] (other nodes' pods), [`proxy`] and [`announce`] (load balancers' addresses), then
//! [`watch`] (links, routes and neighbours as they change, kept in [`state`]), [`next_hop`] (where
//! a packet goes) and [`neighbour`] (keeping MACs known).
//!
//! Everything is asynchronous, belongs to the control thread, and never runs on a worker. All calls
//! are idempotent: what exists in the right shape is adopted, so a restart disturbs nothing. A
//! socket belongs to the network namespace of the thread that opened it.

mod address;
pub mod announce;
mod error;
pub mod host_path;
pub mod host_port;
mod link;
pub mod neighbour;
pub mod next_hop;
pub mod offload;
pub mod pod_route;
pub mod pod_ways;
pub mod port_ranges;
pub mod proxy;
mod route;
mod rule;
mod saved_sysctl;
pub mod state;
pub mod sysctl;
pub mod trunk;
pub mod watch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::Handle;

pub use error::Error;
pub use host_path::HostPaths;
pub use host_port::{HostPort, HostPortConfig};
pub use link::Link;
pub use next_hop::{NextHop, next_hop, next_hop_in};
pub use pod_ways::{PodWay, PodWays};
pub use port_ranges::PortRange;
pub use route::Prefix;
pub use rule::PortRule;
pub use state::KernelState;
pub use sysctl::SysctlChange;
pub use trunk::{Trunk, TrunkConfig};
pub use watch::{KernelWatch, WatchConfig};

/// The pods' and the host's gateway; it exists only in neighbour tables.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pods' and the host's gateway; it exists only in neighbour tables.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The client that a hostNetwork backend sees in place of the real one, so that the host's answers
/// come into `weir0`. It exists only in the host's routes and neighbour table.
pub const HOST_PEER_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 64, 2);
/// The same for IPv6.
pub const HOST_PEER_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x6569, 0x7200, 0, 0, 0, 0, 2);

/// Mark of weir's routes and neighbours in the kernel (`proto 119`): an unassigned `RTPROT_*`.
pub const PROTOCOL: u8 = 119;

/// A connection to rtnetlink in the network namespace of the thread that opened it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a socket; its task runs on the current tokio runtime until every clone is dropped.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Deletes all that this module made: rules for the host's own NodePorts, trunks, `weir0`,
    /// routes and neighbours marked with [`PROTOCOL`]. Sysctls stay as they are, others may rely on
    /// them by now; those of [`port_ranges`] have a way back of their own.
    ///
    /// # Errors
    /// The first refusal; what was not reached stays.
    pub async fn remove_all(&self) -> Result<(), Error> {
        host_path::remove_rules(&self.handle).await?;
        for route in route::own_routes(&self.handle).await? {
            route::delete(&self.handle, route).await?;
        }
        proxy::delete_own(&self.handle).await?;
        address::delete_own_neighbours(&self.handle).await?;
        for name in link::names(&self.handle).await? {
            if name == host_port::HOST_NAME || trunk::is_outer_name(&name) {
                link::delete_by_name(&self.handle, &name).await?;
            }
        }
        Ok(())
    }
}

/// A MAC as people write it.
fn display_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Prefix length of a single address.
const fn host_prefix_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
