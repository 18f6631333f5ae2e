//! What the node does for the cluster: ways to other nodes' pods, and addresses that it answers
//! neighbours for.

use std::time::Duration;

use weir_dataplane::server::kernel::remove_all;
use weir_lab::clock::wait_until;
use weir_lab::skipped;
use weir_tables::{NodeConfig, PodRoute, Prefix};
use weir_xdp_redirect::FailureMode;

use super::maps::kernel;
use super::{Net, TCP, ip, maps::key};

const SOON: Duration = Duration::from_secs(5);

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(ip(address).into(), length.parse().unwrap()).unwrap()
}

fn way(destination: &str, via: &str) -> PodRoute {
    PodRoute { destination: prefix(destination), via: ip(via).into() }
}

fn config() -> NodeConfig {
    NodeConfig {
        pod_ranges: vec![prefix("10.244.1.0/24"), prefix("fd00:244:1::/64")],
        pod_routes: vec![
            way("10.244.2.0/24", "192.0.2.1"),
            way("fd00:244:2::/64", "2001:db8::1"),
            // Somebody else has routed these.
            way("10.244.3.0/24", "192.0.2.1"),
            // Behind a router, which must know.
            way("10.244.4.0/24", "198.51.100.9"),
            // Nowhere.
            way("10.244.5.0/24", "203.0.113.99"),
        ],
        ..NodeConfig::default()
    }
}

fn routes(net: &Net) -> String {
    let show = |family: &str| net.node.ip(&format!("{family} route show")).unwrap();
    show("-4") + &show("-6")
}

#[test]
fn ways_to_pods_follow_the_configuration_and_leave_others_routes_alone() {
    if skipped() {
        return;
    }
    let net = Net::new();
    net.node.ip("route add 10.244.3.0/24 via 192.0.2.7").unwrap();
    net.node.ip("route add 198.51.100.0/24 via 192.0.2.1").unwrap();
    let before = routes(&net);
    net.run(async || {
        let mut first = kernel(&net, FailureMode::OPEN).await;
        first.sync_host(&config()).await;
        let all = routes(&net);
        for line in [
            "10.244.2.0/24 via 192.0.2.1 dev up0 proto 119 onlink",
            "fd00:244:2::/64 via 2001:db8::1 dev up0 proto 119 metric 1024 onlink",
            "unreachable 10.244.1.0/24 proto 119 metric 4294967293",
            "unreachable fd00:244:1::/64 dev lo proto 119 metric 4294967293",
            "10.244.3.0/24 via 192.0.2.7 dev up0",
        ] {
            assert!(all.contains(line), "{line}: {all}");
        }
        assert_eq!(all.matches("10.244.3.0/24").count(), 1, "{all}");
        assert!(!all.contains("10.244.4.0") && !all.contains("10.244.5.0"), "{all}");
        let [problem] = &first.problems()[..] else { panic!("{:?}", first.problems()) };
        assert!(problem.contains("10.244.5.0/24") && problem.contains("203.0.113.99"), "{problem}");
        let error = net.node.run(["ping", "-c1", "-W1", "10.244.1.77"]).unwrap_err().to_string();
        assert!(error.contains("unreachable") || error.contains("No route"), "{error}");

        // They outlive the process; the next one is told less, and of another node.
        drop(first);
        assert_eq!(routes(&net), all);
        let mut second = kernel(&net, FailureMode::OPEN).await;
        second.sync_host(&config()).await;
        assert_eq!(routes(&net), all, "nothing moves");
        let less = NodeConfig {
            pod_routes: vec![way("10.244.2.0/24", "192.0.2.3")],
            ..NodeConfig::default()
        };
        second.sync_host(&less).await;
        let now = routes(&net);
        assert!(now.contains("10.244.2.0/24 via 192.0.2.3 dev up0"), "{now}");
        assert!(!now.contains("fd00:244") && !now.contains("unreachable"), "{now}");
        assert_eq!(second.problems(), [""; 0]);
        drop(second);
        remove_all(&net.lab.pin_folder(), net.lab.folder()).await.unwrap();
    });
    assert_eq!(routes(&net), before);
}

