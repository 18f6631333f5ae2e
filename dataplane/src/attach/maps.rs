//! The pinned maps, typed.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::BorrowedFd,
    path::Path,
    time::Duration,
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use rustix::io::Errno;
use weir_xdp_redirect::{
    ADDRESSES_MAX, AddressClass, COUNTERS, Counter, L4Port, NODE_L4_PORTS_MAX, PORTS_MAX,
    PortEntry, Settings, map,
};

use super::{AttachError, bpffs};

const L4_PORT_LEN: usize = size_of::<L4Port>();
const PORT_ENTRY_LEN: usize = size_of::<PortEntry>();
const SETTINGS_LEN: usize = size_of::<Settings>();

/// Handles of the maps. Reads and writes are system calls, each atomic for one entry.
pub struct Maps {
    xsks: XskMap<MapData>,
    addresses: HashMap<MapData, [u8; 16], u32>,
    node_l4_ports: HashMap<MapData, [u8; L4_PORT_LEN], u32>,
    ports: HashMap<MapData, u32, [u8; PORT_ENTRY_LEN]>,
    settings: Array<MapData, [u8; SETTINGS_LEN]>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Opens the maps that [`super::Programs::open`] pinned, from any process.
    pub fn open(pin_dir: &Path) -> Result<Self, AttachError> {
        Ok(Self {
            xsks: open(pin_dir, map::XSKS)?,
            addresses: open(pin_dir, map::ADDRESSES)?,
            node_l4_ports: open(pin_dir, map::NODE_L4_PORTS)?,
            ports: open(pin_dir, map::PORTS)?,
            settings: open(pin_dir, map::SETTINGS)?,
            counters: open(pin_dir, map::COUNTERS)?,
        })
    }

    /// Puts an AF_XDP socket into a slot. The slot empties itself when the socket is closed.
    pub fn set_xsk(&mut self, slot: u32, socket: BorrowedFd<'_>) -> Result<(), AttachError> {
        let result = self.xsks.set(slot, socket, 0);
        result.map_err(error(map::XSKS, format!("setting slot {slot}")))
    }

    /// Takes the socket out of a slot.
    pub fn clear_xsk(&mut self, slot: u32) -> Result<(), AttachError> {
        absent_is_fine(self.xsks.unset(slot))
            .map_err(error(map::XSKS, format!("clearing slot {slot}")))
    }

    /// Says whose an address is.
    pub fn set_address(&mut self, address: IpAddr, class: AddressClass) -> Result<(), AttachError> {
        let result = self.addresses.insert(address_key(address), class.0, 0);
        result.map_err(full(map::ADDRESSES, ADDRESSES_MAX, format!("adding {address}")))
    }

    /// Forgets an address.
    pub fn remove_address(&mut self, address: IpAddr) -> Result<(), AttachError> {
        absent_is_fine(self.addresses.remove(&address_key(address)))
            .map_err(error(map::ADDRESSES, format!("removing {address}")))
    }

    /// All addresses: after a restart, those of the earlier process.
    pub fn addresses(&self) -> Result<Vec<(IpAddr, AddressClass)>, AttachError> {
        let entry = |(key, class): ([u8; 16], u32)| (address_of(key), AddressClass(class));
        collect(map::ADDRESSES, self.addresses.iter().map(|item| item.map(entry)))
    }

    /// Adds a NodePort or hostPort on the node's addresses.
    pub fn set_node_l4_port(&mut self, key: L4Port) -> Result<(), AttachError> {
        let action = format!("adding protocol {} l4_port {}", key.protocol, key.l4_port());
        let result = self.node_l4_ports.insert(key.to_bytes(), 1, 0);
        result.map_err(full(map::NODE_L4_PORTS, NODE_L4_PORTS_MAX, action))
    }

    /// Removes a NodePort or hostPort.
    pub fn remove_node_l4_port(&mut self, key: L4Port) -> Result<(), AttachError> {
        let action = format!("removing protocol {} l4_port {}", key.protocol, key.l4_port());
        absent_is_fine(self.node_l4_ports.remove(&key.to_bytes()))
            .map_err(error(map::NODE_L4_PORTS, action))
    }

    /// All NodePorts and hostPorts.
    pub fn node_l4_ports(&self) -> Result<Vec<L4Port>, AttachError> {
        let keys = self.node_l4_ports.keys().map(|key| key.map(L4Port::from_bytes));
        collect(map::NODE_L4_PORTS, keys)
    }

