//! AF_XDP devices against a real kernel: veths, programs, sockets. Needs root.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use weir_dataplane::attach::{Heartbeats, Interface, Maps, PortKind, Programs, remove_all};
use weir_dataplane::batch::Batch;
use weir_dataplane::clock::{Clock, MonotonicClock};
use weir_dataplane::device::xsk::{Region, RegionConfig, XskConfig, XskDevice, XskError};
use weir_dataplane::device::{Checksum, Device};
use weir_dataplane::memory::{Frame, Pool, pools};
use weir_lab::{Host, Lab, LinkOptions};
use weir_tables::PortId;
use weir_xdp_redirect::{AddressClass, PortEntry, Settings, trunk_slot, uplink_slot_base};

const LEFT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
const ECHO_PORT: u16 = 7;
/// Datagrams on their way at a time: less than a socket's receive buffer holds.
const WINDOW: u32 = 64;

/// Two hosts, each behind a veth of a node, and the programs of that node.
///
/// ```text
/// left eth0 ── up0 node up1 ── eth0 right
/// ```
struct World {
    pins: PathBuf,
    left: Host,
    node: Host,
    right: Host,
    ports: [PortId; 2],
    macs: [[u8; 6]; 2],
    lab: Lab,
}

impl World {
    fn new(name: &str) -> World {
        let lab = Lab::new(name).expect("a lab");
        let pins = PathBuf::from("/sys/fs/bpf").join(lab.prefix().replace('.', "-"));
        let host = |name| lab.host(name).expect("a host");
        let (left, node, right) = (host("left"), host("node"), host("right"));
        for host in [&left, &node, &right] {
            // The tests count packets, and IPv6 speaks by itself.
            host.sysctl("net.ipv6.conf.default.disable_ipv6", "1").expect("a sysctl");
        }
        for (host, up, addr) in [(&left, "up0", LEFT), (&right, "up1", RIGHT)] {
            lab.link(host, "eth0", &node, up, &LinkOptions::default()).expect("a link");
            // An AF_XDP socket sends checksums as they are, and nothing here completes them.
            host.ethtool("-K eth0 tx off").expect("checksums in software");
            host.addr("eth0", &format!("{addr}/32")).expect("an address");
            host.ip("route add 10.0.0.254 dev eth0").expect("a gateway");
            host.neighbour("eth0", "10.0.0.254", [2, 0, 0, 0, 0, 1]).expect("its MAC");
            host.route("default via 10.0.0.254").expect("a route");
        }
        let index = |name| PortId(node.interface(name).expect("an interface").index);
        let ports = [index("up0"), index("up1")];
        let mac = |host: &Host| host.interface("eth0").expect("an interface").mac;
        let macs = [mac(&left), mac(&right)];
        World { pins, left, node, right, ports, macs, lab }
    }

    /// Steers what is for the two hosts into the sockets of the two uplinks.
    fn attach_uplinks(&self) {
        let programs = Programs::open(&self.pins).expect("programs load");
        for (uplink, name) in ["up0", "up1"].into_iter().enumerate() {
            let device = Interface::by_name(name).expect("an interface");
            programs.attach_uplink(&device, uplink as u32).expect("the program attaches");
        }
        let mut maps = programs.maps().expect("pinned maps");
        let settings = Settings { heartbeat_timeout_ns: u64::MAX, ..Settings::DEFAULT };
        maps.set_settings(settings).expect("settings");
        for addr in [LEFT, RIGHT] {
            maps.set_address(addr.into(), AddressClass::SERVICE).expect("an address");
        }
    }

    fn uplink_socket(&self, region: Region, uplink: u32) -> XskDevice {
        let name = format!("up{uplink}");
        let port = self.ports[uplink as usize];
        let config = XskConfig::uplink(&name, 0, port, Checksum::MaybePartial);
        XskDevice::new(region, config).expect("a socket")
    }

    fn uplink(&self, region: Region, uplink: u32) -> XskDevice {
        let device = self.uplink_socket(region, uplink);
        self.fill_slot(uplink_slot_base(uplink).expect("a slot"), &device);
        device
    }

    fn fill_slot(&self, slot: u32, device: &XskDevice) {
        let mut maps = Maps::open(&self.pins).expect("pinned maps");
        maps.set_xsk(slot, device.wait_fd().expect("a socket")).expect("a slot");
        let mut heartbeats = Heartbeats::open(&self.pins).expect("pinned map");
        heartbeats.stamp(slot, MonotonicClock.now().0).expect("a heartbeat");
    }

