//! Packets that end here: which, why, and who is told.

use weir_packet::{Mac, Malformed};
use weir_tables::PortId;

use crate::common::node::{self, arriving_macs, port_of};
use crate::common::packet::Text;
use crate::common::variants::in_every_world;

/// Nobody answers on the port of `service`, as its address tells `to` about a datagram.
fn unreachable(family: u8, service: &str, l4_port: u16, to: &str) -> String {
    let code = if family == 4 { "3/3" } else { "1/4" };
    format!("unreachable {code} {service} > {to} about udp {to}:4000 > {service}:{l4_port}")
}

#[test]
fn a_service_without_backends_says_so() {
    in_every_world(|s| {
        for (port, client) in [("blue", "blue"), ("host", "host"), ("out", "client")] {
            let told = "received 1, transmitted 1, originated 1, no_backend 1";
            assert!(s.world.workers.iter().all(|worker| worker.flows().is_empty()));
            let reset = format!("{port}: tcp/AR empty:80 > {client}:4000");
            s.case(&format!("{port}: tcp/S {client}:4000 > empty:80"), &[&reset], told);
            let error = format!("{port}: {}", unreachable(s.family, "empty", 53, client));
            s.case(&format!("{port}: udp {client}:4000 > empty:53"), &[&error], told);
            s.drops(&format!("{port}: tcp/R {client}:4000 > empty:80"), "no_backend");
        }
    });
}

#[test]
fn an_unknown_port_of_a_service_address_is_refused() {
    in_every_world(|s| {
        for (port, client) in [("blue", "blue"), ("out", "client"), ("host", "host")] {
            let told = "received 1, transmitted 1, originated 1, no_frontend 1";
            let reset = format!("{port}: tcp/AR lb:81 > {client}:4000");
            s.case(&format!("{port}: tcp/S {client}:4000 > lb:81"), &[&reset], told);
            let error = format!("{port}: {}", unreachable(s.family, "lb", 54, client));
            s.case(&format!("{port}: udp {client}:4000 > lb:54"), &[&error], told);
        }
    });
}

#[test]
fn service_addresses_answer_pings() {
    in_every_world(|s| {
        for id in [7, 0] {
            let ping = |who: &str| format!("ping {who} > lb id {id}");
            let pong = |who: &str| format!("pong lb > {who} id {id}");
            s.forwards(&format!("blue: {}", ping("blue")), &format!("blue: {}", pong("blue")));
            s.forwards(&format!("out: {}", ping("client")), &format!("out: {}", pong("client")));
            s.forwards(&format!("host: {}", ping("host")), &format!("host: {}", pong("host")));
        }
        s.drops("blue: pong blue > lb id 7", "no_frontend");
    });
}

#[test]
fn refusals_are_limited() {
    in_every_world(|s| {
        // One batch: the first 32 are told, and the rest dropped without a word.
        let frame = s.frame("blue", "tcp/S blue:4000 > empty:80");
        for _ in 1..60 {
            s.world.inject(port_of("blue"), &frame);
        }
        let (sent, counts) = s.run(port_of("blue"), &frame);
        assert_eq!(sent, ["blue: tcp/AR empty:80 > blue:4000"; 32]);
        let told = "received 60, transmitted 32, originated 60, no_backend 60";
        assert_eq!(counts, format!("{told}, reply_rate_limited 28"));
        // Pings, too; and a few milliseconds later both are answered again.
        s.drops("blue: ping blue > lb id 7", "reply_rate_limited");
        s.world.clock.advance_ns(4_000_000);
        s.forwards("blue: ping blue > lb id 7", "blue: pong lb > blue id 7");
    });
}

#[test]
fn nobody_sends_from_an_address_of_somebody_else() {
    in_every_world(|s| {
        for spoofed in ["green", "client", "host", "web", "stranger"] {
            s.drops(&format!("blue: udp {spoofed}:4000 > red:53"), "source_spoofed");
            s.drops(&format!("blue: udp {spoofed}:4000 > web:53"), "source_spoofed");
        }
        for spoofed in ["green", "host"] {
            s.drops(&format!("out: udp {spoofed}:4000 > red:53"), "source_spoofed");
            s.drops(&format!("out: udp {spoofed}:4000 > lb:53"), "source_spoofed");
        }
        s.drops("nobody: udp blue:4000 > red:53", "no_endpoint");
        assert!(s.world.workers.iter().all(|worker| worker.flows().is_empty()));
        // Nor does a flow that exists help.
        s.forwards("blue: udp blue:4000 > red:53", "red: udp blue:4000 > red:53 ttl 63");
        s.drops("green: udp blue:4000 > red:53", "source_spoofed");
        s.drops("out: udp blue:4000 > red:53", "source_spoofed");
        s.drops("nobody: udp red:53 > blue:4000", "no_endpoint");
    });
}

#[test]
fn a_pod_sends_from_its_own_mac_only() {
    in_every_world(|s| {
        let (_, gateway) = arriving_macs(port_of("blue"));
        let (greens, _) = arriving_macs(port_of("green"));
        let frame = Text::parse("udp blue:4000 > red:53", s.family).frame((greens, gateway));
        s.raw("blue", &frame, &[], "received 1, source_spoofed 1");
    });
}

