//! The netlink module against a real kernel, in network namespaces (needs root and iproute2).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use weir_dataplane::netlink::host_port::{HOST_NAME, HostPortConfig};
use weir_dataplane::netlink::state::NeighbourState;
use weir_dataplane::netlink::{
    KernelState, KernelWatch, Netlink, Prefix, TrunkConfig, WatchConfig, next_hop,
};

/// A network namespace that goes with the value, also when a test fails.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-nl-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `ip` in the namespace; the arguments are split at blanks.
    fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }

    /// Runs a program in the namespace.
    fn exec(&self, command: &str) -> String {
        let mut all = vec!["netns", "exec", &self.name];
        all.extend(command.split(' '));
        run("ip", &all)
    }

    /// A veth pair from here (up) to `peer` (up).
    fn connect(&self, here: &str, peer: &Self, there: &str) {
        self.ip(&format!("link add {here} type veth peer name {there} netns {}", peer.name));
        self.ip(&format!("link set {here} up"));
        peer.ip(&format!("link set {there} up"));
    }

    /// Runs an asynchronous test body on a thread of its own that is inside the namespace.
    fn enter(&self, body: impl AsyncFnOnce() + Send) {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let file = std::fs::File::open(path).unwrap();
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(LinkNameSpaceType::Network),
                )
                .unwrap();
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(body());
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} could not be deleted", self.name);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// False, with the reason printed, where namespaces cannot be made.
fn can_run(test: &str) -> bool {
    let probe = format!("weir-nl-{}-probe-{test}", std::process::id());
    let added = Command::new("ip").args(["netns", "add", &probe]).output();
    let reason = match added {
        Err(error) => format!("iproute2 is not there: {error}"),
        Ok(output) if !output.status.success() => {
            String::from_utf8_lossy(&output.stderr).trim().to_owned()
        }
        Ok(_) => {
            run("ip", &["netns", "del", &probe]);
            return true;
        }
    };
    println!("SKIPPED {test}: cannot make a network namespace ({reason})");
    false
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix::new(ip(address), len.parse().unwrap())
}

/// Waits until the published state is as expected.
async fn wait_for(
    watch: &KernelWatch,
    what: &str,
    expected: impl Fn(&KernelState) -> bool,
) -> Arc<KernelState> {
    let mut states = watch.subscribe();
    let found = tokio::time::timeout(Duration::from_secs(8), async {
        states.wait_for(|state| expected(state)).await.unwrap().clone()
    });
    match found.await {
        Ok(state) => state,
        Err(_) => panic!("never came: {what}; last state: {:#?}", watch.current()),
    }
}

#[test]
fn trunks_are_made_adopted_and_replaced_if_their_shape_is_wrong() {
    if !can_run("trunks") {
        return;
    }
    let node = Namespace::new();
    node.enter(async || {
        let config = TrunkConfig { mtu: 1600, ..TrunkConfig::default() };
        let netlink = Netlink::open().unwrap();
        let made = netlink.ensure_trunk(0, &config).await.unwrap();
        assert_eq!((made.outer.name.as_str(), made.inner.name.as_str()), ("weirt0", "weirt0i"));
        assert!(made.outer.up && made.inner.up && made.outer.mtu == 1600);
        for end in ["weirt0", "weirt0i"] {
            let shown = node.ip(&format!("-d link show {end}"));
            assert!(shown.contains("NOARP") && shown.contains("numtxqueues 1 "), "{shown}");
            assert!(shown.contains("numrxqueues 1 ") && shown.contains("noqueue"), "{shown}");
            assert_eq!(node.ip(&format!("-o addr show dev {end}")), "", "no address");
        }

        let restarted = Netlink::open().unwrap();
        let changed = TrunkConfig { kernel_completes_checksums: false, ..config };
        assert_eq!(restarted.ensure_trunk(0, &changed).await.unwrap(), made, "adopted");

        node.ip("link add weirt1 type veth peer name another");
        node.ip("link add weirt2 numtxqueues 2 type veth peer name weirt2i");
        node.ip("link add weirt3i type veth peer name stranger");
        for worker in 1..4 {
            let trunk = netlink.ensure_trunk(worker, &config).await.unwrap();
            assert!(trunk.outer.up && trunk.inner.up);
            let shown = node.ip(&format!("-d link show {}", trunk.outer.name));
            assert!(shown.contains("numtxqueues 1 "), "{shown}");
        }
        let too_large = TrunkConfig { mtu: 9001, ..config };
        let error = netlink.ensure_trunk(4, &too_large).await.unwrap_err().to_string();
        assert!(error.contains("weirt4") && error.contains("3506"), "{error}");

        netlink.remove_all().await.unwrap();
        assert!(!node.ip("link show").contains("weirt"));
    });
}

