//! The whole way of a pod's packets: tcx, trunk, AF_XDP socket and back, over real veths.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

#[allow(
    dead_code,
    unused_imports,
    reason = "the loader, as the dataplane has it; not every call is tested here"
)]
#[path = "../../dataplane/src/attach/mod.rs"]
mod attach;
mod support;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering,
    time::Duration,
};

use attach::{Interface, Maps, PortKind, Programs, TcHook};
use support::{
    Lab, inside, ip, is_privileged, now_ns, pattern, run, sum, tcp_transfer, udp_round_trip,
    wait_until,
    worker::{Route, Seen, Sender, Worker},
};
use weir_xdp_redirect::{
    Counter, FailureMode, PortEntry, PortHeader, Settings, TRUNK_FLAG_FROM_HOST,
    TRUNK_FLAG_TO_HOST, trunk_slot,
};

const HOST: &str = "192.0.2.1";
const PODS_V4: [&str; 2] = ["10.244.1.5", "10.244.1.6"];
const PODS_V6: [&str; 2] = ["fd00:244:1::5", "fd00:244:1::6"];
const WORKER: u32 = 3;

#[test]
fn pods_and_host_talk_through_the_worker() {
    if is_privileged() {
        talk(&Node::build(TcHook::Tcx));
    }
}

#[test]
fn the_same_with_clsact() {
    if is_privileged() {
        talk(&Node::build(TcHook::Clsact));
    }
}

#[test]
fn without_a_worker_the_failure_mode_decides() {
    if !is_privileged() {
        return;
    }
    let mut node = Node::build(TcHook::Tcx);
    let [a, b] = node.ports;
    let pods = |node: &Node| udp_round_trip(&node.pods[0], &node.pods[1], at(PODS_V4[1], 7000));
    assert!(pods(&node));

    // A worker that hangs: within the timeout nothing, then by mode.
    let maps = Maps::open(&node.lab.pin_dir).unwrap();
    let passed = count(&maps, Counter::PortPassedStale);
    node.worker().beats.store(false, Ordering::Relaxed);
    let start_ns = now_ns();
    wait_until(Duration::from_secs(3), || {
        pods(&node) && count(&maps, Counter::PortPassedStale) > passed
    });
    println!("open after {} ms without a heartbeat", (now_ns() - start_ns) / 1_000_000);
    node.worker().take_seen();
    assert!(pods(&node), "mode auto, no policy: the kernel forwards");
    assert!(node.worker().take_seen().frames.is_empty(), "and the worker sees nothing");
    node.set_mode(FailureMode::CLOSED);
    assert!(!pods(&node), "mode closed");
    node.set_mode(FailureMode::OPEN);
    assert!(pods(&node), "mode open");
    node.set_mode(FailureMode::AUTO);
    node.set_port(a, PortEntry::FLAG_FAIL_CLOSED);
    assert!(!pods(&node), "mode auto, under policy");
    node.set_port(a, 0);
    let host = udp_round_trip(&node.netns, &node.pods[1], at(PODS_V4[1], 7000));
    assert!(host, "the host reaches pods");

    // It comes back.
    node.worker().beats.store(true, Ordering::Relaxed);
    wait_until(Duration::from_secs(2), || {
        node.worker().take_seen();
        pods(&node) && node.worker().take_seen().frames.contains_key(&(b, 0))
    });

    // A worker that is gone: dropped until the timeout, as the next process may be about to take
    // over; then by mode. The long timeout is for slow machines.
    let timeout_ns = 60_000_000_000;
    let settings = Settings { heartbeat_timeout_ns: timeout_ns, ..Settings::DEFAULT };
    Maps::open(&node.lab.pin_dir).unwrap().set_settings(settings).unwrap();
    let passed = count(&maps, Counter::PortPassedStale);
    node.worker = None;
    assert!(!pods(&node), "the socket is gone, the heartbeat is fresh");
    let host = udp_round_trip(&node.netns, &node.pods[1], at(PODS_V4[1], 7000));
    assert!(!host, "nor from the host");
    assert_eq!(count(&maps, Counter::PortPassedStale), passed, "nothing to the kernel");
    let dropped = count(&maps, Counter::TrunkDroppedNoSocket);
    assert!(dropped >= 2, "counted: {dropped}");
    node.set_mode(FailureMode::AUTO);
    wait_until(Duration::from_secs(3), || pods(&node));
}