#[test]
fn frames_for_other_machines_are_left_to_them() {
    in_every_world(|s| {
        let (router, _) = arriving_macs(PortId::UPLINK);
        let frame = Text::parse("tcp/S client:4000 > web:80", s.family);
        let frame = frame.frame((router, Mac([2, 0, 0, 0, 2, 9])));
        s.raw("out", &frame, &[], "received 1, other_host 1");
        // A virtual router's, say, that this node is now.
        let mut network = node::network();
        network.other_macs.push(Mac([2, 0, 0, 0, 2, 9]));
        s.world.tables.set_network(network);
        s.world.publish();
        let (_, counts) = s.run(PortId::UPLINK, &frame);
        assert!(!counts.contains("other_host"), "{counts}");
    });
}

#[test]
fn what_has_no_route_is_refused_where_a_pod_asks() {
    in_every_world(|s| {
        let told = "received 1, transmitted 1, originated 1, no_route 1";
        let error = match s.family {
            4 => "blue: unreachable 3/0 nowhere > blue about udp blue:4000 > nowhere:53",
            _ => "blue: unreachable 1/0 nowhere > blue about udp blue:4000 > nowhere:53",
        };
        s.case("blue: udp blue:4000 > nowhere:53", &[error], told);
        s.drops("host: udp host:4000 > client:53", "no_route");
    });
}

#[test]
fn what_ends_at_the_link_ends_here() {
    in_every_world(|s| {
        s.drops("blue: udp blue:5353 > all:5353", "link_local");
        s.drops("blue: udp blue:4000 > gateway:53", "link_local");
        s.drops("blue: ping blue > gateway id 4", "link_local");
        s.drops("blue: udp blue:4000 > hairpin:53", "link_local");
    });
}

#[test]
fn malformed_frames_are_counted_by_reason() {
    in_every_world(|s| {
        let good = s.frame("blue", "udp blue:4000 > red:53");
        let is_v4 = s.family == 4;
        let cut = |len: usize| good[..len].to_vec();
        let set = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        let rows = [
            (cut(10), Malformed::TruncatedEthernet),
            (cut(20), if is_v4 { Malformed::TruncatedIpv4 } else { Malformed::TruncatedIpv6 }),
            (set(14, 0x15), Malformed::BadVersion),
            (set(if is_v4 { 38 } else { 58 }, 0xff), Malformed::UdpLength),
        ];
        for (frame, reason) in rows {
            let before = s.world.counters().malformed;
            s.raw("blue", &frame, &[], "received 1, header_malformed 1");
            let after = s.world.counters().malformed;
            let at = reason as usize;
            assert_eq!(after[at], before[at] + 1, "{reason}");
        }
        s.raw("blue", &set(12, 0x81), &[], "received 1, not_ip 1");
        let mut other = s.frame("out", "udp client:4000 > red:53");
        other[12..14].copy_from_slice(&[0x88, 0xcc]);
        s.raw("out", &other, &[], "received 1, not_ip 1");
    });
}

#[test]
fn a_flood_of_syns_evicts_nobody_but_its_own() {
    in_every_world(|s| {
        let answered = "green: tcp/S blue:1 > green:8080 ttl 63";
        s.forwards("blue: tcp/S blue:1 > web:80", answered);
        s.forwards("green: tcp/SA green:8080 > blue:1", "blue: tcp/SA web:80 > blue:1 ttl 63");
        s.forwards("blue: tcp/A blue:1 > web:80", "green: tcp/A blue:1 > green:8080 ttl 63");
        // An established connection, and three times as many SYNs as fit.
        for round in 0..3_u16 {
            for sport in 0..300 {
                let sport = 1000 + round * 300 + sport;
                let frame = s.frame("blue", &format!("tcp/S blue:{sport} > web:80"));
                s.run(port_of("blue"), &frame);
            }
            s.world.clock.advance_ns(1_000_000_000);
        }
        // Whoever comes a second later finds room, and the old connection has not noticed.
        let there = "green: tcp/S blue:9 > green:8080 ttl 63";
        s.forwards("blue: tcp/S blue:9 > web:80", there);
        s.forwards("green: tcp/A green:8080 > blue:1", "blue: tcp/A web:80 > blue:1 ttl 63");
        s.forwards("blue: tcp/A blue:1 > web:80", "green: tcp/A blue:1 > green:8080 ttl 63");
    });
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_the_old() {
    in_every_world(|s| {
        let mut learned = 0;
        let mut refused = 0;
        for sport in 1000..1600 {
            let frame = s.frame("blue", &format!("udp blue:{sport} > green:53"));
            match s.run(port_of("blue"), &frame) {
                (sent, counts) if counts == "received 1, transmitted 1" => learned += sent.len(),
                (sent, counts) => {
                    refused += 1;
                    assert_eq!((sent.len(), counts.as_str()), (0, "received 1, flow_table_full 1"));
                }
            }
        }
        assert!(learned > 64 && refused > 300, "{learned} learned, {refused} refused");
        s.forwards("blue: udp blue:1000 > green:53", "green: udp blue:1000 > green:53 ttl 63");
        s.advance_ms(60_000);
        assert!(s.world.workers.iter().all(|worker| worker.flows().is_empty()));
    });
}
