//! hostPorts at 127.0.0.1: rules, routes and the sysctl, and packets there and back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::MsgFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;
use weir_dataplane::netlink::host_path::{LOOPBACK_TABLE, TABLE};
use weir_dataplane::netlink::{HOST_PEER_IPV4, HostPaths, Netlink, PortRule};
use weir_dataplane::server::kernel::remove_all;
use weir_lab::skipped;
use weir_packet::FlowKey;
use weir_tables::NodeConfig;
use weir_xdp_redirect::FailureMode;

use super::maps::{kernel, key};
use super::{
    Net, Punter, TCP, UDP, V4, ask_tcp, ask_udp, host_port, ip, node_port_rules, own, serve,
};

const LOOPBACK: &str = "127.0.0.1";

/// Both protocols of a port at 127.0.0.1.
fn at_loopback(l4_port: u16) -> HostPaths {
    let rule = |protocol| PortRule { is_ipv4: true, protocol, min: l4_port, max: l4_port };
    HostPaths { rules: [TCP, UDP].map(rule).into(), addresses: [ip(LOOPBACK)].into() }
}

fn route_localnet(net: &Net, device: &str) -> String {
    let name = format!("net.ipv4.conf.{device}.route_localnet");
    net.node.run(["sysctl", "-n", &name]).unwrap().trim().to_owned()
}

#[test]
fn rules_for_loopback_have_a_table_of_their_own_and_go_without_a_trace() {
    if skipped() {
        return;
    }
    let net = Net::new();
    let rules = || net.node.ip("-4 rule show").unwrap();
    let routes = || net.node.ip("-4 route show table all").unwrap();
    let before = rules();
    net.run(async || {
        let netlink = Netlink::open().unwrap();
        let port = host_port(&netlink).await;
        let none = HostPaths::default();
        let nodes = HostPaths { rules: node_port_rules(), addresses: own() };
        assert_eq!(route_localnet(&net, "weir0"), "0");

        netlink.set_host_paths(&port, &none, &at_loopback(8081)).await.unwrap();
        let shown = rules();
        for protocol in ["tcp", "udp"] {
            let rule = format!(
                "50:\tfrom all iif lo ipproto {protocol} dport 8081 lookup {LOOPBACK_TABLE}"
            );
            assert!(shown.contains(&rule), "{shown}");
        }
        assert!(shown.contains("100:\tfrom all lookup local"), "{shown}");
        assert_eq!(shown.matches("iif lo").count(), 2, "{shown}");
        let shown = net.node.ip(&format!("route show table {LOOPBACK_TABLE}")).unwrap();
        let route = format!("{LOOPBACK} via 169.254.1.1 dev weir0");
        assert!(shown.contains(&route) && shown.contains(&format!("src {LOOPBACK}")), "{shown}");
        assert_eq!(shown.trim().lines().count(), 1, "{shown}");
        assert_eq!(["weir0", "up0", "all"].map(|it| route_localnet(&net, it)), ["1", "0", "0"]);

        // Both kinds; then only the other one, and the `local` table stays where it is.
        netlink.set_host_paths(&port, &nodes, &at_loopback(8081)).await.unwrap();
        assert_eq!(rules().matches("iif lo").count(), 4, "{}", rules());
        netlink.set_host_paths(&port, &nodes, &none).await.unwrap();
        let shown = rules();
        assert!(shown.contains("100:\tfrom all lookup local"), "{shown}");
        assert_eq!(shown.matches(&format!("lookup {TABLE}")).count(), 2, "{shown}");
        assert!(!shown.contains(&LOOPBACK_TABLE.to_string()), "{shown}");
        assert!(!routes().contains(&format!("table {LOOPBACK_TABLE}")), "{}", routes());
        assert_eq!(route_localnet(&net, "weir0"), "0");
        netlink.set_host_paths(&port, &none, &none).await.unwrap();
        assert_eq!(rules(), before);

        netlink.set_host_paths(&port, &none, &at_loopback(8081)).await.unwrap();
        netlink.remove_all().await.unwrap();
        assert_eq!(rules(), before);
        assert!(!routes().contains("weir0"), "{}", routes());
    });
}

