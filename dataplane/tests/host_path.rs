//! The host's own way to its NodePorts and its answers as a backend, against a real kernel: rules,
//! routes, sysctls, eBPF maps, and packets. A thread stands for the worker: it punts. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "host_path/cluster.rs"]
mod cluster;
#[path = "host_path/loopback.rs"]
mod loopback;
#[path = "host_path/maps.rs"]
mod maps;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use weir_dataplane::netlink::host_path::TABLE;
use weir_dataplane::netlink::port_ranges::{held_ports, keep_clear, restore, warn_of_held_ports};
use weir_dataplane::netlink::{
    HOST_PEER_IPV4, HOST_PEER_IPV6, HostPaths, HostPort, HostPortConfig, Netlink, PortRange,
    PortRule,
};
use weir_lab::{Host, Lab, LinkOptions, skipped};
use weir_packet::build::{DEFAULT_TTL, Path, emit_udp};
use weir_packet::{FlowKey, Mac, Parsed, Translation, checksum, parse, protocol};
use weir_xdp_redirect::Settings;

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;
const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";

/// A node with an uplink to another machine.
struct Net {
    node: Host,
    outside: Host,
    lab: Lab,
}

impl Net {
    fn new() -> Net {
        let lab = Lab::new("hostpath").unwrap();
        let (node, outside) = (lab.host("node").unwrap(), lab.host("outside").unwrap());
        // Strict everywhere: what weir needs it sets on its own interface.
        node.sysctl("net.ipv4.conf.all.rp_filter", "1").unwrap();
        lab.link(&node, "up0", &outside, "eth0", &LinkOptions::default()).unwrap();
        for (host, device, last) in [(&node, "up0", "10"), (&outside, "eth0", "1")] {
            host.addr(device, &format!("192.0.2.{last}/24")).unwrap();
            host.addr(device, &format!("2001:db8::{last}/64")).unwrap();
        }
        Net { node, outside, lab }
    }

    /// Runs an asynchronous body in the node's namespace.
    fn run(&self, body: impl AsyncFnOnce() + Send) {
        let run = || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body());
        };
        self.node.enter(run).unwrap();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own() -> BTreeSet<IpAddr> {
    [ip(V4), ip(V6)].into()
}

/// The rules of NodePorts for both families.
fn node_port_rules() -> BTreeSet<PortRule> {
    let rule = |is_ipv4, protocol| PortRule { is_ipv4, protocol, min: 30_000, max: 32_767 };
    [true, false].into_iter().flat_map(|v4| [TCP, UDP].map(|proto| rule(v4, proto))).collect()
}

/// Sets these rules for the node's own addresses, and none for loopback.
async fn set_paths(
    netlink: &Netlink,
    port: &HostPort,
    rules: &BTreeSet<PortRule>,
    addresses: &BTreeSet<IpAddr>,
) {
    let own = HostPaths { rules: rules.clone(), addresses: addresses.clone() };
    netlink.set_host_paths(port, &own, &HostPaths::default()).await.unwrap();
}

async fn host_port(netlink: &Netlink) -> HostPort {
    netlink.ensure_host_port(&HostPortConfig::default()).await.unwrap()
}