    /// Gives a port to a worker's trunk; moving it is the same call.
    pub fn set_port(&mut self, ifindex: u32, entry: PortEntry) -> Result<(), AttachError> {
        let result = self.ports.insert(ifindex, entry.to_bytes(), 0);
        result.map_err(full(map::PORTS, PORTS_MAX, format!("adding ifindex {ifindex}")))
    }

    /// Leaves a port's traffic to the kernel.
    pub fn remove_port(&mut self, ifindex: u32) -> Result<(), AttachError> {
        absent_is_fine(self.ports.remove(&ifindex))
            .map_err(error(map::PORTS, format!("removing ifindex {ifindex}")))
    }

    /// All ports.
    pub fn ports(&self) -> Result<Vec<(u32, PortEntry)>, AttachError> {
        let entry = |(ifindex, bytes)| (ifindex, PortEntry::from_bytes(bytes));
        collect(map::PORTS, self.ports.iter().map(|item| item.map(entry)))
    }

    /// Writes the node's settings. Programs may see a mix of old and new fields for a moment.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), AttachError> {
        let result = self.settings.set(0, settings.to_bytes(), 0);
        result.map_err(error(map::SETTINGS, "writing".into()))
    }

    /// The node's settings.
    pub fn settings(&self) -> Result<Settings, AttachError> {
        let bytes = self.settings.get(&0, 0).map_err(error(map::SETTINGS, "reading".into()))?;
        Ok(Settings::from_bytes(bytes))
    }

    /// All counters, summed over CPUs: the counter, its metric's name, its value.
    pub fn counters(&self) -> Result<Vec<(Counter, &'static str, u64)>, AttachError> {
        let read = |&(counter, name, _): &(Counter, &'static str, &str)| {
            let values = self
                .counters
                .get(&(counter as u32), 0)
                .map_err(error(map::COUNTERS, format!("reading {name}")))?;
            Ok((counter, name, values.iter().sum()))
        };
        COUNTERS.iter().map(read).collect()
    }
}

/// The heartbeats, for a worker of its own: without a fresh one the programs act as without worker.
pub struct Heartbeats(Array<MapData, u64>);

impl Heartbeats {
    /// Opens the map that [`super::Programs::open`] pinned.
    pub fn open(pin_dir: &Path) -> Result<Self, AttachError> {
        Ok(Self(open(pin_dir, map::HEARTBEATS)?))
    }

    /// Says that the worker of `slot` runs at `now_ns` of CLOCK_MONOTONIC; 0 says that it does not.
    /// One system call: stamp at most every few milliseconds.
    pub fn stamp(&mut self, slot: u32, now_ns: u64) -> Result<(), AttachError> {
        let result = self.0.set(slot, now_ns, 0);
        result.map_err(error(map::HEARTBEATS, format!("stamping slot {slot}")))
    }

    /// Has the programs take the workers of these slots for running for `hold` from `now_ns` on.
    /// A stamp is good for the time-out of the settings, so it is set ahead by the rest.
    pub fn hold(&mut self, slots: &[u32], now_ns: u64, hold: Duration) -> Result<(), AttachError> {
        let timeout_ns = Settings::DEFAULT.heartbeat_timeout_ns;
        let ahead_ns = (hold.as_nanos() as u64).saturating_sub(timeout_ns);
        slots.iter().try_for_each(|slot| self.stamp(*slot, now_ns.saturating_add(ahead_ns)))
    }

    /// The last stamp of a slot.
    pub fn read(&self, slot: u32) -> Result<u64, AttachError> {
        self.0.get(&slot, 0).map_err(error(map::HEARTBEATS, format!("reading slot {slot}")))
    }
}

fn open<M>(pin_dir: &Path, name: &'static str) -> Result<M, AttachError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let path = bpffs::maps_dir(pin_dir).join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(error(name, format!("opening {}", path.display())))
}

fn collect<T>(
    map: &'static str,
    items: impl Iterator<Item = Result<T, MapError>>,
) -> Result<Vec<T>, AttachError> {
    items.collect::<Result<_, _>>().map_err(error(map, "listing".into()))
}

fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address_of(key: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

/// Removing what is not there is what a retry does.
fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn error(map: &'static str, action: String) -> impl FnOnce(MapError) -> AttachError {
    move |source| AttachError::Map { map, action, source: Box::new(source) }
}

/// As [`error`], where the kernel's E2BIG means that the map is full.
fn full(map: &'static str, max: u32, action: String) -> impl FnOnce(MapError) -> AttachError {
    move |source| match &source {
        MapError::SyscallError(error)
            if error.io_error.raw_os_error() == Some(Errno::TOOBIG.raw_os_error()) =>
        {
            AttachError::MapFull { map, action, max }
        }
        _ => AttachError::Map { map, action, source: Box::new(source) },
    }
}