    /// Sends `count` numbered datagrams from left to right and back while `forward` turns in the
    /// node, then once more after the last came.
    fn echo(&self, count: u32, mut forward: impl FnMut() + Send) {
        let done = &AtomicBool::new(false);
        let server = self.right.enter(|| UdpSocket::bind((RIGHT, ECHO_PORT)));
        let server = server.expect("the host is there").expect("a socket");
        scope(|threads| {
            threads.spawn(|| serve_echo(server, done));
            let client = threads.spawn(|| {
                let outcome = self.left.enter(|| send_numbers(count)).expect("the host is there");
                done.store(true, Ordering::Relaxed);
                outcome
            });
            while !done.load(Ordering::Relaxed) {
                forward();
            }
            forward();
            client.join().expect("no panic").expect("every datagram comes back");
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Self { node, pins, .. } = self;
        let removed = node.enter(|| remove_all(pins));
        if let Ok(Err(error)) = removed {
            eprintln!("{}: {error}", self.lab.prefix());
        }
    }
}

fn serve_echo(socket: UdpSocket, done: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let mut bytes = [0; 2048];
    while !done.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..len], from).expect("the route is there");
        }
    }
}

/// Sends numbered datagrams of many lengths, a window at a time, and checks what comes back.
fn send_numbers(count: u32) -> io::Result<()> {
    let socket = UdpSocket::bind((LEFT, 0))?;
    socket.connect((RIGHT, ECHO_PORT))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = [0; 2048];
    for start in (0..count).step_by(WINDOW as usize) {
        let numbers = start..count.min(start + WINDOW);
        for number in numbers.clone() {
            socket.send(&payload(number))?;
        }
        for number in numbers {
            let len = socket.recv(&mut bytes)?;
            assert_eq!(bytes[..len], payload(number), "datagram {number}, or one out of order");
        }
    }
    Ok(())
}

fn payload(number: u32) -> Vec<u8> {
    let mut bytes = vec![number as u8; 4 + number as usize % 1400];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn region(workers: usize) -> (Region, Vec<Pool>) {
    let (region, frames) = Region::new(RegionConfig::DEFAULT).expect("packet memory");
    (region, pools(frames, workers))
}

fn set_destination(frame: &mut Frame, mac: [u8; 6]) {
    frame.bytes_mut()[..6].copy_from_slice(&mac);
}

#[test]
fn frames_pass_between_devices_of_one_memory_and_come_home() {
    if weir_lab::skipped() {
        return;
    }
    let world = World::new("xsk");
    let inside = || {
        world.attach_uplinks();
        let (region, mut pools) = region(1);
        let pool = &mut pools[0];
        let mut devices = [world.uplink(region, 0), world.uplink(region, 1)];
        devices.iter_mut().for_each(|device| device.flush(pool));
        assert_eq!(devices[0].frames_held(), 2048);

        let mut batch = Batch::new();
        world.echo(100_000, || {
            for (from, to) in [(0, 1), (1, 0)] {
                devices[from].recv(&mut batch, pool);
                for mut packet in batch.drain() {
                    assert_eq!(packet.port, PortId::UPLINK);
                    set_destination(&mut packet.frame, world.macs[to]);
                    devices[to].send(world.ports[to], packet.frame).expect("TX has room");
                }
            }
            devices.iter_mut().for_each(|device| device.flush(pool));
        });
        for device in &devices {
            let counters = device.counters();
            assert_eq!((counters.rx_packets, counters.tx_packets), (100_000, 100_000));
            assert_eq!((counters.rx_invalid, counters.tx_failed), (0, 0));
            let statistics = device.statistics().expect("statistics");
            let lost = statistics.rx_dropped
                + statistics.rx_ring_full
                + statistics.rx_fill_ring_empty_descs
                + statistics.rx_invalid_descs
                + statistics.tx_invalid_descs;
            assert_eq!(lost, 0, "{statistics:?}");
        }
        assert!(!pool.is_whole(), "frames are lent for receiving");
        // The first device registered the memory; its end must not disturb the second's.
        devices.into_iter().for_each(|device| device.shutdown(pool));
        assert!(pool.is_whole(), "{} of {} frames", pool.free(), pool.home());
    };
    world.node.enter(inside).expect("the node is there");
}

/// A worker with one uplink: what it receives, the other worker sends.
struct Worker {
    device: XskDevice,
    pool: Pool,
    port: PortId,
    /// Of the host behind the uplink.
    mac: [u8; 6],
    to_other: Producer<Frame>,
    from_other: Consumer<Frame>,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool) -> Pool {
        let mut batch = Batch::new();
        while !stop.load(Ordering::Relaxed) {
            self.device.recv(&mut batch, &mut self.pool);
            for packet in batch.drain() {
                self.to_other.push(packet.frame).expect("a window fits the ring");
            }
            while let Ok(mut frame) = self.from_other.pop() {
                set_destination(&mut frame, self.mac);
                self.device.send(self.port, frame).expect("TX has room");
            }
            self.device.flush(&mut self.pool);
            self.pool.collect();
        }
        assert!(self.from_other.is_empty());
        self.device.shutdown(&mut self.pool);
        self.pool
    }
}