#[test]
fn rules_come_ahead_of_the_local_table_and_go_without_a_trace() {
    if skipped() {
        return;
    }
    let net = Net::new();
    let before = ["-4", "-6"].map(|family| net.node.ip(&format!("{family} rule show")).unwrap());
    net.run(async || {
        let netlink = Netlink::open().unwrap();
        let port = host_port(&netlink).await;
        netlink.set_host_peer(&port, &[]).await.unwrap();
        set_paths(&netlink, &port, &BTreeSet::new(), &own()).await;
        let rules = ["-4", "-6"].map(|family| net.node.ip(&format!("{family} rule show")).unwrap());
        assert_eq!(rules, before, "without frontends nothing changes");

        let mut wanted = node_port_rules();
        wanted.insert(PortRule { is_ipv4: true, protocol: TCP, min: 443, max: 443 });
        set_paths(&netlink, &port, &wanted, &own()).await;
        let rules = net.node.ip("-4 rule show").unwrap();
        assert!(rules.contains("100:\tfrom all lookup local"), "{rules}");
        assert!(!rules.contains("0:\tfrom all lookup local\n100"), "{rules}");
        assert_eq!(rules.matches("iif lo").count(), 3, "{rules}");
        assert!(
            rules.contains(&format!("50:\tfrom all iif lo ipproto tcp dport 443 lookup {TABLE}"))
        );
        let shown = net.node.ip(&format!("route show table {TABLE}")).unwrap();
        assert!(shown.contains(&format!("{V4} via 169.254.1.1 dev weir0")), "{shown}");
        assert!(shown.contains(&format!("src {V4}")), "{shown}");
        let shown = net.node.ip(&format!("-6 route show table {TABLE}")).unwrap();
        assert!(shown.contains(V6) && shown.contains("via fe80::1 dev weir0"), "{shown}");

        // Another process, the same wish: nothing moves.
        let all = |net: &Net| {
            let show = |what: &str| net.node.ip(what).unwrap();
            ["-4 rule show", "-6 rule show", "route show table all"].map(show)
        };
        let first = all(&net);
        let second = Netlink::open().unwrap();
        let port = host_port(&second).await;
        second.set_host_peer(&port, &[]).await.unwrap();
        set_paths(&second, &port, &wanted, &own()).await;
        assert_eq!(all(&net), first);

        // Only IPv6 TCP is left, and one address.
        let less = [PortRule { is_ipv4: false, protocol: TCP, min: 30_000, max: 32_767 }];
        set_paths(&second, &port, &less.into(), &[ip(V6)].into()).await;
        assert_eq!(net.node.ip("-4 rule show").unwrap(), before[0]);
        assert_eq!(net.node.ip("-6 rule show").unwrap().matches("iif lo").count(), 1);
        let routes = net.node.ip("-4 route show table all").unwrap();
        assert!(!routes.contains(&format!("table {TABLE}")), "{routes}");

        set_paths(&second, &port, &wanted, &own()).await;
        second.remove_all().await.unwrap();
        let rules = ["-4", "-6"].map(|family| net.node.ip(&format!("{family} rule show")).unwrap());
        assert_eq!(rules, before);
        for family in ["-4", "-6"] {
            let routes = net.node.ip(&format!("{family} route show table all")).unwrap();
            assert!(!routes.contains("weir0") && !routes.contains("proto 119"), "{routes}");
        }
        second.remove_all().await.unwrap();
    });
}

#[test]
fn a_node_is_never_without_a_rule_for_its_addresses() {
    if skipped() {
        return;
    }
    let net = Net::new();
    let stop = Arc::new(AtomicBool::new(false));
    // Looks at the rules all the time while they move to and fro.
    let watcher = {
        let (node, stop) = (net.node.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                for family in ["-4", "-6"] {
                    let rules = node.ip(&format!("{family} rule show")).unwrap();
                    assert!(rules.contains("from all lookup local"), "{family}: {rules}");
                    looks += 1;
                }
            }
            looks
        })
    };
    net.run(async || {
        let netlink = Netlink::open().unwrap();
        let port = host_port(&netlink).await;
        for _ in 0..100 {
            set_paths(&netlink, &port, &node_port_rules(), &own()).await;
            set_paths(&netlink, &port, &BTreeSet::new(), &own()).await;
        }
        // What a process that was killed half-way leaves: both rules. And another program's place.
        net.node.ip("rule add pref 100 lookup local").unwrap();
        set_paths(&netlink, &port, &node_port_rules(), &own()).await;
        assert_eq!(net.node.ip("rule show").unwrap().matches("lookup local").count(), 1);
        net.node.ip("rule add pref 0 lookup local").unwrap();
        netlink.remove_all().await.unwrap();
        let rules = net.node.ip("rule show").unwrap();
        assert!(rules.starts_with("0:\tfrom all lookup local"), "{rules}");
        assert_eq!(rules.matches("lookup local").count(), 1, "{rules}");
    });
    stop.store(true, Ordering::Relaxed);
    assert!(watcher.join().unwrap() > 10);
}

