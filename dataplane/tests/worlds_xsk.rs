//! The packets of `worlds.rs` through AF_XDP sockets on veths: the same bytes, the same counters.
//! Needs root.

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    socket,
};
use weir_dataplane::attach::{Heartbeats, Interface, PortKind, Programs, remove_all};
use weir_dataplane::clock::{Clock, MonotonicClock, VirtualClock};
use weir_dataplane::device::xsk::{Region, RegionConfig, XskConfig, XskDevice};
use weir_dataplane::device::{Checksum, Device};
use weir_dataplane::memory::pools;
use weir_lab::{Host, Lab, LinkOptions};
use weir_tables::PortId;
use weir_xdp_redirect::{AddressClass, PortEntry, Settings, trunk_slot, uplink_slot_base};

use common::node::{HOST_PORT, PODS, UPLINK_PORT, addr};
use common::rig::{CASES, Far, Rig, memory, run, worker};

/// A node whose interfaces have the numbers of [`common::node`].
///
/// ```text
/// pods p11 ── p11 ┐        ┌ trunk1 (worker)
///      ...        ├ trunk0 ┤
///      p9  ── p9  ┘        └ up2 ── up2 outside
/// ```
struct World {
    pins: PathBuf,
    pods: Host,
    node: Host,
    outside: Host,
    lab: Lab,
}

impl World {
    fn new() -> World {
        let lab = Lab::new("worlds").expect("a lab");
        let host = |name| lab.host(name).expect("a host");
        let (pods, node, outside) = (host("pods"), host("node"), host("outside"));
        for host in [&pods, &node, &outside] {
            // Packets are counted, and IPv6 speaks by itself.
            host.sysctl("net.ipv6.conf.default.disable_ipv6", "1").expect("a sysctl");
        }
        let link = |far: &Host, name: &str, port: PortId| {
            let peer = format!("peer name {name} netns {}", far.namespace());
            let link = format!("link add name {name} index {} type veth {peer}", port.0);
            node.ip(&link).expect("a veth");
            node.ip(&format!("link set dev {name} up")).expect("up");
            far.ip(&format!("link set dev {name} up")).expect("up");
        };
        for port in ports() {
            link(&pods, &name_of(port), port);
        }
        link(&outside, &name_of(UPLINK_PORT), UPLINK_PORT);
        lab.link(&node, "trunk0", &node, "trunk1", &LinkOptions::default()).expect("a trunk");
        World { pins: lab.pin_folder(), pods, node, outside, lab }
    }

    /// The programs, and everything steered to the worker.
    fn attach(&self) -> Programs {
        let mut programs = Programs::open(&self.pins).expect("programs load");
        let interface = |name: &str| Interface::by_name(name).expect("an interface");
        let outer = interface("trunk0");
        programs.attach_trunk(&outer, &interface("trunk1"), 0).expect("a trunk");
        programs.attach_uplink(&interface(&name_of(UPLINK_PORT)), 0).expect("an uplink");
        let mut maps = programs.maps().expect("pinned maps");
        let settings = Settings { heartbeat_timeout_ns: u64::MAX, ..Settings::DEFAULT };
        maps.set_settings(settings).expect("settings");
        let trunk_ifindex = self.node.interface("trunk0").expect("a trunk").index;
        for port in ports() {
            let kind = if port == HOST_PORT { PortKind::Host } else { PortKind::Pod };
            programs.attach_port(&interface(&name_of(port)), kind).expect("a port");
            let entry = PortEntry { trunk_ifindex, xsk_slot: slots()[0], flags: 0 };
            maps.set_port(port.0, entry).expect("a port");
        }
        // All that the cases send in from outside, whatever it is.
        for name in ["blue", "own", "lb", "host"] {
            for address in [addr(name, 4), addr(name, 6)].map(IpAddr::from) {
                maps.set_address(address, AddressClass::SERVICE).expect("an address");
            }
        }
        let mut heartbeats = Heartbeats::open(&self.pins).expect("a pinned map");
        for slot in slots() {
            heartbeats.stamp(slot, MonotonicClock.now().0).expect("a heartbeat");
        }
        programs
    }