#[test]
fn the_watch_follows_routes_neighbours_and_links() {
    if !can_run("watch") {
        return;
    }
    let (node, router) = (Namespace::new(), Namespace::new());
    node.connect("up0", &router, "down0");
    node.ip("addr add 192.0.2.10/24 dev up0");
    node.ip("addr add 2001:db8::10/64 dev up0 nodad");
    router.ip("link set down0 address 02:00:00:00:00:01");
    router.ip("addr add 192.0.2.1/24 dev down0");
    router.ip("addr add 2001:db8::1/64 dev down0 nodad");
    node.enter(async || {
        let watch = KernelWatch::start(WatchConfig::default()).await.unwrap();
        let state = watch.current();
        let up0 = state.links.values().find(|link| link.name == "up0").unwrap().clone();
        assert_eq!(state.addresses.get(&(ip("192.0.2.10"), up0.ifindex)), Some(&24));
        assert_eq!(next_hop(&state, ip("198.51.100.1")), None);

        node.ip("route add default via 192.0.2.1");
        node.ip("route add default via 2001:db8::1");
        let state = wait_for(&watch, "default routes", |state| {
            [ip("198.51.100.1"), ip("2001:db8:1::1")]
                .iter()
                .all(|to| next_hop(state, *to).is_some())
        })
        .await;
        let hop = next_hop(&state, ip("198.51.100.1")).unwrap();
        assert_eq!((hop.ifindex, hop.via, hop.mac), (up0.ifindex, ip("192.0.2.1"), None));
        assert_eq!((hop.src_mac, hop.mtu), (up0.mac, 1500));

        for gateway in [ip("192.0.2.1"), ip("2001:db8::1")] {
            watch.request_neighbour(up0.ifindex, gateway).unwrap();
            watch.request_neighbour(up0.ifindex, gateway).unwrap();
        }
        let resolved = Some([2, 0, 0, 0, 0, 1]);
        let both = |state: &KernelState| {
            [ip("198.51.100.1"), ip("2001:db8:1::1")]
                .iter()
                .all(|to| next_hop(state, *to).and_then(|hop| hop.mac) == resolved)
        };
        wait_for(&watch, "resolved gateways", both).await;
        assert!(node.ip("neigh show 192.0.2.1").contains("managed"));

        watch.request_neighbour(up0.ifindex, ip("192.0.2.99")).unwrap();
        wait_for(&watch, "a neighbour that does not answer", |state| {
            let neighbour = state.neighbours.get(&(up0.ifindex, ip("192.0.2.99")));
            neighbour.is_some_and(|n| n.state == NeighbourState::Failed)
        })
        .await;
        watch.release_neighbour(up0.ifindex, ip("192.0.2.99"));
        wait_for(&watch, "released", |state| {
            !state.neighbours.contains_key(&(up0.ifindex, ip("192.0.2.99")))
        })
        .await;

        node.ip("link set up0 down");
        wait_for(&watch, "link down", |state| {
            !state.links[&up0.ifindex].up && next_hop(state, ip("198.51.100.1")).is_none()
        })
        .await;
        assert!(!watch.current().routes.iter().any(|r| r.destination == prefix("0.0.0.0/0")));
        node.ip("link set up0 up");
        node.ip("addr replace 2001:db8::10/64 dev up0 nodad");
        node.ip("route replace default via 192.0.2.1");
        node.ip("route replace default via 2001:db8::1");
        wait_for(&watch, "neighbours resolved again after the link came back", both).await;

        node.ip("link del up0");
        wait_for(&watch, "link deleted", |state| {
            !state.links.contains_key(&up0.ifindex) && state.neighbours.is_empty()
        })
        .await;
    });
}