/// Stands for the worker: gives every packet of the host back to the host, through `weir0p`, as it
/// is or translated.
struct Punter {
    keys: Arc<Mutex<Vec<FlowKey>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Punter {
    /// To be started in the node.
    fn start(port: &HostPort) -> Punter {
        Punter::translating(port, |key| key)
    }

    fn translating(
        port: &HostPort,
        mut translate: impl FnMut(FlowKey) -> FlowKey + Send + 'static,
    ) -> Punter {
        let keys = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let packets = packet_socket(&port.outer.name);
        let (seen, stopped, mac) = (Arc::clone(&keys), Arc::clone(&stop), port.host.mac);
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(len) = recv(packets.as_raw_fd(), &mut frame, MsgFlags::empty()) else {
                    continue;
                };
                // Its own frames are seen as well: they have another destination.
                if frame[..6] != Settings::DEFAULT.gateway_mac {
                    continue;
                }
                let Ok(Parsed::Ip(packet)) = parse(&frame[..len]) else { continue };
                seen.lock().unwrap().push(packet.key);
                checksum::complete_l4(&mut frame[..len], &packet.headers);
                let translation = Translation::between(&packet.key, &translate(packet.key));
                translation.apply(&mut frame[..len], &packet.headers);
                frame[..6].copy_from_slice(&mac);
                send(packets.as_raw_fd(), &frame[..len], MsgFlags::empty()).unwrap();
            }
        });
        Punter { keys, stop, thread: Some(thread) }
    }

    fn take(&self) -> Vec<FlowKey> {
        std::mem::take(&mut self.keys.lock().unwrap())
    }
}

impl Drop for Punter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A packet socket on an interface of this thread's namespace.
fn packet_socket(interface: &str) -> OwnedFd {
    let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
    let socket = socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
    let links = getifaddrs().unwrap().filter(|entry| entry.interface_name == interface);
    let link = links.filter_map(|entry| entry.address?.as_link_addr().copied()).next().unwrap();
    bind(socket.as_raw_fd(), &link).unwrap();
    socket
}

const PATIENCE: Duration = Duration::from_secs(3);

/// Sends "hello" and says what came back.
fn ask_tcp(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 64];
    let len = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}

/// As [`ask_tcp`]; only an answer from the address that was asked counts.
fn ask_udp(to: SocketAddr) -> std::io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"hello")?;
    let mut answer = [0; 64];
    let len = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}

/// Answers TCP and UDP on all addresses of this thread's namespace with the client's address, for
/// as long as the process lives.
fn serve(l4_port: u16) {
    // One socket for both families: the host's own services look like this.
    let tcp = TcpListener::bind(("::", l4_port)).unwrap();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 64];
            let _ = stream.read(&mut bytes);
            let client = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(client.to_string().as_bytes());
        }
    });
    let udp = UdpSocket::bind(("::", l4_port)).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut bytes) {
            let text = client.ip().to_canonical().to_string();
            let _ = udp.send_to(text.as_bytes(), client);
        }
    });
}

fn is_from_own_to_own(key: &FlowKey) -> bool {
    key.src == key.dst && own().contains(&IpAddr::from(key.src))
}