#[test]
fn a_heartbeat_set_ahead_holds_packets_back_until_its_time_is_over() {
    if !is_privileged() {
        return;
    }
    let mut node = Node::build(TcHook::Tcx);
    let pods = |node: &Node| udp_round_trip(&node.pods[0], &node.pods[1], at(PODS_V4[1], 7000));
    assert!(pods(&node));
    node.worker = None;
    let maps = Maps::open(&node.lab.pin_dir).unwrap();
    let passed = count(&maps, Counter::PortPassedStale);
    let hold = Duration::from_secs(5);
    let mut beats = attach::Heartbeats::open(&node.lab.pin_dir).unwrap();
    let start_ns = now_ns();
    beats.hold(&[trunk_slot(WORKER).unwrap()], start_ns, hold).unwrap();
    // Longer than the time-out of a heartbeat of now.
    while now_ns() - start_ns < 2_000_000_000 {
        assert!(!pods(&node), "held back");
    }
    assert_eq!(count(&maps, Counter::PortPassedStale), passed, "nothing to the kernel");
    wait_until(Duration::from_secs(10), || pods(&node));
    let open_ns = now_ns() - start_ns;
    assert!(open_ns >= hold.as_nanos() as u64, "open after {open_ns} ns");
}

fn talk(node: &Node) {
    let [a, b] = node.ports;
    let worker = node.worker();
    for (client, server) in [(PODS_V4[0], PODS_V4[1]), (PODS_V6[0], PODS_V6[1])] {
        worker.take_seen();
        assert!(udp_round_trip(&node.pods[0], &node.pods[1], at(server, 7000)), "{client} UDP");
        let seen = worker.take_seen();
        assert!(seen.frames[&(a, 0)] >= 1 && seen.frames[&(b, 0)] >= 1, "{seen:?}");
        let len = 4 << 20;
        let start_ns = now_ns();
        let got = tcp_transfer(&node.pods[0], &node.pods[1], at(server, 7001), len);
        assert_eq!(got, (len, sum(&pattern(len))));
        println!("{client} -> {server}: 4 MiB in {} ms", (now_ns() - start_ns) / 1_000_000);
    }
    // Host to pod: the kernel routes to the pod's veth, its egress program redirects.
    worker.take_seen();
    assert!(udp_round_trip(&node.netns, &node.pods[0], at(PODS_V4[0], 7000)), "host to pod");
    let seen = worker.take_seen();
    assert!(seen.frames[&(a, TRUNK_FLAG_FROM_HOST)] >= 1 && seen.frames[&(a, 0)] >= 1, "{seen:?}");
    // Pod to host: out of the host port's outer end; the reply comes by the pod's veth.
    assert!(udp_round_trip(&node.pods[1], &node.netns, at(HOST, 7002)), "pod to host");
    let seen = worker.take_seen();
    assert!(seen.frames[&(b, 0)] >= 1 && seen.frames[&(b, TRUNK_FLAG_FROM_HOST)] >= 1, "{seen:?}");
    // Into the host's port, for addresses that the host routes there.
    inside(&node.netns, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"weir", "10.96.0.10:53").unwrap();
    });
    wait_until(Duration::from_secs(1), || {
        worker.seen.lock().unwrap().frames.contains_key(&(node.host_port, 0))
    });
    assert_no_loss(node);
    checksums(node);
    vlan(node);
}

