//! Which backend a client gets, and which clients get one: affinity, scopes, source ranges,
//! NodePorts.

use weir_tables::BackendState::{Active, Maintenance, Terminating};
use weir_tables::{FrontendType, Object, Prefix, SourceRanges};

use crate::common::node::{self, addr};
use crate::common::variants::{Stage, in_every_world};

/// Where flows of a client from so many ports go, by backend.
fn spread(s: &mut Stage, port: &str, client: &str, ports: std::ops::Range<u16>) -> [usize; 2] {
    let mut counts = [0; 2];
    for sport in ports {
        let frame = s.frame(port, &format!("udp {client}:{sport} > pair:53"));
        let (sent, _) = s.run(node::port_of(port), &frame);
        let at = ["green: ", "red: "].iter().position(|to| sent[0].starts_with(to));
        counts[at.unwrap_or_else(|| panic!("{sent:?}"))] += 1;
    }
    counts
}

#[test]
fn a_client_with_affinity_keeps_its_backend_until_it_was_silent_for_the_timeout() {
    in_every_world(|s| {
        for (port, client) in [("out", "client"), ("blue", "blue"), ("host", "host")] {
            s.set_backends("pair", &[("green", Active), ("red", Active)]);
            let plain = spread(s, port, client, 4000..4030);
            assert!(plain.iter().all(|count| *count > 0), "{plain:?}");
            s.set_frontends("pair", |row| row.affinity_s = 100);
            let bound = spread(s, port, client, 5000..5020);
            assert_eq!(bound.iter().filter(|count| **count > 0).count(), 1, "{bound:?}");
            let (mine, other) = match bound[0] > 0 {
                true => ("green", "red"),
                false => ("red", "green"),
            };
            // Another backend appears: whoever is bound stays.
            s.set_backends("pair", &[(mine, Active), (other, Active), ("grey", Active)]);
            s.advance_ms(99_000);
            assert_eq!(spread(s, port, client, 6000..6005), bound.map(|count| count / 4));
            // The backend leaves: the client goes on to another, and stays there.
            s.set_backends("pair", &[(mine, Terminating), (other, Active)]);
            let moved = spread(s, port, client, 7000..7005);
            assert_eq!(moved, [5 - bound[0].min(5), 5 - bound[1].min(5)]);
            s.set_backends("pair", &[(mine, Active), (other, Active)]);
            s.advance_ms(99_000);
            assert_eq!(spread(s, port, client, 8000..8005), moved);
            // After the timeout the choice is free; outside it is by client, so the same again.
            s.advance_ms(100_000);
            let again = spread(s, port, client, 9000..9005);
            assert_eq!(again.iter().filter(|count| **count > 0).count(), 1, "{again:?}");
            if port == "out" {
                assert_eq!(again, bound.map(|count| count / 4));
            }
            s.set_frontends("pair", |row| row.affinity_s = 0);
        }
    });
}

#[test]
fn external_traffic_policy_local_is_for_clients_outside() {
    in_every_world(|s| {
        // All backends, and those of this node.
        s.set_backends("pair", &[("remote", Active)]);
        s.set_backends("web", &[("green", Active)]);
        let set_of = |service: &str, row: &weir_tables::Frontend| {
            let rows = node::frontends(service);
            let same = |other: &&weir_tables::Frontend| {
                (other.key.l4_port, other.key.addr.is_v4())
                    == (row.key.l4_port, row.key.addr.is_v4())
            };
            rows.iter().find(same).expect("the same ports").backend_set.clone()
        };
        s.set_frontends("pair", |row| row.external_backend_set = Some(set_of("web", row)));
        s.forwards("out: udp client:1 > pair:53", "green: udp client:1 > green:5353 ttl 63");
        s.forwards("blue: udp blue:1 > pair:53", "out: udp blue:1 > remote:5353 ttl 63");
        s.forwards("green: udp green:5353 > client:1", "out: udp pair:53 > client:1 ttl 63");
        // No backend here: dropped, so that the balancer in front decides. Inside they go on.
        s.set_backends("web", &[("green", Maintenance)]);
        s.drops("out: udp client:2 > pair:53", "no_local_backend");
        s.forwards("blue: udp blue:2 > pair:53", "out: udp blue:2 > remote:5353 ttl 63");
        // A node of the cluster is not outside.
        let near = [4, 6].map(|family| Prefix::of_addr(addr("near", family)));
        s.configure(|node| node.cluster_ranges = near.to_vec());
        s.forwards_from("out: udp near:1 > pair:53", "out: udp host:* > remote:5353 ttl 63");
        // The last one here is leaving: it serves on (KEP-1669).
        s.set_backends("web", &[("green", Terminating)]);
        s.forwards("out: udp client:3 > pair:53", "green: udp client:3 > green:5353 ttl 63");
    });
}