#[test]
fn the_hosts_own_packets_to_node_ports_pass_weir0_and_nothing_else_does() {
    if skipped() {
        return;
    }
    let net = Net::new();
    net.outside.enter(|| serve(30_080)).unwrap();
    net.run(async || {
        let netlink = Netlink::open().unwrap();
        let port = host_port(&netlink).await;
        set_paths(&netlink, &port, &node_port_rules(), &own()).await;
        serve(31_000);
        serve(8080);
        let punter = Punter::start(&port);
        type Ask = fn(SocketAddr) -> std::io::Result<String>;
        let asks: [(u8, Ask); 2] = [(TCP, ask_tcp), (UDP, ask_udp)];
        for own in [V4, V6] {
            for (protocol, ask) in asks {
                // A process that listens in the range, and is no NodePort: punted, and answers.
                let answer = ask(SocketAddr::new(ip(own), 31_000));
                assert_eq!(answer.unwrap(), own, "protocol {protocol}");
                let keys = punter.take();
                let is_asked = |key: &&FlowKey| {
                    (key.protocol, key.dport) == (protocol, 31_000) && is_from_own_to_own(key)
                };
                assert!(keys.iter().any(|key| is_asked(&key)), "{keys:?}");
                // Nobody listens: refused, not a timeout.
                let refused = ask(SocketAddr::new(ip(own), 30_999)).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
                assert!(!punter.take().is_empty());
                // Outside the range: not through weir0.
                assert_eq!(ask(SocketAddr::new(ip(own), 8080)).unwrap(), own);
            }
        }
        for (loopback, remote, own) in [("127.0.0.1", "192.0.2.1", V4), ("::1", "2001:db8::1", V6)]
        {
            for (_, ask) in asks {
                // Loopback is the host's own: its socket, or refused at once.
                assert_eq!(ask(SocketAddr::new(ip(loopback), 31_000)).unwrap(), loopback);
                let refused = ask(SocketAddr::new(ip(loopback), 30_080)).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
                // A port in the range on another machine is that machine's.
                assert_eq!(ask(SocketAddr::new(ip(remote), 30_080)).unwrap(), own);
            }
        }
        for address in [V4, V6, "192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"] {
            net.node.run(["ping", "-c1", "-W2", address]).unwrap();
        }
        for own in [V4, V6] {
            net.outside.run(["ping", "-c1", "-W2", own]).unwrap();
            for (_, ask) in asks {
                let from_outside = || ask(SocketAddr::new(ip(own), 31_000)).unwrap();
                net.outside.enter(from_outside).unwrap();
            }
        }
        // None of these passed weir0; a connection of before may have ended just now.
        let keys = punter.take();
        let is_earlier = |key: &FlowKey| key.dport == 31_000 && is_from_own_to_own(key);
        assert!(keys.iter().all(is_earlier), "{keys:?}");
    });
}

#[test]
fn a_host_that_is_a_backend_answers_the_peer_from_the_address_that_was_asked() {
    if skipped() {
        return;
    }
    let net = Net::new();
    net.run(async || {
        let netlink = Netlink::open().unwrap();
        let port = host_port(&netlink).await;
        netlink.set_host_peer(&port, &[ip(V4), ip(V6)]).await.unwrap();
        netlink.set_service_ranges(&port, &[], &[]).await.unwrap();
        serve(8080);
        let wire = packet_socket(&port.outer.name);
        for (peer, asked) in [
            (IpAddr::from(HOST_PEER_IPV4), V4),
            (HOST_PEER_IPV6.into(), V6),
            (HOST_PEER_IPV4.into(), "127.0.0.1"),
        ] {
            let path = Path {
                dst_mac: Mac(port.host.mac),
                src_mac: Mac(Settings::DEFAULT.gateway_mac),
                src: peer.into(),
                dst: ip(asked).into(),
                sport: 50_000,
                dport: 8080,
                ttl: DEFAULT_TTL,
            };
            let mut frame = [0; 2048];
            let len = emit_udp(&mut frame, &path, b"hello").unwrap();
            send(wire.as_raw_fd(), &frame[..len], MsgFlags::empty()).unwrap();
            let answer = (0..10).find_map(|_| {
                let len = recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
                let Ok(Parsed::Ip(packet)) = parse(&frame[..len]) else { return None };
                let is_answer = IpAddr::from(packet.key.dst) == peer && packet.key.dport == 50_000;
                is_answer.then_some((packet.key, frame[..6].to_vec()))
            });
            let Some((key, dst_mac)) = answer else {
                assert_eq!(asked, "127.0.0.1", "only loopback is not for the peer");
                continue;
            };
            assert_eq!((IpAddr::from(key.src), key.sport), (ip(asked), 8080));
            assert_ne!(asked, "127.0.0.1");
            assert_eq!(dst_mac, Settings::DEFAULT.gateway_mac);
        }
    });
}