    /// A worker over sockets; to be called in the node.
    fn rig(&self) -> Rig<XskDevice> {
        let programs = self.attach();
        let region = RegionConfig { chunks: 256, ring: 64, ..RegionConfig::DEFAULT };
        let (region, frames) = Region::new(region).expect("packet memory");
        let mut pool = pools(frames, 1).remove(0);
        let uplink = name_of(UPLINK_PORT);
        let configs = [
            XskConfig::trunk("trunk1", Some(HOST_PORT), vec![UPLINK_PORT]),
            XskConfig::uplink(&uplink, 0, UPLINK_PORT, Checksum::MaybePartial),
        ];
        let mut maps = programs.maps().expect("pinned maps");
        let devices = configs.into_iter().zip(slots()).map(|(config, slot)| {
            let config = XskConfig { ring: 64, fill: 64, ..config };
            let mut device = XskDevice::new(region, config).expect("a socket");
            device.flush(&mut pool);
            maps.set_xsk(slot, device.wait_fd().expect("a socket")).expect("a slot");
            device
        });
        let devices: Vec<XskDevice> = devices.collect();
        let wires = Wires::open(self, &devices);
        Rig { worker: worker(devices, pool), far: Box::new(wires) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Self { node, pins, .. } = self;
        if let Ok(Err(error)) = node.enter(|| remove_all(pins)) {
            eprintln!("{}: {error}", self.lab.prefix());
        }
    }
}

/// The pods' and the host's.
fn ports() -> Vec<PortId> {
    PODS.iter().map(|pod| PortId(pod.1)).chain([HOST_PORT]).collect()
}

fn name_of(port: PortId) -> String {
    format!("p{}", port.0)
}

/// Of the trunk and of the uplink.
fn slots() -> [u32; 2] {
    [trunk_slot(0).expect("a slot"), uplink_slot_base(0).expect("a slot")]
}

/// Packet sockets on the far ends of the veths.
struct Wires {
    senders: BTreeMap<PortId, OwnedFd>,
    /// All that arrives in the pods and at the host, and all that arrives outside.
    receivers: [OwnedFd; 2],
    /// The worker's sockets, to see that a packet has come.
    devices: [OwnedFd; 2],
}

impl Wires {
    fn open(world: &World, devices: &[XskDevice]) -> Wires {
        let inside = || {
            let senders: Vec<_> = ports().into_iter().map(|port| (port, sender(port))).collect();
            (packet_socket(), senders)
        };
        let (at_pods, mut senders) = world.pods.enter(inside).expect("the pods are there");
        let inside = || (packet_socket(), sender(UPLINK_PORT));
        let (at_outside, uplink) = world.outside.enter(inside).expect("the outside is there");
        senders.push((PortId::UPLINK, uplink));
        let clone = |device: &XskDevice| {
            let fd = device.wait_fd().expect("a socket");
            fd.try_clone_to_owned().expect("a descriptor")
        };
        Wires {
            senders: senders.into_iter().collect(),
            receivers: [at_pods, at_outside],
            devices: [clone(&devices[0]), clone(&devices[1])],
        }
    }
}

impl Far for Wires {
    fn inject(&mut self, port: PortId, frame: &[u8]) {
        let sender = self.senders[&port].as_raw_fd();
        assert_eq!(send(sender, frame, MsgFlags::empty()), Ok(frame.len()));
        let device = &self.devices[usize::from(port == PortId::UPLINK)];
        assert!(is_readable(device, 5_000), "a frame of port {port:?} never reached the worker");
    }

    fn take_sent(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for receiver in &self.receivers {
            while is_readable(receiver, 200) {
                let mut buffer = vec![0; 2048];
                let received = recvfrom::<LinkAddr>(receiver.as_raw_fd(), &mut buffer);
                let (length, from) = received.expect("a frame");
                buffer.truncate(length);
                // The socket sees what others send, too.
                if from.expect("an interface").pkttype() != libc::PACKET_OUTGOING {
                    sent.push(buffer);
                }
            }
        }
        sent
    }
}

fn packet_socket() -> OwnedFd {
    let (kind, protocol) = (SockType::Raw, SockProtocol::EthAll);
    socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, protocol).expect("a packet socket")
}

/// A packet socket of one interface of this thread's namespace.
fn sender(port: PortId) -> OwnedFd {
    let socket = packet_socket();
    let links = getifaddrs().expect("interfaces").filter_map(|entry| {
        let link = *entry.address?.as_link_addr()?;
        (entry.interface_name == name_of(port)).then_some(link)
    });
    let link = links.last().expect("the interface is there");
    bind(socket.as_raw_fd(), &link).expect("bound");
    socket
}

fn is_readable(fd: &OwnedFd, timeout_ms: u16) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(timeout_ms)).expect("a poll") > 0
}

#[test]
fn memory_and_sockets_give_the_same_bytes_and_counters() {
    if weir_lab::skipped() {
        return;
    }
    for family in [4, 6] {
        for case in CASES {
            let mut in_memory = run(&mut memory(), case, family, &VirtualClock::default());
            // The first socket of a region stays to its end: no two worlds share interfaces.
            let world = World::new();
            let inside = || run(&mut world.rig(), case, family, &VirtualClock::default());
            let through_sockets = world.node.enter(inside).expect("the node is there");
            // Some are lent to the kernel for receiving.
            in_memory.counters.frames_free = through_sockets.counters.frames_free;
            assert_eq!(through_sockets, in_memory, "{}, IPv{family}", case.name);
        }
    }
}
