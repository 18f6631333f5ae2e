//! What the CNI plugin asks of the agent: addresses for pods, and their way into the dataplane.
//!
//! [`ipam`] is what an allocator does, [`pod_cidr`] the one for a node's podCIDRs, [`leases`] what
//! is on disk. [`state`] puts them into the agent's loop, [`server`] is the gRPC service in front,
//! [`garbage`] frees what no runtime gives back, and [`conf`] tells runtimes that the node is
//! ready. The agent needs no privileges for any of it: the plugin makes the interfaces.

pub mod conf;
mod garbage;
pub mod ipam;
pub mod leases;
mod mtu;
pub mod pod_cidr;
mod server;
mod state;
#[cfg(test)]
mod tests;

pub use conf::{CniConf, ConfState, run_conf};
pub use garbage::run_garbage_collector;
pub use ipam::{Ipam, IpamError, Space};
pub use leases::{KnownNode, Lease, LeaseStore};
pub use pod_cidr::PodCidrIpam;
pub use server::CniService;
pub use state::CniState;
