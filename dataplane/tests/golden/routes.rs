//! Without a service: pods, the host, the world.

use weir_tables::{NextHop, PortId};

use crate::common::node::{NEAR_MAC, UPLINK_PORT, addr, network};
use crate::common::packet::fragment;
use crate::common::variants::{FORWARDED, in_every_world};

#[test]
fn a_pod_reaches_a_pod() {
    in_every_world(|s| {
        for _ in 0..2 {
            s.forwards("blue: udp blue:4000 > green:53", "green: udp blue:4000 > green:53 ttl 63");
            s.forwards("green: udp green:53 > blue:4000", "blue: udp green:53 > blue:4000 ttl 63");
        }
        s.forwards("blue: tcp/S blue:4000 > red:80", "red: tcp/S blue:4000 > red:80 ttl 63");
        s.forwards("red: tcp/SA red:80 > blue:4000", "blue: tcp/SA red:80 > blue:4000 ttl 63");
        s.forwards("blue: ping blue > green id 7", "green: ping blue > green id 7 ttl 63");
    });
}

#[test]
fn pings_are_answered_through_the_node() {
    in_every_world(|s| {
        s.forwards("blue: ping blue > green id 7", "green: ping blue > green id 7 ttl 63");
        s.forwards("green: pong green > blue id 7", "blue: pong green > blue id 7 ttl 63");
        s.forwards("blue: ping blue > client id 8", "out: ping blue > client id 8 ttl 63");
        s.forwards("out: pong client > blue id 8", "blue: pong client > blue id 8 ttl 63");
        s.forwards("out: ping client > red id 9", "red: ping client > red id 9 ttl 63");
        s.forwards("red: pong red > client id 9", "out: pong red > client id 9 ttl 63");
        s.forwards("blue: ping blue > host id 3", "host: ping blue > host id 3");
        s.forwards("host: pong host > blue id 3", "blue: pong host > blue id 3");
    });
}

#[test]
fn host_and_pods_reach_each_other() {
    in_every_world(|s| {
        s.forwards("host: tcp/S host:50000 > blue:80", "blue: tcp/S host:50000 > blue:80");
        s.forwards("blue: tcp/SA blue:80 > host:50000", "host: tcp/SA blue:80 > host:50000");
        s.forwards("green: udp green:4000 > host:53", "host: udp green:4000 > host:53");
        s.forwards("host: udp host:53 > green:4000", "green: udp host:53 > green:4000");
    });
}

#[test]
fn a_pod_reaches_the_world_and_the_world_a_pod() {
    in_every_world(|s| {
        for _ in 0..2 {
            s.forwards("blue: udp blue:4000 > client:53", "out: udp blue:4000 > client:53 ttl 63");
            s.forwards(
                "out: udp client:53 > blue:4000 ttl 9",
                "blue: udp client:53 > blue:4000 ttl 8",
            );
        }
        s.forwards("out: tcp/S client:4000 > red:80", "red: tcp/S client:4000 > red:80 ttl 63");
        s.forwards("red: tcp/SA red:80 > client:4000", "out: tcp/SA red:80 > client:4000 ttl 63");
    });
}

#[test]
fn an_unresolved_next_hop_goes_by_the_kernel_and_is_asked_for() {
    in_every_world(|s| {
        let near = addr("near", s.family);
        let hop = NextHop { port: UPLINK_PORT, addr: near };
        s.forwards("blue: udp blue:4000 > near:53", "host: udp blue:4000 > near:53");
        assert_eq!(s.world.take_asked(), [hop]);
        let mut known = network();
        known.neighbours.insert(hop, NEAR_MAC);
        assert!(s.world.tables.set_network(known));
        s.world.publish();
        s.forwards("blue: udp blue:4000 > near:53", "out: udp blue:4000 > near:53 ttl 63");
        s.forwards("out: udp near:53 > blue:4000", "blue: udp near:53 > blue:4000 ttl 63");
        assert_eq!(s.world.take_asked(), []);
        // The neighbour is lost again: an established flow falls back.
        s.world.tables.set_network(network());
        s.world.publish();
        s.forwards("blue: udp blue:4000 > near:53", "host: udp blue:4000 > near:53");
        assert_eq!(s.world.take_asked(), [hop]);
    });
}

