//! What the eBPF maps hold: the addresses and ports of the tables, and what becomes of each pod's
//! packets while no worker runs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_dataplane::attach::{Maps, Programs};
use weir_dataplane::netlink::host_path::TABLE;
use weir_dataplane::netlink::{HOST_PEER_IPV4, KernelWatch, Netlink, WatchConfig};
use weir_dataplane::server::kernel::{Kernel, KernelParts, remove_all};
use weir_lab::skipped;
use weir_packet::Mac;
use weir_tables::{
    Endpoint, FailureMode as PodMode, FrontendKey, NodeConfig, PortId, SnatPorts, WorkerId,
};
use weir_xdp_redirect::{AddressClass, FailureMode, L4Port};

use super::{Net, TCP, UDP, V4, V6, host_port, ip};

/// A kernel side without workers, as [`weir_dataplane::server::node`] makes it.
pub async fn kernel(net: &Net, failure_mode: FailureMode) -> Kernel {
    let netlink = Netlink::open().unwrap();
    let trunk = netlink.ensure_trunk(0, &Default::default()).await.unwrap();
    let host = host_port(&netlink).await;
    let watch = KernelWatch::start(WatchConfig::default()).await.unwrap();
    let programs = Programs::open(&net.lab.pin_folder()).unwrap();
    let uplinks = vec![net.node.interface("up0").unwrap().index];
    let state = watch.current();
    let mut kernel = Kernel::new(KernelParts {
        programs,
        netlink,
        watch,
        trunks: vec![trunk],
        host,
        uplinks,
        failure_mode,
        run_dir: net.lab.folder().to_path_buf(),
    })
    .unwrap();
    kernel.set_network(&state).unwrap();
    kernel
}

fn l4_ports(maps: &Maps) -> BTreeSet<(u8, u16)> {
    let ports = maps.node_l4_ports().unwrap().into_iter();
    ports.map(|port: L4Port| (port.protocol, port.l4_port())).collect()
}

fn classes(maps: &Maps) -> BTreeSet<(IpAddr, u32)> {
    maps.addresses().unwrap().into_iter().map(|(ip, class)| (ip, class.0)).collect()
}

pub fn key(addr: &str, l4_port: u16, protocol: u8) -> FrontendKey {
    FrontendKey { addr: ip(addr).into(), l4_port, protocol }
}

#[test]
fn the_maps_follow_the_tables_and_forget_what_a_restart_does_not_claim() {
    if skipped() {
        return;
    }
    let net = Net::new();
    let rules = |net: &Net| net.node.ip("rule show").unwrap().matches("iif lo").count();
    let before = net.node.ip("rule show").unwrap();
    net.run(async || {
        let (node, service) = (AddressClass::NODE.0, AddressClass::SERVICE.0);
        let mut first = kernel(&net, FailureMode::OPEN).await;
        let config = NodeConfig {
            snat_ports: SnatPorts { min: 50_000, max: 60_000 },
            addresses: vec![ip("203.0.113.1").into(), ip("127.0.0.1").into()],
            ..NodeConfig::default()
        };
        first.sync_host(&config).await;
        let nodes = [(ip(V4), node), (ip(V6), node), (ip("203.0.113.1"), node)];
        assert_eq!(classes(first.maps()), nodes.into(), "not weir0's, not loopback");
        let settings = first.maps().settings().unwrap();
        assert_eq!((settings.snat_port_min, settings.snat_port_max), (50_000, 60_000));
        assert_eq!(settings.failure_mode, FailureMode::OPEN);

        for (key, is_dsr) in [
            (key("10.96.0.1", 80, TCP), false),
            (key(V4, 443, TCP), false),
            (key("0.0.0.0", 30_080, TCP), false),
            (key("::", 30_080, TCP), true),
        ] {
            first.set_frontend(&key, is_dsr).unwrap();
        }
        first.sync_host(&config).await;
        let mut all = BTreeSet::from(nodes);
        all.insert((ip("10.96.0.1"), service));
        assert_eq!(classes(first.maps()), all, "the node's address stays the node's");
        let expected = [(TCP, 443), (TCP, 30_080), (UDP, 6081)];
        assert_eq!(l4_ports(first.maps()), expected.into());
        assert_eq!(rules(&net), 2, "the range, and 443");
        let peer = net.node.ip(&format!("route get {HOST_PEER_IPV4}")).unwrap();
        assert!(peer.contains(&format!("dev weir0 src {V4}")), "{peer}");
        let local = net.node.ip("route get 10.96.0.1").unwrap();
        assert!(local.contains("dev weir0"), "{local}");

        // Another process starts with everything in place, and is told less.
        drop(first);
        let mut second = kernel(&net, FailureMode::OPEN).await;
        assert_eq!(classes(second.maps()), all);
        assert_eq!(second.maps().settings().unwrap().snat_port_min, 50_000, "until it is told");
        second.set_frontend(&key("0.0.0.0", 30_080, TCP), false).unwrap();
        second.sync_host(&NodeConfig::default()).await;
        second.prune(|_| true).unwrap();
        assert_eq!(classes(second.maps()), [(ip(V4), node), (ip(V6), node)].into());
        assert_eq!(l4_ports(second.maps()), [(TCP, 30_080)].into());
        assert_eq!(rules(&net), 1);
        second.remove_frontend(&key("0.0.0.0", 30_080, TCP)).unwrap();
        second.sync_host(&NodeConfig::default()).await;
        assert_eq!(l4_ports(second.maps()), BTreeSet::new());
        assert_eq!(net.node.ip("rule show").unwrap(), before);

        // An address comes to the uplink.
        second.set_frontend(&key("0.0.0.0", 30_080, TCP), false).unwrap();
        net.node.addr("up0", "192.0.2.77/24").unwrap();
        let watch = KernelWatch::start(WatchConfig::default()).await.unwrap();
        second.set_network(&watch.current()).unwrap();
        second.sync_host(&NodeConfig::default()).await;
        assert!(classes(second.maps()).contains(&(ip("192.0.2.77"), node)));
        let routes = net.node.ip(&format!("route show table {TABLE}")).unwrap();
        assert!(routes.contains("192.0.2.77"), "{routes}");

        drop(second);
        remove_all(&net.lab.pin_folder(), net.lab.folder()).await.unwrap();
        assert_eq!(net.node.ip("rule show").unwrap(), before);
        let range = net.node.run(["sysctl", "-n", "net.ipv4.ip_local_port_range"]).unwrap();
        assert!(range.contains("60999"), "{range}");
    });
}

