//! Choosing addresses for pods: what any allocator does, whatever its addresses come from.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use crate::model::Cidr;

/// Where addresses of this node's pods may come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Space {
    /// This node's ranges of pods, the preferred family first.
    pub ranges: Vec<Cidr>,
    /// Addresses that somebody else has: the node, endpoints attached by hand.
    pub reserved: BTreeSet<IpAddr>,
}

/// No address can be given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IpamError {
    /// The cluster has given this node no range.
    #[error(
        "this node has no range of pod addresses yet: start the controller manager with \
         --allocate-node-cidrs and --cluster-cidr, or write spec.podCIDRs into the Node object"
    )]
    NoRange,
    /// Every address of a family is taken.
    #[error(
        "no free address in {ranges} ({used} in use by pods of this node, {waiting} wait until the \
         dataplane has let go of them): delete pods of this node, lower the kubelet's maxPods \
         below {capacity}, or give nodes larger ranges (--node-cidr-mask-size of the controller \
         manager; it counts for new nodes)"
    )]
    Exhausted {
        /// The family's ranges.
        ranges: String,
        /// Addresses that pods have.
        used: usize,
        /// Addresses of pods that have gone.
        waiting: usize,
        /// Addresses that pods can have.
        capacity: u128,
    },
    /// An address on disk belongs to two.
    #[error("{address} belongs to {owner} already")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
}

/// An allocator: a pure state machine, told the time. An owner is one interface of one container.
pub trait Ipam: Send + std::fmt::Debug {
    /// Takes the present ranges. Addresses given stay given, also outside of them.
    fn follow(&mut self, space: &Space);

    /// One address per family for this owner, the same ones where it has them already.
    ///
    /// # Errors
    /// There is none; then nothing has changed.
    fn allocate(&mut self, owner: &str, now: Duration) -> Result<Vec<IpAddr>, IpamError>;

    /// Takes back what was given in an earlier life of this process.
    ///
    /// # Errors
    /// Another owner has one of them.
    fn adopt(&mut self, owner: &str, addresses: &[IpAddr]) -> Result<(), IpamError>;

    /// Takes an owner's addresses back. They are given again once the dataplane has acknowledged
    /// `revision`, the first one without them. Nothing happens where the owner has none.
    fn release(&mut self, owner: &str, revision: u64, now: Duration);

    /// The dataplane runs this revision.
    fn acknowledge(&mut self, revision: u64);

    /// The address of each family that was given last, to be kept on disk.
    fn last_given(&self) -> Vec<IpAddr>;

    /// Goes on behind these.
    fn resume(&mut self, last: &[IpAddr]);
}
