//! Source translation: backends of other nodes, the host's own, and the world.

use weir_tables::{Prefix, SnatPorts};

use crate::common::node::addr;
use crate::common::variants::{Stage, in_every_world};

#[test]
fn a_backend_on_another_node_hears_from_the_node_unless_a_pod_asks() {
    in_every_world(|s| {
        for _ in 0..2 {
            s.forwards("blue: udp blue:4000 > far:53", "out: udp blue:4000 > remote:5353 ttl 63");
            s.forwards("out: udp remote:5353 > blue:4000", "blue: udp far:53 > blue:4000 ttl 63");
        }
        for (port, client, ttl) in [("out", "client", " ttl 63"), ("host", "host", "")] {
            let ask = format!("{port}: tcp/S {client}:4000 > far:80");
            let own = s.forwards_from(&ask, &format!("out: tcp/S host:* > remote:8080{ttl}"));
            assert!(own >= 49152, "{own} is in the range");
            let answer = format!("out: tcp/SA remote:8080 > host:{own}");
            let heard = format!("{port}: tcp/SA far:80 > {client}:4000{ttl}");
            for _ in 0..2 {
                s.forwards(&answer, &heard);
                let again = s.forwards_from(&ask, &format!("out: tcp/S host:* > remote:8080{ttl}"));
                assert_eq!(again, own, "the flow keeps its port");
                s.world.publish();
            }
            // Another client's port towards the same remote is another one.
            let ask = format!("{port}: tcp/S {client}:4001 > far:80");
            let other = s.forwards_from(&ask, &format!("out: tcp/S host:* > remote:8080{ttl}"));
            assert_ne!(other, own);
        }
    });
}

#[test]
fn a_backend_of_the_host_hears_from_the_peer_of_its_port() {
    in_every_world(|s| {
        s.set_backends("lb", &[("host", weir_tables::BackendState::Active)]);
        let port = s.forwards_from("out: udp client:4000 > lb:53", "host: udp peer:* > host:5353");
        s.forwards(&format!("host: udp host:5353 > peer:{port}"), "out: udp lb:53 > client:4000");
        // A pod is answered through its veth.
        s.forwards("blue: udp blue:4000 > lb:53", "host: udp blue:4000 > host:5353");
        s.forwards("host: udp host:5353 > blue:4000", "blue: udp lb:53 > blue:4000");
    });
}

#[test]
fn what_is_nobodys_flow_reaches_the_host() {
    in_every_world(|s| {
        let punted = "received 1, transmitted 1, punted 1";
        for port in [49152, 50000, 65535, 22] {
            let packet = format!("tcp/S client:4000 > host:{port}");
            s.case(&format!("out: {packet}"), &[&format!("host: {packet}")], punted);
        }
    });
}

fn masquerade(s: &mut Stage) {
    s.configure(|node| {
        let range = |name: &str, length, family| {
            Prefix::new(addr(name, family), length).expect("not too long")
        };
        node.masquerade = true;
        node.cluster_ranges = vec![range("remote", 8, 4), range("remote", 16, 6)];
        node.masquerade_exclusions = vec![range("near", 32, 4), range("near", 128, 6)];
    });
}

#[test]
fn pods_leave_the_cluster_with_the_nodes_address() {
    in_every_world(|s| {
        masquerade(s);
        let port = s
            .forwards_from("blue: udp blue:4000 > client:53", "out: udp host:* > client:53 ttl 63");
        s.forwards(
            &format!("out: udp client:53 > host:{port}"),
            "blue: udp client:53 > blue:4000 ttl 63",
        );
        // Pings by their identifier, which is the port of an echo.
        let ping = "blue: ping blue > client id 7";
        let id = s.forwards_from(ping, "out: ping host > client id * ttl 63");
        assert!(id >= 49152);
        s.forwards(
            &format!("out: pong client > host id {id}"),
            "blue: pong client > blue id 7 ttl 63",
        );
        // Not inside the cluster, not where it is excluded, and not what the host answers.
        s.forwards("blue: udp blue:4000 > remote:53", "out: udp blue:4000 > remote:53 ttl 63");
        s.forwards("blue: udp blue:4000 > near:53", "host: udp blue:4000 > near:53");
        s.forwards("out: udp client:9 > blue:4000", "blue: udp client:9 > blue:4000 ttl 63");
        s.forwards("blue: udp blue:4000 > client:9", "out: udp blue:4000 > client:9 ttl 63");
    });
}