/// Ends the workers also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn frames_of_one_worker_that_another_sends_come_home() {
    if weir_lab::skipped() {
        return;
    }
    let world = World::new("xskhome");
    let inside = || {
        world.attach_uplinks();
        let (region, pools) = region(2);
        let (rings, mut others): (Vec<_>, Vec<_>) =
            [(); 2].map(|()| RingBuffer::new(256)).into_iter().unzip();
        others.reverse();
        let parts = pools.into_iter().zip(rings).zip(others).enumerate();
        let workers = parts.map(|(number, ((mut pool, to_other), from_other))| {
            let mut device = world.uplink(region, number as u32);
            device.flush(&mut pool);
            let (port, mac) = (world.ports[number], world.macs[number]);
            Worker { device, pool, port, mac, to_other, from_other }
        });
        let stop = &AtomicBool::new(false);
        let mut pools: Vec<Pool> = scope(|threads| {
            let stopping = StopOnDrop(stop);
            let running: Vec<_> =
                workers.map(|worker| threads.spawn(|| worker.run(stop))).collect();
            world.echo(10_000, || weir_lab::clock::pause(Duration::from_millis(1)));
            drop(stopping);
            running.into_iter().map(|worker| worker.join().expect("no panic")).collect()
        });
        for pool in &mut pools {
            pool.collect();
            assert!(pool.is_whole(), "{} of {} frames", pool.free(), pool.home());
        }
    };
    world.node.enter(inside).expect("the node is there");
}

#[test]
fn what_the_wire_refuses_waits_and_what_it_takes_along_comes_home() {
    if weir_lab::skipped() {
        return;
    }
    let world = World::new("xskdown");
    let inside = || {
        let (region, mut pools) = region(1);
        let pool = &mut pools[0];
        let mut device = world.uplink_socket(region, 0);
        device.flush(pool);
        let lent = device.frames_held();

        world.node.ip("link set dev up0 down").expect("the link goes down");
        let mut sent = 0;
        let refused = loop {
            let mut frame = pool.take().expect("more than TX holds");
            assert!(frame.copy_from(&[2; 60]));
            match device.send(world.ports[0], frame) {
                Ok(()) => sent += 1,
                Err(frame) => break frame,
            }
        };
        pool.put(refused);
        device.flush(pool);
        assert_eq!((sent, device.frames_held()), (2048, lent + 2048), "TX is full, nothing left");

        world.node.ip("link set dev up0 up").expect("the link comes up");
        weir_lab::clock::wait_until("everything left", Duration::from_secs(5), || {
            device.flush(pool);
            (device.frames_held() == lent).then_some(())
        })
        .expect("later flushes kick what waits");
        assert_eq!(device.counters().tx_packets, 2048);

        world.node.ip("link delete dev up0").expect("the link goes");
        let mut batch = Batch::new();
        device.recv(&mut batch, pool);
        let mut frame = pool.take().expect("a frame");
        assert!(batch.is_empty() && frame.copy_from(&[2; 60]));
        device.send(world.ports[0], frame).expect("it does not know yet");
        device.flush(pool);
        device.shutdown(pool);
        assert!(pool.is_whole(), "{} of {} frames", pool.free(), pool.home());
    };
    world.node.enter(inside).expect("the node is there");
}