#[test]
fn source_ranges_are_for_clients_inside_too() {
    in_every_world(|s| {
        let client = Prefix::of_addr(addr("client", s.family));
        let router = Prefix::of_addr(addr("router", s.family));
        let rows: [(Vec<Prefix>, bool, bool); 4] = [
            (vec![router, client], false, true),
            (vec![router], false, false),
            (vec![router, client], true, false),
            (vec![router], true, true),
        ];
        for (sport, (ranges, is_deny, passes)) in (4000..).zip(rows) {
            s.set_frontends("lb", |row| {
                row.source_ranges = SourceRanges { ranges: ranges.clone(), is_deny };
            });
            let ask = format!("out: tcp/S client:{sport} > lb:80");
            match passes {
                true => {
                    let there = format!("green: tcp/S client:{sport} > green:8080 ttl 63");
                    s.forwards(&ask, &there);
                }
                false => s.drops(&ask, "source_range"),
            }
            let ask = format!("blue: tcp/S blue:{sport} > lb:80");
            match is_deny {
                true => s.forwards(&ask, &format!("green: tcp/S blue:{sport} > green:8080 ttl 63")),
                false => s.drops(&ask, "source_range"),
            }
        }
    });
}

/// Gives a service NodePorts beside its addresses: 30080 and 30053.
fn add_node_ports(s: &mut Stage, service: &str) {
    let rows = node::frontends(service).into_iter().map(|mut row| {
        row.key.addr = weir_packet::Addr::unspecified(row.key.addr.is_v4());
        row.key.l4_port += 30_000;
        row.kind = FrontendType::NodePort;
        Object::Frontend(row)
    });
    s.world.upsert(rows);
}

#[test]
fn node_ports_answer_on_every_address_of_the_node() {
    in_every_world(|s| {
        add_node_ports(s, "lb");
        s.configure(|node| node.addresses = vec![addr("near", 4), addr("near", 6)]);
        for dst in ["host", "near"] {
            s.forwards(
                &format!("out: tcp/S client:4000 > {dst}:30080"),
                "green: tcp/S client:4000 > green:8080 ttl 63",
            );
            s.forwards(
                "green: tcp/SA green:8080 > client:4000",
                &format!("out: tcp/SA {dst}:30080 > client:4000 ttl 63"),
            );
            s.forwards(
                &format!("out: tcp/RA client:4000 > {dst}:30080"),
                "green: tcp/AR client:4000 > green:8080 ttl 63",
            );
        }
        s.forwards("blue: udp blue:1 > host:30053", "green: udp blue:1 > green:5353 ttl 63");
        s.forwards("green: udp green:5353 > blue:1", "blue: udp host:30053 > blue:1 ttl 63");
        s.forwards("host: udp host:1 > host:30053", "green: udp host:1 > green:5353");
        s.forwards("green: udp green:5353 > host:1", "host: udp host:30053 > host:1");
        // Other ports of the node are the node's, also for the node itself.
        let punted = "received 1, transmitted 1, punted 1";
        s.case("out: udp client:1 > host:30054", &["host: udp client:1 > host:30054"], punted);
        s.case("host: udp host:1 > host:30054", &["host: udp host:1 > host:30054"], punted);
        // A NodePort of another node is that node's.
        s.forwards("blue: udp blue:1 > remote:30053", "out: udp blue:1 > remote:30053 ttl 63");
    });
}

#[test]
fn two_services_to_one_backend_do_not_collide() {
    in_every_world(|s| {
        for (port, client, ttl) in [("out", "client", " ttl 63"), ("blue", "blue", " ttl 63")] {
            let there = format!("green: tcp/S {client}:4000 > green:8080{ttl}");
            s.forwards(&format!("{port}: tcp/S {client}:4000 > lb:80"), &there);
            s.set_backends("pair", &[("green", Active)]);
            let ask = format!("{port}: tcp/S {client}:4000 > pair:80");
            let own = s.forwards_from(&ask, &format!("green: tcp/S {client}:* > green:8080{ttl}"));
            assert!(own >= 49152, "the client's port is taken by its other connection");
            let heard = format!("{port}: tcp/SA pair:80 > {client}:4000{ttl}");
            s.forwards(&format!("green: tcp/SA green:8080 > {client}:{own}"), &heard);
            let heard = format!("{port}: tcp/SA lb:80 > {client}:4000{ttl}");
            s.forwards(&format!("green: tcp/SA green:8080 > {client}:4000"), &heard);
        }
    });
}

#[test]
fn other_ports_of_an_external_address_that_is_a_nodes_are_that_nodes() {
    in_every_world(|s| {
        s.set_frontends("lb", |row| {
            let family = row.key.addr.family();
            row.key.addr = addr("remote", family);
            row.kind = FrontendType::ExternalIp;
        });
        let refused = "received 1, transmitted 1, originated 1, no_frontend 1";
        let reset = "blue: tcp/AR remote:10250 > blue:1";
        s.case("blue: tcp/S blue:1 > remote:10250", &[reset], refused);
        let nodes = [4, 6].map(|family| Prefix::of_addr(addr("remote", family)));
        s.configure(|node| node.cluster_ranges = nodes.to_vec());
        s.forwards("blue: tcp/S blue:1 > remote:10250", "out: tcp/S blue:1 > remote:10250 ttl 63");
        s.forwards("blue: udp blue:1 > remote:53", "green: udp blue:1 > green:5353 ttl 63");
    });
}