/// A policy comes to a pod and goes: the maps follow, and its programs and its route stay where
/// they are, so that no packet is lost.
#[test]
fn a_pod_is_closed_while_a_policy_selects_it() {
    if skipped() {
        return;
    }
    let net = Net::new();
    net.run(async || {
        let mut kernel = kernel(&net, FailureMode::AUTO).await;
        net.node.ip("link add pod0 type veth peer name pod1").unwrap();
        net.node.ip("link set pod0 up").unwrap();
        net.node.ip("link set pod1 up").unwrap();
        let port = PortId(net.node.interface("pod0").unwrap().index);
        let address = ip("10.0.0.7");
        let open = Endpoint::new("default/a", port, Mac([2, 0, 0, 0, 0, 7]), vec![address.into()]);
        let closed = Endpoint { failure_mode: PodMode::Closed, ..open.clone() };
        let is_closed = |kernel: &Kernel| {
            let ports = kernel.maps().ports().unwrap();
            let entry = ports.iter().find(|(index, _)| *index == port.0).map(|(_, entry)| entry);
            let class = classes(kernel.maps()).into_iter().find(|(ip, _)| *ip == address);
            let class = class.map(|(_, class)| AddressClass(class));
            (entry.map(|entry| entry.fail_closed()), class.map(|class| class.fail_closed()))
        };
        let route = |net: &Net| net.node.ip("route show 10.0.0.7").unwrap();
        kernel.add_endpoint(&open, WorkerId(0)).await.unwrap();
        assert_eq!(is_closed(&kernel), (Some(false), Some(false)));
        assert!(route(&net).contains("dev pod0"), "{}", route(&net));
        // What is not asked for again is not repaired: the next two leave it alone.
        net.node.ip("route del 10.0.0.7").unwrap();
        kernel.replace_endpoint(&open, &closed, WorkerId(0)).await.unwrap();
        assert_eq!(is_closed(&kernel), (Some(true), Some(true)));
        kernel.replace_endpoint(&closed, &open, WorkerId(0)).await.unwrap();
        assert_eq!(is_closed(&kernel), (Some(false), Some(false)));
        assert_eq!(route(&net), "");

        let moved = Endpoint { mac: Mac([2, 0, 0, 0, 0, 8]), ..closed };
        kernel.replace_endpoint(&open, &moved, WorkerId(0)).await.unwrap();
        assert_eq!(is_closed(&kernel), (Some(true), Some(true)));
        assert!(route(&net).contains("dev pod0"), "it has its route again");

        let mode = |kernel: &Kernel| kernel.maps().settings().unwrap().failure_mode;
        assert_eq!(mode(&kernel), FailureMode::AUTO);
        let audited = NodeConfig { policy_audit: true, ..NodeConfig::default() };
        kernel.sync_host(&audited).await;
        assert_eq!(mode(&kernel), FailureMode::OPEN, "policies stop nothing on this node");
        kernel.sync_host(&NodeConfig::default()).await;
        assert_eq!(mode(&kernel), FailureMode::AUTO);
        kernel.remove_endpoint(&moved).await.unwrap();
        assert_eq!(is_closed(&kernel), (None, None));

        drop(kernel);
        remove_all(&net.lab.pin_folder(), net.lab.folder()).await.unwrap();
    });
}
