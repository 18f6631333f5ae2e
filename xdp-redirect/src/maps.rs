//! The maps: names, keys and values.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// Names of the maps; each is pinned under its name.
pub mod map {
    /// XskMap: the AF_XDP socket of each slot.
    pub const XSKS: &str = "XSKS";
    /// Array of u64: when the worker of a slot last stamped it, CLOCK_MONOTONIC in ns; 0 = never.
    pub const HEARTBEATS: &str = "HEARTBEATS";
    /// Hash: address (IPv4 as `::ffff:a.b.c.d`) -> [`super::AddressClass`].
    pub const ADDRESSES: &str = "ADDRESSES";
    /// Hash: [`super::L4Port`] on the node's own addresses -> u32 (unused, 1).
    pub const NODE_L4_PORTS: &str = "NODE_L4_PORTS";
    /// Hash: ifindex of a port's outer interface -> [`super::PortEntry`].
    pub const PORTS: &str = "PORTS";
    /// Array of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Per-CPU array of u64, by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
}

/// All map names.
pub const MAP_NAMES: [&str; 7] = [
    map::XSKS,
    map::HEARTBEATS,
    map::ADDRESSES,
    map::NODE_L4_PORTS,
    map::PORTS,
    map::SETTINGS,
    map::COUNTERS,
];

/// Most addresses that are weir's: services, pods of this node, the node's own.
pub const ADDRESSES_MAX: u32 = 65_536;
/// Most NodePorts and hostPorts.
pub const NODE_L4_PORTS_MAX: u32 = 16_384;
/// Most ports (pods, the host, the L7 namespace) of one node.
pub const PORTS_MAX: u32 = 4_096;

/// Whose an address is, in the low byte, and flags above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct AddressClass(pub u32);

impl AddressClass {
    /// A Service's address: the kernel cannot serve it.
    pub const SERVICE: Self = Self(1);
    /// A local pod's address; the kernel may forward to it while no worker does.
    pub const POD: Self = Self(2);
    /// An address of the node itself: only some of its traffic is weir's.
    pub const NODE: Self = Self(3);
    /// Flag of a pod under [`FailureMode::AUTO`]: drop while no worker runs.
    pub const FLAG_FAIL_CLOSED: u32 = 1 << 8;

    /// A local pod that is cut off, instead of left to the kernel, while no worker runs.
    pub const fn pod(fail_closed: bool) -> Self {
        if fail_closed { Self(Self::POD.0 | Self::FLAG_FAIL_CLOSED) } else { Self::POD }
    }

    /// The class without flags.
    pub const fn class(self) -> Self {
        Self(self.0 & 0xff)
    }

    /// Whether [`Self::FLAG_FAIL_CLOSED`] is set.
    pub const fn fail_closed(self) -> bool {
        self.0 & Self::FLAG_FAIL_CLOSED != 0
    }
}

/// What happens to pods' traffic while no worker runs, for the whole node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct FailureMode(pub u32);

impl FailureMode {
    /// Each pod by its own flag: closed if a policy selects it.
    pub const AUTO: Self = Self(0);
    /// The kernel forwards, without policy.
    pub const OPEN: Self = Self(1);
    /// Dropped.
    pub const CLOSED: Self = Self(2);

    /// Whether a pod with this flag is cut off in this mode.
    pub const fn is_closed(self, flag_fail_closed: bool) -> bool {
        match self {
            Self::OPEN => false,
            Self::CLOSED => true,
            _ => flag_fail_closed,
        }
    }
}

/// An L4 port of the node, as key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct L4Port {
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0: a key has no uninitialised byte.
    pub zero: u8,
    /// Network byte order.
    pub l4_port_be: [u8; 2],
}

impl L4Port {
    /// The key of `l4_port` of an IP protocol.
    pub const fn new(protocol: u8, l4_port: u16) -> Self {
        Self { protocol, zero: 0, l4_port_be: l4_port.to_be_bytes() }
    }

    /// The L4 port in the byte order of the machine.
    pub const fn l4_port(self) -> u16 {
        u16::from_be_bytes(self.l4_port_be)
    }

    /// The value as the map holds it.
    pub const fn to_bytes(self) -> [u8; size_of::<Self>()] {
        transmute!(self)
    }