#[test]
fn a_burst_is_published_at_once_and_lost_messages_are_made_up_for() {
    if !can_run("resync") {
        return;
    }
    let node = Namespace::new();
    node.connect("d0", &node, "d0p");
    let batch = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> =
        (0..2000).map(|i| format!("route add 10.{}.{}.0/24 dev d0\n", i / 250, i % 250)).collect();
    std::fs::write(batch.path(), lines.concat()).unwrap();
    node.enter(async || {
        let config = WatchConfig { receive_buffer: 4096, ..WatchConfig::default() };
        let watch = KernelWatch::start(config).await.unwrap();
        let roomy = KernelWatch::start(WatchConfig::default()).await.unwrap();
        let mut states = roomy.subscribe();
        let publications = tokio::spawn(async move {
            let mut count = 0;
            while states.borrow_and_update().routes.len() < 2000 {
                states.changed().await.unwrap();
                count += 1;
            }
            count
        });
        // The runtime has one thread, so the watches sleep while this runs.
        node.ip(&format!("-batch {}", batch.path().display()));
        let state = wait_for(&watch, "all routes", |state| {
            state.routes.iter().filter(|r| r.destination.len == 24).count() == 2000
        })
        .await;
        assert!(state.resyncs > 0, "2000 messages do not fit into 4 KiB");
        let count = publications.await.unwrap();
        assert!(count <= 2, "a burst is published at once, not in {count} steps");
    });
}

#[test]
fn the_host_port_routes_service_ranges_until_they_are_withdrawn() {
    if !can_run("host_port") {
        return;
    }
    let node = Namespace::new();
    node.connect("up0", &node, "up0p");
    node.ip("addr add 192.0.2.10/24 dev up0");
    node.exec("sysctl -qw net.ipv6.conf.up0.accept_ra=1 net.ipv4.conf.all.rp_filter=1");
    node.enter(async || {
        let config = HostPortConfig { mtu: 1600, ..HostPortConfig::default() };
        let netlink = Netlink::open().unwrap();
        let port = netlink.ensure_host_port(&config).await.unwrap();
        assert!(port.host.up && port.outer.up && port.host.mtu == 1600);
        assert!(port.is_strict_rp_filter);
        let changed: Vec<_> = port.changed.iter().map(|change| change.path.as_str()).collect();
        assert!(changed.contains(&"net/ipv4/conf/weir0/rp_filter"), "{changed:?}");
        assert!(changed.contains(&"net/ipv6/conf/up0/accept_ra"), "{changed:?}");
        assert_eq!(node.exec("sysctl -n net.ipv4.ip_forward").trim(), "1");
        assert_eq!(node.exec("sysctl -n net.ipv6.conf.all.forwarding").trim(), "1");
        let gateways = node.ip("neigh show dev weir0 nud permanent");
        assert!(gateways.contains("169.254.1.1 lladdr 02:77:65:69:72:01"), "{gateways}");
        assert!(gateways.contains("fe80::1 lladdr 02:77:65:69:72:01"), "{gateways}");

        let (v4, v6) = (prefix("10.96.0.0/16"), prefix("fd10::/108"));
        netlink.set_service_ranges(&port, &[v4, v6], &[]).await.unwrap();
        let way = node.ip("route get 10.96.0.5");
        assert!(way.contains("via 169.254.1.1 dev weir0 src 169.254.64.1"), "{way}");
        let way = node.ip("route get fd10::5");
        assert!(way.contains("via fe80::1 dev weir0") && way.contains("src fd77:"), "{way}");

        // A restart finds everything, and changes the source.
        let restarted = Netlink::open().unwrap();
        let again = restarted.ensure_host_port(&config).await.unwrap();
        assert_eq!((again.host.ifindex, again.changed), (port.host.ifindex, Vec::new()));
        restarted.set_service_ranges(&port, &[v4], &[ip("192.0.2.10")]).await.unwrap();
        assert!(node.ip("route get 10.96.0.5").contains("src 192.0.2.10"));
        assert!(!node.ip("-6 route show").contains("fd10::/108"), "withdrawn");
        assert_eq!(node.ip("route show proto 119").lines().count(), 2);
        restarted.set_service_ranges(&port, &[v4], &[ip("192.0.2.10")]).await.unwrap();
        assert_eq!(node.ip("route show proto 119").lines().count(), 2, "idempotent");

        node.ip("link set weir0 down");
        let routes = node.ip("route show 10.96.0.0/16");
        assert!(routes.starts_with("unreachable") && routes.lines().count() == 1, "{routes}");
        netlink.remove_all().await.unwrap();
        assert_eq!(node.ip("route show proto 119"), "");
        assert!(!node.ip("link show").contains(HOST_NAME));
        netlink.remove_all().await.unwrap();
    });
}

