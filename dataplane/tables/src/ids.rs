//! Small numbers with names.

use std::fmt;

use weir_packet::Addr;

/// Where a packet came from or goes to: the kernel's index of a pod's host-side interface, or one
/// of the two reserved values. A device carries one or many ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

impl PortId {
    /// Any queue of any uplink, as the *source* of a packet.
    pub const UPLINK: PortId = PortId(0);
    /// The host: `weir0`, or a route of the kernel into a pod's veth, as the *source* of a packet.
    pub const HOST: PortId = PortId(u32::MAX);
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PortId::UPLINK => f.write_str("uplink"),
            PortId::HOST => f.write_str("host"),
            PortId(index) => write!(f, "if{index}"),
        }
    }
}

/// One worker of this node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// As an index into per-worker tables.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// An address and port that a backend answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddr {
    pub addr: Addr,
    pub l4_port: u16,
}

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr.is_v4() {
            true => write!(f, "{}:{}", self.addr, self.l4_port),
            false => write!(f, "[{}]:{}", self.addr, self.l4_port),
        }
    }
}