#[test]
fn the_hosts_own_ports_are_kept_clear_and_given_back() {
    if skipped() {
        return;
    }
    let net = Net::new();
    net.node.sysctl("net.ipv4.ip_local_reserved_ports", "8080,9148").unwrap();
    net.node.sysctl("net.ipv4.ip_local_port_range", "32768 60999").unwrap();
    let saved = net.lab.folder().join("host-sysctls.json");
    let (snat, node_ports) =
        (PortRange { min: 49_152, max: 65_535 }, PortRange { min: 30_000, max: 32_767 });
    let sysctl = |name: &str| {
        let value = net.node.run(["sysctl", "-n", &format!("net.ipv4.{name}")]).unwrap();
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    net.node
        .enter(|| {
            let (changes, warnings) = keep_clear(snat, node_ports, &saved);
            assert_eq!((changes.len(), warnings), (2, Vec::new()));
            assert_eq!(sysctl("ip_local_port_range"), "32768 49151");
            assert_eq!(sysctl("ip_local_reserved_ports"), "8080,9148,30000-32767");
            assert_eq!(keep_clear(snat, node_ports, &saved), (Vec::new(), Vec::new()));

            // Other ranges start from what was there before weir.
            let other = PortRange { min: 60_000, max: 61_000 };
            let _ = keep_clear(other, PortRange { min: 20_000, max: 20_010 }, &saved);
            assert_eq!(sysctl("ip_local_port_range"), "32768 59999");
            assert_eq!(sysctl("ip_local_reserved_ports"), "8080,9148,20000-20010");

            assert_eq!(warn_of_held_ports(other), None);
            let _tcp = TcpListener::bind("0.0.0.0:60500").unwrap();
            let _udp = UdpSocket::bind("[::]:60501").unwrap();
            let _loopback = TcpListener::bind("127.0.0.1:60502").unwrap();
            assert_eq!(held_ports(other), [(TCP, 60_500), (UDP, 60_501)].into());
            let warning = warn_of_held_ports(other).unwrap();
            assert!(warning.contains("tcp 60500, udp 60501"), "{warning}");

            assert_eq!(restore(&saved).unwrap().len(), 2);
            assert_eq!(sysctl("ip_local_port_range"), "32768 60999");
            assert_eq!(sysctl("ip_local_reserved_ports"), "8080,9148");
            assert_eq!(restore(&saved).unwrap(), [], "nothing is left to restore");

            // An empty list can be restored, and what somebody else set stays.
            net.node.sysctl("net.ipv4.ip_local_reserved_ports", "\n").unwrap();
            let _ = keep_clear(snat, node_ports, &saved);
            net.node.sysctl("net.ipv4.ip_local_port_range", "1024 30000").unwrap();
            assert_eq!(restore(&saved).unwrap().len(), 1);
            assert_eq!(sysctl("ip_local_reserved_ports"), "");
            assert_eq!(sysctl("ip_local_port_range"), "1024 30000");

            net.node.sysctl("net.ipv4.ip_local_port_range", "50000 60000").unwrap();
            let (_, warnings) = keep_clear(snat, node_ports, &saved);
            assert!(warnings.len() == 1 && warnings[0].contains("50000-60000"), "{warnings:?}");
        })
        .unwrap();
}