/// A pod whose gateway is known under the gateway's MAC, behind a veth of the node.
fn attach_pod(node: &Namespace, veth: &str, mac: &str, addresses: [&str; 2]) -> Namespace {
    let pod = Namespace::new();
    node.connect(veth, &pod, "eth0");
    pod.ip(&format!("link set eth0 address {mac}"));
    pod.ip(&format!("addr add {}/32 dev eth0", addresses[0]));
    pod.ip(&format!("addr add {}/128 dev eth0 nodad", addresses[1]));
    for (gateway, family) in [("169.254.1.1", "-4"), ("fe80::1", "-6")] {
        pod.ip(&format!("neigh add {gateway} lladdr 02:77:65:69:72:01 dev eth0 nud permanent"));
        pod.ip(&format!("{family} route add default via {gateway} dev eth0 onlink"));
    }
    pod
}

#[test]
fn the_kernel_alone_reaches_pods_from_the_host_and_from_each_other() {
    if !can_run("pod_route") {
        return;
    }
    let node = Namespace::new();
    node.connect("up0", &node, "up0p");
    node.ip("addr add 192.0.2.10/24 dev up0");
    node.ip("addr add 2001:db8::10/64 dev up0 nodad");
    let first = attach_pod(&node, "pod1", "02:00:00:00:00:01", ["10.0.0.1", "fd00::1"]);
    let _second = attach_pod(&node, "pod2", "02:00:00:00:00:02", ["10.0.0.2", "fd00::2"]);
    node.enter(async || {
        let netlink = Netlink::open().unwrap();
        let config = HostPortConfig::default();
        netlink.ensure_host_port(&config).await.unwrap();
        let mut veths = Vec::new();
        for number in 1..=2 {
            let shown = node.ip(&format!("-o link show pod{number}"));
            let ifindex: u32 = shown.split(':').next().unwrap().parse().unwrap();
            let addresses = [format!("10.0.0.{number}"), format!("fd00::{number}")].map(|a| ip(&a));
            for _ in 0..2 {
                let mac = [2, 0, 0, 0, 0, number];
                let done = netlink.ensure_pod_route(ifindex, &addresses, mac, config.gateway_mac);
                done.await.unwrap();
            }
            veths.push((ifindex, addresses));
        }
        assert!(node.ip("route show 10.0.0.1").contains("dev pod1 proto 119 scope link"));
        assert_eq!(node.ip("neigh show dev pod1 nud permanent").lines().count(), 2);
        assert_eq!(node.exec("sysctl -n net.ipv6.conf.pod1.accept_ra").trim(), "0");
        for namespace in [&node, &first] {
            namespace.exec("ping -c 1 -W 5 10.0.0.2");
            namespace.exec("ping -6 -c 1 -W 5 fd00::2");
        }

        let (ifindex, addresses) = veths[0];
        let done = netlink.ensure_pod_route(9999, &addresses, [2; 6], config.gateway_mac);
        let error = done.await.unwrap_err().to_string();
        assert!(error.contains("9999"), "{error}");
        for _ in 0..2 {
            netlink.remove_pod_route(ifindex, &addresses).await.unwrap();
        }
        assert_eq!(node.ip("route show dev pod1 proto 119"), "");
        assert_eq!(node.ip("-6 route show dev pod1 proto 119"), "");
        assert_eq!(node.ip("neigh show dev pod1 nud permanent"), "");

        netlink.remove_all().await.unwrap();
        assert_eq!(node.ip("route show proto 119"), "");
        assert_eq!(node.ip("-6 route show proto 119"), "");
        assert_eq!(node.ip("neigh show dev pod2 nud permanent"), "");
        node.ip("link del pod2");
        netlink.remove_pod_route(veths[1].0, &veths[1].1).await.unwrap();
    });
}