#[test]
fn announced_addresses_are_answered_for_and_told() {
    if skipped() {
        return;
    }
    let net = Net::new();
    let (v4, v6) = ("203.0.113.7", "2001:db8:1b::7");
    for route in ["203.0.113.0/24 dev eth0", "2001:db8:1b::/64 dev eth0"] {
        net.outside.ip(&format!("route add {route}")).unwrap();
    }
    // As of the node that had them before.
    for stale in [v4, v6] {
        let entry = format!("neigh replace {stale} lladdr 02:00:00:00:00:99 dev eth0 nud stale");
        net.outside.ip(&entry).unwrap();
    }
    let known = |address: &str| net.outside.ip(&format!("neigh show {address} dev eth0")).unwrap();
    let sysctl = |path: &str| net.node.run(["cat", &format!("/proc/sys/net/{path}")]).unwrap();
    let delay = sysctl("ipv4/neigh/up0/proxy_delay");
    let announced = vec![ip(v4).into(), ip(v6).into()];
    let config = NodeConfig { announced, ..NodeConfig::default() };
    let mac = uplink_mac(&net);
    net.run(async || {
        let mut first = kernel(&net, FailureMode::OPEN).await;
        for address in [v4, v6] {
            first.set_frontend(&key(address, 80, TCP), false).unwrap();
        }
        first.sync_host(&config).await;
        // Past the last announcement.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        for address in [v4, v6] {
            assert!(known(address).contains(&mac), "told: {}", known(address));
            // And asked, by everybody and, as a neighbour checks what it knows, straight.
            net.outside.ip(&format!("neigh del {address} dev eth0")).unwrap();
            let _ = net.outside.run(["ping", "-c1", "-W1", address]);
            assert!(known(address).contains(&mac), "asked: {}", known(address));
            let probe = format!("neigh replace {address} lladdr {mac} dev eth0 nud probe");
            net.outside.ip(&probe).unwrap();
            let confirmed = || known(address).contains("REACHABLE").then_some(());
            wait_until(&format!("{address} to be confirmed"), SOON, confirmed).unwrap();
        }
        assert_eq!(sysctl("ipv4/neigh/up0/proxy_delay").trim(), "0");
        assert_eq!(sysctl("ipv6/conf/all/proxy_ndp").trim(), "1");

        // They outlive the process, and what the next one is not told goes.
        drop(first);
        let mut second = kernel(&net, FailureMode::OPEN).await;
        let proxies = || net.node.ip("neigh show proxy").unwrap();
        assert_eq!(proxies().matches("proto 119").count(), 2, "{}", proxies());
        let less = NodeConfig { announced: vec![ip(v6).into()], ..NodeConfig::default() };
        second.sync_host(&less).await;
        assert!(!proxies().contains(v4) && proxies().contains(v6), "{}", proxies());
        // With the link the kernel forgets its entries.
        net.node.ip("link set up0 down").unwrap();
        net.node.ip("link set up0 up").unwrap();
        assert!(!proxies().contains(v6), "{}", proxies());
        let mut news = second.watch().subscribe();
        for _ in 0..20 {
            let _ = tokio::time::timeout(Duration::from_millis(100), news.changed()).await;
            second.sync_host(&less).await;
            if proxies().contains(v6) {
                break;
            }
        }
        assert!(proxies().contains(v6), "again: {}", proxies());
        net.node.ip("neigh add proxy 203.0.113.200 dev up0").unwrap();
        second.sync_host(&NodeConfig::default()).await;
        assert_eq!(proxies().trim(), "203.0.113.200 dev up0 proxy", "another's stays");
        second.sync_host(&less).await;
        drop(second);
        remove_all(&net.lab.pin_folder(), net.lab.folder()).await.unwrap();
        assert_eq!(proxies().trim(), "203.0.113.200 dev up0 proxy", "another's stays");
    });
    assert_eq!(sysctl("ipv4/neigh/up0/proxy_delay"), delay);
    assert_eq!(sysctl("ipv6/conf/all/proxy_ndp").trim(), "0");
}

fn uplink_mac(net: &Net) -> String {
    net.node.interface("up0").unwrap().mac.map(|byte| format!("{byte:02x}")).join(":")
}