#[test]
fn what_only_the_kernel_reaches_goes_there_and_comes_back_from_there() {
    in_every_world(|s| {
        for _ in 0..2 {
            s.forwards("blue: udp blue:4000 > docker:53", "host: udp blue:4000 > docker:53");
            s.forwards("host: udp docker:53 > blue:4000", "blue: udp docker:53 > blue:4000");
        }
    });
}

#[test]
fn what_is_not_ours_is_punted_unchanged() {
    in_every_world(|s| {
        let punted = "received 1, transmitted 1, punted 1";
        s.case("out: udp client:4000 > host:9999", &["host: udp client:4000 > host:9999"], punted);
        s.case(
            "out: tcp/A client:1 > near:2 ttl 1",
            &["host: tcp/A client:1 > near:2 ttl 1"],
            punted,
        );
    });
}

#[test]
fn a_host_without_a_port_takes_nothing() {
    in_every_world(|s| {
        let without = weir_tables::Network { host: None, ..network() };
        s.world.tables.set_network(without);
        s.world.publish();
        s.drops("out: udp client:4000 > host:9999", "no_route");
        let refused = "received 1, transmitted 1, originated 1, no_route 1";
        let (sent, counts) = s.run(PortId(11), &s.frame("blue", "udp blue:1 > near:2"));
        assert_eq!((sent.len(), counts.as_str()), (1, refused));
    });
}

#[test]
fn ttl_and_mtu_are_kept() {
    in_every_world(|s| {
        let expired = if s.family == 4 { "11/0" } else { "3/0" };
        let told = |reason: &str| format!("received 1, transmitted 1, originated 1, {reason} 1");
        for (port, client, dst) in
            [("blue", "blue", "green"), ("blue", "blue", "client"), ("out", "client", "blue")]
        {
            let packet = format!("udp {client}:4000 > {dst}:53");
            let error = format!("{port}: unreachable {expired} host > {client} about {packet}");
            s.case(&format!("{port}: {packet} ttl 1"), &[&error], &told("ttl_expired"));
        }
        s.forwards("blue: udp blue:4000 > green:53 ttl 2", "green: udp blue:4000 > green:53 ttl 1");
        // To the node itself nothing is routed, so nothing is taken from the TTL.
        s.forwards("blue: udp blue:4000 > host:53 ttl 1", "host: udp blue:4000 > host:53 ttl 1");

        let header = if s.family == 4 { 28 } else { 48 };
        let fits = 1500 - header;
        let text = format!("udp blue:4000 > client:53 len {fits}");
        let out = format!("out: udp blue:4000 > client:53 ttl 63 len {fits}");
        s.forwards(&format!("blue: {text}"), &out);
        let big = if s.family == 4 { "3/4" } else { "2/0" };
        let packet = "udp blue:4000 > client:53";
        let error = format!("blue: unreachable {big} host > blue about {packet}");
        s.case(&format!("blue: {packet} len {}", fits + 1), &[&error], &told("too_big"));
    });
}

#[test]
fn fragments_are_routed_by_addresses() {
    in_every_world(|s| {
        let whole = s.frame("blue", "udp blue:4000 > green:53 len 100");
        let out = s.frame("out", "udp client:4000 > green:53 len 100");
        for _ in 0..2 {
            let first = fragment(&whole, true);
            let expected = "green: udp blue:4000 > green:53 ttl 63 len 40 fragment First";
            s.raw("blue", &first, &[expected], FORWARDED);
            let later = fragment(&whole, false);
            let expected = "green: UDP blue > green ttl 63 len 60 fragment Later damaged";
            s.raw("blue", &later, &[expected], FORWARDED);
            let expected = "green: udp client:4000 > green:53 ttl 63 len 40 fragment First";
            s.raw("out", &fragment(&out, true), &[expected], FORWARDED);
            // Once a flow of the whole ones is known, its fragments go the same way.
            s.forwards(
                "blue: udp blue:4000 > green:53 len 100",
                "green: udp blue:4000 > green:53 ttl 63 len 100",
            );
        }
        let late = fragment(&s.frame("blue", "udp blue:1 > green:2 ttl 1 len 100"), false);
        s.raw("blue", &late, &[], "received 1, ttl_expired 1");
    });
}