/// Asks 127.0.0.1 by a socket that is bound to an address; says what came back.
fn ask_from(source: &str, kind: SockType, l4_port: u16) -> nix::Result<String> {
    ask_by(SocketAddr::new(ip(source), 0), kind, l4_port)
}

/// The same, by a socket that is bound to a port as well.
fn ask_by(source: SocketAddr, kind: SockType, l4_port: u16) -> nix::Result<String> {
    let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(3))?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(3))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
    let to = SockaddrStorage::from(SocketAddr::new(ip(LOOPBACK), l4_port));
    connect(socket.as_raw_fd(), &to)?;
    send(socket.as_raw_fd(), b"hello", MsgFlags::empty())?;
    let mut answer = [0; 64];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}

#[test]
fn the_hosts_own_sockets_reach_a_host_port_at_loopback_and_hear_from_there() {
    if skipped() {
        return;
    }
    let net = Net::new();
    net.run(async || {
        let netlink = Netlink::open().unwrap();
        let port = host_port(&netlink).await;
        netlink.set_host_peer(&port, &[ip(V4)]).await.unwrap();
        let nodes = HostPaths { rules: node_port_rules(), addresses: own() };
        netlink.set_host_paths(&port, &nodes, &at_loopback(8081)).await.unwrap();
        serve(8080);
        serve(31_000);
        // The host itself stands for the pod: a backend that sees the peer.
        let (peer, backend) = (IpAddr::from(HOST_PEER_IPV4).into(), ip(V4).into());
        let mut clients = BTreeMap::new();
        let punter = Punter::translating(&port, move |key| {
            if IpAddr::from(key.dst) == ip(LOOPBACK) && key.dport == 8081 {
                clients.insert((key.protocol, key.sport), key.src);
                return FlowKey { src: peer, dst: backend, dport: 8080, ..key };
            }
            match clients.get(&(key.protocol, key.dport)) {
                Some(client) if key.dst == peer => {
                    let src = ip(LOOPBACK).into();
                    FlowKey { src, sport: 8081, dst: *client, ..key }
                }
                _ => key,
            }
        });
        let peer = HOST_PEER_IPV4.to_string();
        let to = SocketAddr::new(ip(LOOPBACK), 8081);
        let asked = || -> BTreeSet<IpAddr> {
            let keys = punter.take().into_iter().filter(|key| key.dport == 8081);
            keys.map(|key| IpAddr::from(key.src)).collect()
        };
        for _ in 0..2 {
            assert_eq!(ask_tcp(to).unwrap(), peer);
            assert_eq!(ask_udp(to).unwrap(), peer);
            // What kubelet's firewall lets through.
            assert_eq!(asked(), [ip(LOOPBACK)].into());
            for source in [V4, LOOPBACK] {
                for kind in [SockType::Stream, SockType::Datagram] {
                    assert_eq!(ask_from(source, kind, 8081).as_deref(), Ok(peer.as_str()));
                }
                assert_eq!(asked(), [ip(source)].into());
            }
        }
        // A NodePort's number, and any other: the host's own.
        for l4_port in [31_000, 8080] {
            let to = SocketAddr::new(ip(LOOPBACK), l4_port);
            assert_eq!(ask_tcp(to).unwrap(), LOOPBACK);
            assert_eq!(ask_udp(to).unwrap(), LOOPBACK);
        }
        let refused = ask_tcp(SocketAddr::new(ip(LOOPBACK), 8082)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
        net.node.run(["ping", "-c1", "-W2", LOOPBACK]).unwrap();
        // Connections that ended may still say so.
        let is_earlier = |key: &FlowKey| [8080, 8081].contains(&key.sport.min(key.dport));
        let keys = punter.take();
        assert!(keys.iter().all(is_earlier), "{keys:?}");
    });
}

#[test]
fn a_host_port_that_is_gone_is_refused_or_answered_by_the_host() {
    if skipped() {
        return;
    }
    let net = Net::new();
    net.run(async || {
        let netlink = Netlink::open().unwrap();
        let port = host_port(&netlink).await;
        netlink.set_host_paths(&port, &HostPaths::default(), &at_loopback(8081)).await.unwrap();
        let punter = Punter::start(&port);
        let to = SocketAddr::new(ip(LOOPBACK), 8081);
        for ask in [ask_tcp, ask_udp] {
            let refused = ask(to).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
            assert!(!punter.take().is_empty());
        }
        // The host's service there, on loopback alone.
        let tcp = TcpListener::bind(to).unwrap();
        let udp = UdpSocket::bind(to).unwrap();
        let answering = std::thread::spawn(move || {
            let mut bytes = [0; 64];
            let (len, client) = udp.recv_from(&mut bytes).unwrap();
            udp.send_to(&bytes[..len], client).unwrap();
        });
        std::net::TcpStream::connect_timeout(&to, super::PATIENCE).unwrap();
        drop(tcp);
        // The number may be a client's port, too: what it is answered passes here.
        serve(8080);
        assert!(!punter.take().is_empty());
        let answer = ask_by(to, SockType::Stream, 8080);
        assert_eq!(answer.as_deref(), Ok(LOOPBACK));
        assert!(punter.take().iter().any(|key| (key.sport, key.dport) == (8080, 8081)));
        assert_eq!(ask_udp(to).unwrap(), "hello");
        answering.join().unwrap();
    });
}

#[test]
fn the_kernel_follows_host_ports_at_loopback_and_gives_them_to_nobody_else() {
    if skipped() {
        return;
    }
    let net = Net::new();
    let before = net.node.ip("rule show").unwrap();
    net.run(async || {
        let mut kernel = kernel(&net, FailureMode::OPEN).await;
        let config = NodeConfig::default();
        let ports = || {
            let shown = net.node.ip("rule show").unwrap();
            let line = format!("lookup {LOOPBACK_TABLE}");
            let rules = shown.lines().filter(|rule| rule.contains(&line));
            let of_rule = |rule: &str| {
                let mut words = rule.split_whitespace().skip_while(|word| *word != "dport");
                words.nth(1).unwrap().to_owned()
            };
            rules.map(of_rule).collect::<Vec<String>>()
        };
        kernel.set_frontend(&key(LOOPBACK, 54323, TCP), false).unwrap();
        kernel.sync_host(&config).await;
        assert_eq!(ports(), ["54323"]);
        let addresses = kernel.maps().addresses().unwrap();
        assert!(addresses.iter().all(|(ip, _)| !ip.is_loopback()), "{addresses:?}");
        assert!(kernel.maps().node_l4_ports().unwrap().is_empty());
        let main = net.node.ip("route show").unwrap();
        assert!(!main.contains(LOOPBACK), "{main}");

        // On every address, and a NodePort.
        kernel.set_frontend(&key("0.0.0.0", 8081, UDP), false).unwrap();
        kernel.set_frontend(&key("0.0.0.0", 30_080, TCP), false).unwrap();
        kernel.sync_host(&config).await;
        let found: BTreeSet<String> = ports().into_iter().collect();
        assert_eq!(found, ["54323", "8081"].map(str::to_owned).into());
        kernel.remove_frontend(&key("0.0.0.0", 8081, UDP)).unwrap();
        kernel.remove_frontend(&key(LOOPBACK, 54323, TCP)).unwrap();
        kernel.sync_host(&config).await;
        assert_eq!(ports(), [""; 0]);
        assert_eq!(route_localnet(&net, "weir0"), "0");

        drop(kernel);
        remove_all(&net.lab.pin_folder(), net.lab.folder()).await.unwrap();
    });
    assert_eq!(net.node.ip("rule show").unwrap(), before);
}