    /// The value from what the map holds.
    pub const fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        transmute!(bytes)
    }
}

/// How a port (a pod's host-side veth, the host port's outer end) reaches its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortEntry {
    /// Outer end of the trunk of the worker that owns this port.
    pub trunk_ifindex: u32,
    /// That trunk's slot, whose heartbeat tells whether the worker runs.
    pub xsk_slot: u32,
    /// [`PortEntry::FLAG_FAIL_CLOSED`].
    pub flags: u32,
}

impl PortEntry {
    /// Under [`FailureMode::AUTO`]: drop while no worker runs.
    pub const FLAG_FAIL_CLOSED: u32 = 1;

    /// Whether [`Self::FLAG_FAIL_CLOSED`] is set.
    pub const fn fail_closed(&self) -> bool {
        self.flags & Self::FLAG_FAIL_CLOSED != 0
    }

    /// The value as the map holds it.
    pub const fn to_bytes(self) -> [u8; size_of::<Self>()] {
        transmute!(self)
    }

    /// The value from what the map holds.
    pub const fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        transmute!(bytes)
    }
}

/// What every program needs to know about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// A heartbeat older than this is of a worker that does not run.
    pub heartbeat_timeout_ns: u64,
    /// What happens to pods meanwhile.
    pub failure_mode: FailureMode,
    /// L4 ports (TCP, UDP, SCTP) and ICMP echo identifiers of the node's addresses that are weir's
    /// for source NAT, both ends included; both 0 = none. In the byte order of the machine.
    pub snat_port_min: u16,
    /// The last of them.
    pub snat_port_max: u16,
    /// Source MAC of everything that reaches a pod: the pods' gateway.
    pub gateway_mac: [u8; 6],
    /// Always 0.
    pub zero: [u8; 2],
}

impl Settings {
    /// One second without a heartbeat, no SNAT range, pods by their flags, a local gateway MAC.
    pub const DEFAULT: Self = Self {
        heartbeat_timeout_ns: 1_000_000_000,
        failure_mode: FailureMode::AUTO,
        snat_port_min: 0,
        snat_port_max: 0,
        gateway_mac: [0x02, 0x77, 0x65, 0x69, 0x72, 0x01],
        zero: [0; 2],
    };

    /// Whether `l4_port` (byte order of the machine) is in the SNAT range.
    pub const fn is_snat_port(&self, l4_port: u16) -> bool {
        self.snat_port_max != 0 && l4_port >= self.snat_port_min && l4_port <= self.snat_port_max
    }

    /// The value as the map holds it.
    pub const fn to_bytes(self) -> [u8; size_of::<Self>()] {
        transmute!(self)
    }

    /// The value from what the map holds.
    pub const fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        transmute!(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_stay_as_pinned() {
        assert_eq!(size_of::<Settings>(), 24);
        assert_eq!(size_of::<PortEntry>(), 12);
        assert_eq!(L4Port::new(6, 0x1234).to_bytes(), [6, 0, 0x12, 0x34]);
        let key = L4Port::from_bytes([6, 0, 0x12, 0x34]);
        assert_eq!(key.l4_port(), 0x1234);
        assert_eq!(core::mem::offset_of!(Settings, gateway_mac), 16);
    }

    #[test]
    fn the_snat_range_includes_both_ends_and_zero_means_none() {
        let none = Settings::DEFAULT;
        assert!(!none.is_snat_port(0) && !none.is_snat_port(50_000));
        let some = Settings { snat_port_min: 49_152, snat_port_max: 65_535, ..none };
        assert!(some.is_snat_port(49_152) && some.is_snat_port(65_535));
        assert!(!some.is_snat_port(49_151));
    }

    #[test]
    fn the_nodes_mode_goes_before_the_pods_flag() {
        assert!(FailureMode::AUTO.is_closed(true) && !FailureMode::AUTO.is_closed(false));
        assert!(!FailureMode::OPEN.is_closed(true));
        assert!(FailureMode::CLOSED.is_closed(false));
        assert!(AddressClass::pod(true).fail_closed());
        assert_eq!(AddressClass::pod(true).class(), AddressClass::POD);
    }
}