#[test]
fn a_trunk_carries_many_ports_on_one_socket() {
    if weir_lab::skipped() {
        return;
    }
    let world = World::new("xsktrunk");
    let node = &world.node;
    world.lab.link(node, "trunk0", node, "trunk1", &LinkOptions::default()).expect("a trunk");
    let inside = || {
        let mut programs = Programs::open(&world.pins).expect("programs load");
        let interface = |name| Interface::by_name(name).expect("an interface");
        let outer = interface("trunk0");
        programs.attach_trunk(&outer, &interface("trunk1"), 0).expect("a trunk");
        let mut maps = programs.maps().expect("pinned maps");
        let settings = Settings { heartbeat_timeout_ns: u64::MAX, ..Settings::DEFAULT };
        maps.set_settings(settings).expect("settings");
        let slot = trunk_slot(0).expect("a slot");
        let trunk_ifindex = node.interface("trunk0").expect("an interface").index;
        for (name, port) in ["up0", "up1"].into_iter().zip(world.ports) {
            programs.attach_port(&interface(name), PortKind::Pod).expect("a port");
            let entry = PortEntry { trunk_ifindex, xsk_slot: slot, flags: 0 };
            maps.set_port(port.0, entry).expect("a port");
        }
        let (region, mut pools) = region(1);
        let pool = &mut pools[0];
        let config = XskConfig::trunk("trunk1", None, vec![]);
        let mut device = XskDevice::new(region, config).expect("a socket");
        device.flush(pool);
        world.fill_slot(slot, &device);

        let mut batch = Batch::new();
        world.echo(10_000, || {
            device.recv(&mut batch, pool);
            for mut packet in batch.drain() {
                assert_eq!(packet.meta.checksum, Checksum::MaybePartial);
                let from = world.ports.iter().position(|port| *port == packet.port);
                let to = 1 - from.expect("the port of one of the two");
                set_destination(&mut packet.frame, world.macs[to]);
                device.send(world.ports[to], packet.frame).expect("TX has room");
            }
            device.flush(pool);
        });
        assert_eq!(device.counters().rx_packets, 20_000);
        device.shutdown(pool);
        assert!(pool.is_whole());
    };
    node.enter(inside).expect("the node is there");
}

#[test]
fn a_busy_queue_is_awaited_and_then_named() {
    if weir_lab::skipped() {
        return;
    }
    let world = World::new("xskbusy");
    let inside = || {
        let config = || XskConfig::uplink("up0", 0, world.ports[0], Checksum::Full);
        let (first, mut first_pools) = region(1);
        let (second, _second_pools) = region(1);
        let mut holder = XskDevice::new(first, config()).expect("a socket");
        holder.flush(&mut first_pools[0]);

        let error = XskDevice::new(second, config()).err().expect("the queue is taken");
        let text = error.to_string();
        assert!(text.contains("up0 queue 0") && text.contains("another process"), "{text}");

        let device = scope(|threads| {
            threads.spawn(|| {
                weir_lab::clock::pause(Duration::from_millis(200));
                holder.shutdown(&mut first_pools[0]);
            });
            XskDevice::new(second, config()).expect("the queue comes free meanwhile")
        });
        assert!(first_pools[0].is_whole());
        let error = XskDevice::new(first, config()).err().expect("its first device is gone");
        assert!(matches!(error, XskError::RegionEnded { .. }), "{error}");
        drop(device);
    };
    world.node.enter(inside).expect("the node is there");
}

#[test]
fn what_cannot_be_bound_is_named_with_a_remedy() {
    if weir_lab::skipped() {
        return;
    }
    let world = World::new("xskbad");
    let inside = || {
        let (region, _pools) = region(1);
        let good = XskConfig::uplink("up0", 0, world.ports[0], Checksum::Full);
        let message =
            |config: XskConfig| XskDevice::new(region, config).err().expect("refused").to_string();
        let text = message(XskConfig { interface: "nope0".into(), ..good.clone() });
        assert!(text.contains("nope0 queue 0") && text.contains("no such interface"), "{text}");
        let text = message(XskConfig { queue: 63, ..good.clone() });
        assert!(text.contains("up0 queue 63") && text.contains("ethtool -l"), "{text}");
        let text = message(XskConfig { ring: 1000, ..good.clone() });
        assert!(text.contains("RX and TX ring: 1000 is not a power of two"), "{text}");
        let text = message(XskConfig { fill: 8192, ..good.clone() });
        assert!(text.contains("fill: 8192"), "{text}");
        XskDevice::new(region, good).expect("refusals leave no trace");
        let bad = RegionConfig { chunk_size: 3000, ..RegionConfig::DEFAULT };
        let text = Region::new(bad).err().expect("refused").to_string();
        assert!(text.contains("chunk size: 3000"), "{text}");
    };
    world.node.enter(inside).expect("the node is there");
}