/// A tag moves to the metadata on its way, where the worker could not see it.
fn vlan(node: &Node) {
    const EXPERIMENTAL: u16 = 0x88b5;
    let maps = Maps::open(&node.lab.pin_dir).unwrap();
    let mut sender = Sender::open(&node.pods[0], "eth0");
    let mut send = |tag: &[u8]| {
        let macs = [Settings::DEFAULT.gateway_mac, pod_mac(0)].concat();
        let frame = [&macs, tag, &EXPERIMENTAL.to_be_bytes(), &[0; 46]].concat();
        sender.send(&frame);
    };
    send(&[0x81, 0, 0, 42]);
    wait_until(Duration::from_secs(1), || count(&maps, Counter::PortDroppedVlan) == 1);
    assert!(!node.worker().take_seen().other.contains_key(&EXPERIMENTAL));
    send(&[]);
    wait_until(Duration::from_secs(1), || {
        node.worker().take_seen().other.contains_key(&EXPERIMENTAL)
    });
}

/// Nothing was counted as a drop on the way.
fn assert_no_loss(node: &Node) {
    let maps = Maps::open(&node.lab.pin_dir).unwrap();
    for (_, name, value) in maps.counters().unwrap() {
        assert!(!name.contains("dropped") || value == 0, "{name} = {value}");
    }
}

/// With `tx off` on the trunk's outer end the worker gets whole checksums.
fn checksums(node: &Node) {
    for setting in ["on", "off"] {
        run("ip", &["netns", "exec", &node.netns, "ethtool", "-K", "trunk0", "tx", setting]);
        node.worker().take_seen();
        let len = 32 << 20;
        let start_ns = now_ns();
        tcp_transfer(&node.pods[0], &node.pods[1], at(PODS_V4[1], 7003), len);
        let seconds = (now_ns() - start_ns) as f64 * 1e-9;
        let Seen { csum_whole, csum_partial, csum_wrong, .. } = node.worker().take_seen();
        println!(
            "trunk tx {setting}: checksums {csum_whole} whole, {csum_partial} partial, \
             {csum_wrong} wrong; {:.2} Gbit/s",
            len as f64 * 8e-9 / seconds
        );
        assert_eq!(csum_wrong, 0);
        if setting == "off" {
            assert!(csum_whole > 0 && csum_partial == 0, "not completed by the sender's core");
        }
    }
}

/// A node with two pods, a trunk, the host's port and a worker.
struct Node {
    worker: Option<Worker>,
    programs: Option<Programs>,
    lab: Lab,
    netns: String,
    pods: [String; 2],
    /// Outer interfaces of the pods and of the host's port.
    ports: [u32; 2],
    host_port: u32,
    trunk: u32,
}