#[test]
fn a_new_address_of_the_node_ends_the_old_translations() {
    in_every_world(|s| {
        masquerade(s);
        s.forwards_from("blue: udp blue:4000 > client:53", "out: udp host:* > client:53 ttl 63");
        let mut network = crate::common::node::network();
        network.addresses = vec![addr("near", s.family)];
        network.uplink_addresses = network.addresses.clone();
        s.world.tables.set_network(network);
        s.world.publish();
        s.forwards_from("blue: udp blue:4000 > client:53", "out: udp near:* > client:53 ttl 63");
    });
}

#[test]
fn an_exhausted_range_refuses_and_says_so() {
    in_every_world(|s| {
        // Two ports per worker.
        let max = 49151 + 2 * u16::from(s.world.layout.workers);
        s.configure(|node| node.snat_ports = SnatPorts { min: 49152, max });
        let mut translated = 0;
        let mut refused = 0;
        for sport in 4000..4040 {
            let frame = s.frame("out", &format!("udp client:{sport} > far:53"));
            let (sent, counts) = s.run(crate::common::node::port_of("out"), &frame);
            match counts.as_str() {
                "received 1, transmitted 1" => translated += sent.len(),
                other => {
                    assert_eq!((other, sent.len()), ("received 1, snat_exhausted 1", 0));
                    refused += 1;
                }
            }
        }
        assert_eq!(translated, 2 * usize::from(s.world.layout.workers));
        assert_eq!(refused, 40 - translated);
        // Towards another remote the same ports are free.
        s.set_backends("pair", &[("client", weir_tables::BackendState::Active)]);
        s.forwards_from("host: udp host:1 > pair:53", "out: udp host:* > client:5353");
        // And after their time they are free again.
        s.advance_ms(60_000);
        s.forwards_from("out: udp client:4999 > far:53", "out: udp host:* > remote:5353 ttl 63");
    });
}

#[test]
fn a_flood_of_syns_gives_its_ports_back() {
    in_every_world(|s| {
        let workers = u16::from(s.world.layout.workers);
        s.configure(|node| {
            node.snat_ports = SnatPorts { min: 49152, max: 49151 + 2 * workers };
        });
        // A connection that is one, and forged ones that take all other ports, answered or not.
        let there = "out: tcp/S host:* > remote:8080";
        let own = s.forwards_from("host: tcp/S host:1 > far:80", there);
        s.forwards(
            &format!("out: tcp/SA remote:8080 > host:{own}"),
            "host: tcp/SA far:80 > host:1",
        );
        let on = format!("out: tcp/A host:{own} > remote:8080");
        s.forwards("host: tcp/A host:1 > far:80", &on);
        for sport in 4000..4100 {
            let frame = s.frame("out", &format!("tcp/S client:{sport} > far:80"));
            s.run(crate::common::node::port_of("out"), &frame);
        }
        for port in 49152..49152 + 2 * workers {
            if port != own {
                let frame = s.frame("out", &format!("tcp/SA remote:8080 > host:{port}"));
                s.run(crate::common::node::port_of("out"), &frame);
            }
        }
        s.drops("host: tcp/S host:2 > far:80", "snat_exhausted");
        s.world.clock.advance_ns(1_000_000_000);
        let other = s.forwards_from("host: tcp/S host:3 > far:80", there);
        assert_ne!(other, own, "not from a connection that both sides have confirmed");
        s.forwards("host: tcp/A host:1 > far:80", &on);
    });
}