impl Node {
    fn build(hook: TcHook) -> Self {
        let mut lab = Lab::new();
        let netns = lab.add("node");
        ip(&netns, "link add trunk0 type veth peer name trunk1");
        ip(&netns, "link add weir0 address 02:00:00:00:00:fe type veth peer name weir0p");
        inside(&netns, || {
            for conf in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/{conf}"), "1").unwrap();
            }
            for link in ["all", "weir0"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").unwrap();
            }
            // Else the kernel speaks on the trunk by itself (MLD, router solicitations).
            for link in ["trunk0", "trunk1"] {
                let conf = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
                std::fs::write(conf, "1").unwrap();
            }
        });
        for link in ["trunk0", "trunk1", "weir0", "weir0p"] {
            ip(&netns, &format!("link set {link} up"));
        }
        ip(&netns, &format!("addr add {HOST}/32 dev weir0"));
        ip(&netns, "route add 10.96.0.0/16 dev weir0");
        ip(&netns, "neigh add 10.96.0.10 lladdr 02:00:00:00:00:fd dev weir0 nud permanent");
        let pods = [0, 1].map(|i| add_pod(&mut lab, &netns, i));
        let mut node = inside(&netns, || {
            let index = |name: &str| Interface::by_name(name).unwrap().ifindex;
            Self {
                worker: None,
                programs: Some(Programs::open_with_hook(&lab.pin_dir, hook).unwrap()),
                netns: netns.clone(),
                pods,
                ports: [index("pod0"), index("pod1")],
                host_port: index("weir0p"),
                trunk: index("trunk0"),
                lab,
            }
        });
        node.attach();
        node.start_worker();
        node
    }

    fn attach(&mut self) {
        let programs = self.programs.as_mut().unwrap();
        inside(&self.netns, || {
            let named = |name: &str| Interface::by_name(name).unwrap();
            programs.attach_trunk(&named("trunk0"), &named("trunk1"), WORKER).unwrap();
            for pod in ["pod0", "pod1"] {
                programs.attach_port(&named(pod), PortKind::Pod).unwrap();
            }
            programs.attach_port(&named("weir0p"), PortKind::Host).unwrap();
        });
        self.set_mode(FailureMode::AUTO);
        for port in [self.ports[0], self.ports[1], self.host_port] {
            self.set_port(port, 0);
        }
    }

    fn start_worker(&mut self) {
        let mut routes = HashMap::new();
        for (i, &ifindex) in self.ports.iter().enumerate() {
            let route = Route { mac: pod_mac(i), header: PortHeader { flags: 0, ifindex } };
            routes.insert(PODS_V4[i].parse::<IpAddr>().unwrap(), route);
            routes.insert(PODS_V6[i].parse().unwrap(), route);
        }
        let header = PortHeader { flags: TRUNK_FLAG_TO_HOST, ifindex: self.host_port };
        let host = Route { mac: [2, 0, 0, 0, 0, 0xfe], header };
        routes.insert(HOST.parse().unwrap(), host);
        let slot = trunk_slot(WORKER).unwrap();
        let pin_dir = self.lab.pin_dir.clone();
        self.worker = Some(Worker::start(&self.netns, pin_dir, "trunk1", slot, routes));
    }

    fn worker(&self) -> &Worker {
        self.worker.as_ref().unwrap()
    }

    fn set_mode(&self, failure_mode: FailureMode) {
        let settings = Settings { failure_mode, ..Settings::DEFAULT };
        Maps::open(&self.lab.pin_dir).unwrap().set_settings(settings).unwrap();
    }

    fn set_port(&self, ifindex: u32, flags: u32) {
        let xsk_slot = trunk_slot(WORKER).unwrap();
        let entry = PortEntry { trunk_ifindex: self.trunk, xsk_slot, flags };
        Maps::open(&self.lab.pin_dir).unwrap().set_port(ifindex, entry).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.worker = None;
        self.programs = None;
        inside(&self.netns, || _ = attach::remove_all(&self.lab.pin_dir));
    }
}

/// A pod whose gateway is a permanent neighbour; the host's veth bears the gateway's MAC, so that
/// the kernel takes the same frames when no worker does.
fn add_pod(lab: &mut Lab, netns: &str, i: usize) -> String {
    let pod = lab.add(&format!("pod{i}"));
    let (v4, v6) = (PODS_V4[i], PODS_V6[i]);
    let (mac, gateway) = (mac_text(pod_mac(i)), mac_text(Settings::DEFAULT.gateway_mac));
    ip(
        netns,
        &format!(
            "link add pod{i} address {gateway} type veth \
             peer name eth0 address {mac} netns {pod}"
        ),
    );
    ip(netns, &format!("link set pod{i} up"));
    ip(&pod, "link set eth0 up");
    ip(&pod, &format!("addr add {v4}/32 dev eth0"));
    ip(&pod, &format!("addr add {v6}/128 dev eth0 nodad"));
    ip(&pod, &format!("neigh add 169.254.1.1 lladdr {gateway} dev eth0 nud permanent"));
    ip(&pod, &format!("neigh add fe80::1 lladdr {gateway} dev eth0 nud permanent"));
    ip(&pod, "route add 169.254.1.1 dev eth0 scope link");
    ip(&pod, "route add default via 169.254.1.1");
    ip(&pod, "-6 route add default via fe80::1 dev eth0");
    for address in [v4, v6] {
        ip(netns, &format!("route add {address} dev pod{i}"));
        ip(netns, &format!("neigh add {address} lladdr {mac} dev pod{i} nud permanent"));
    }
    pod
}

fn pod_mac(i: usize) -> [u8; 6] {
    [0x0a, 0, 0, 0, 0, i as u8 + 1]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn at(address: &str, l4_port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), l4_port)
}

fn count(maps: &Maps, wanted: Counter) -> u64 {
    let counters = maps.counters().unwrap();
    counters.iter().find(|(counter, ..)| *counter == wanted).unwrap().2
}
