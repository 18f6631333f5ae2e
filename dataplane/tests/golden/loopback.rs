//! hostPorts at a loopback address: for the node's own sockets, and for nobody else.

use weir_packet::Addr;
use weir_tables::policy::{PolicyRules, Rule, RuleAction, RulePeers};
use weir_tables::{FrontendType, Object};

use crate::common::node::{self, addr, arriving_macs, port_of};
use crate::common::packet::Text;
use crate::common::variants::{FORWARDED, Stage, in_every_world};

const PUNTED: &str = "received 1, transmitted 1, punted 1";

/// hostPorts 80 and 53 of `green` on an address.
fn map_ports(s: &mut Stage, addr_of: impl Fn(u8) -> Addr) {
    let mut rows = node::frontends("web");
    for row in &mut rows {
        row.key.addr = addr_of(row.key.addr.family());
        row.kind = FrontendType::HostPort;
    }
    s.world.upsert(rows.into_iter().map(Object::Frontend));
}

fn unmap_ports(s: &mut Stage) {
    for mut row in node::frontends("web") {
        row.key.addr = addr("loopback", row.key.addr.family());
        s.world.tables.delete(&Object::Frontend(row).name());
    }
    s.world.publish();
}

/// Both ports, there and back, for a client of the host with an address.
fn serves(s: &mut Stage, client: &str, sport: u16) {
    for _ in 0..2 {
        s.forwards(
            &format!("host: tcp/S {client}:{sport} > loopback:80"),
            &format!("green: tcp/S {client}:{sport} > green:8080"),
        );
        s.forwards(
            &format!("green: tcp/SA green:8080 > {client}:{sport}"),
            &format!("host: tcp/SA loopback:80 > {client}:{sport}"),
        );
        s.forwards(
            &format!("host: udp {client}:{sport} > loopback:53"),
            &format!("green: udp {client}:{sport} > green:5353"),
        );
        s.forwards(
            &format!("green: udp green:5353 > {client}:{sport}"),
            &format!("host: udp loopback:53 > {client}:{sport}"),
        );
    }
}

#[test]
fn the_node_reaches_a_host_port_at_loopback() {
    in_every_world(|s| {
        map_ports(s, |family| addr("loopback", family));
        // The address of the route, and one that the socket is bound to.
        serves(s, "weir0", 4000);
        serves(s, "host", 4001);
    });
}

#[test]
fn so_it_does_where_the_port_is_on_every_address() {
    in_every_world(|s| {
        map_ports(s, |family| Addr::unspecified(family == 4));
        serves(s, "weir0", 4000);
        serves(s, "host", 4001);
        s.forwards("out: tcp/S client:1 > host:80", "green: tcp/S client:1 > green:8080 ttl 63");
        s.drops("blue: tcp/S blue:1 > loopback:80", "loopback");
    });
}

#[test]
fn a_socket_that_is_bound_to_loopback_is_seen_as_weir0() {
    in_every_world(|s| {
        map_ports(s, |family| addr("loopback", family));
        let there = "green: tcp/S weir0:4000 > green:8080";
        s.forwards("host: tcp/S loopback:4000 > loopback:80", there);
        let back = "host: tcp/SA loopback:80 > loopback:4000";
        s.forwards("green: tcp/SA green:8080 > weir0:4000", back);
        let there = "green: udp weir0:4000 > green:5353";
        s.forwards("host: udp loopback:4000 > loopback:53", there);
        let back = "host: udp loopback:53 > loopback:4000";
        s.forwards("green: udp green:5353 > weir0:4000", back);
        // Another client has this port already.
        let text = "host: tcp/S weir0:4000 > loopback:80";
        let port = s.forwards_from(text, "green: tcp/S weir0:* > green:8080");
        let back = "host: tcp/SA loopback:80 > weir0:4000";
        s.forwards(&format!("green: tcp/SA green:8080 > weir0:{port}"), back);
    });
}

#[test]
fn nobody_else_sends_to_loopback_or_from_it() {
    in_every_world(|s| {
        map_ports(s, |family| addr("loopback", family));
        serves(s, "weir0", 4000);
        for (port, client) in [("blue", "blue"), ("out", "client")] {
            for dport in [80, 81] {
                s.drops(&format!("{port}: tcp/S {client}:1 > loopback:{dport}"), "loopback");
                s.drops(&format!("{port}: tcp/S loopback:1 > web:{dport}"), "loopback");
                s.drops(&format!("{port}: tcp/S loopback:1 > host:{dport}"), "loopback");
            }
            s.drops(&format!("{port}: udp {client}:1 > loopback:53"), "loopback");
            s.drops(&format!("{port}: ping {client} > loopback id 3"), "loopback");
            // Not of the flow that is there, either.
            s.drops(&format!("{port}: tcp/A weir0:4000 > loopback:80"), "loopback");
        }
    });
}

#[test]
fn an_error_for_loopback_ends_here_whatever_it_quotes() {
    in_every_world(|s| {
        map_ports(s, |family| addr("loopback", family));
        serves(s, "weir0", 4000);
        for (port, sender, receiver) in [
            ("green", "green", "loopback"),
            ("out", "client", "loopback"),
            ("out", "loopback", "host"),
        ] {
            let frame = unreachable(s, port, sender, receiver, "udp weir0:4000 > green:5353");
            s.raw(port, &frame, &[], "received 1, loopback 1");
        }
        let frame = unreachable(s, "green", "green", "weir0", "udp weir0:4000 > green:5353");
        let code = if s.family == 4 { "3/3" } else { "1/4" };
        let about = "udp weir0:4000 > loopback:53";
        let there = format!("host: unreachable {code} loopback > weir0 about {about}");
        s.raw("green", &frame, &[&there], FORWARDED);
    });
}

/// A port that is unreachable, as `sender` tells `receiver`, by `port`.
fn unreachable(s: &Stage, port: &str, sender: &str, receiver: &str, about: &str) -> Vec<u8> {
    use weir_packet::reply::{IcmpError, write_icmp_error};
    use weir_packet::{Parsed, Translation, parse};
    let (from, to) = arriving_macs(port_of(port));
    let mut frame = Text::parse(about, s.family).frame((to, from));
    let Ok(Parsed::Ip(quoted)) = parse(&frame) else { panic!("an IP packet") };
    frame.resize(2048, 0);
    let own = addr(sender, s.family);
    let len = write_icmp_error(&mut frame, &quoted.headers, IcmpError::PortUnreachable, own);
    frame.truncate(len.expect("an error"));
    let Ok(Parsed::Ip(error)) = parse(&frame) else { panic!("an IP packet") };
    // The receiver is who sent the quoted packet, unless somebody forges it.
    let mut forged = error.key;
    forged.dst = addr(receiver, s.family);
    Translation::between(&error.key, &forged).apply(&mut frame, &error.headers);
    frame
}

#[test]
fn what_the_node_has_there_besides_stays_its_own() {
    in_every_world(|s| {
        map_ports(s, |family| addr("loopback", family));
        for client in ["weir0", "loopback"] {
            let packet = format!("tcp/S {client}:1 > loopback:81");
            s.case(&format!("host: {packet}"), &[&format!("host: {packet}")], PUNTED);
        }
        // A connection between two sockets of the node: the client's port has the number.
        for packet in ["tcp/SA loopback:81 > loopback:80", "tcp/A loopback:81 > loopback:80"] {
            s.case(&format!("host: {packet}"), &[&format!("host: {packet}")], PUNTED);
        }
        s.drops("host: udp loopback:1 > web:53", "loopback");
        s.drops("host: udp loopback:1 > blue:53", "loopback");
        // Of these addresses only one is the interface's own.
        if s.family == 4 {
            let packet = "udp weir0:1 > loopback-2:53";
            s.case(&format!("host: {packet}"), &[&format!("host: {packet}")], PUNTED);
        }
    });
}

#[test]
fn a_host_port_that_goes_leaves_the_port_to_the_node() {
    in_every_world(|s| {
        map_ports(s, |family| addr("loopback", family));
        serves(s, "weir0", 4000);
        unmap_ports(s);
        let told = "received 1, transmitted 1, originated 1, backend_gone 1";
        let reset = "host: tcp/R loopback:80 > weir0:4000";
        s.case("host: tcp/A weir0:4000 > loopback:80", &[reset], told);
        for packet in ["tcp/A weir0:4000 > loopback:80", "udp weir0:4000 > loopback:53"] {
            s.case(&format!("host: {packet}"), &[&format!("host: {packet}")], PUNTED);
        }
    });
}

#[test]
fn the_node_is_admitted_by_every_policy() {
    in_every_world(|s| {
        map_ports(s, |family| addr("loopback", family));
        let deny = Rule {
            tier: 1,
            action: RuleAction::Deny,
            peers: RulePeers::Any,
            ports: Vec::new(),
            origin: "rule".into(),
            log: String::new(),
        };
        let rules = PolicyRules { name: "green".into(), ingress: vec![deny], egress: Vec::new() };
        let object = node::pod("green", s.world.layout.salt, port_of("green"));
        let Object::Endpoint(mut green) = object else { unreachable!() };
        green.policy = Some("green".into());
        s.world.upsert([Object::PolicyRules(rules), Object::Endpoint(green)]);
        s.drops("blue: tcp/S blue:1 > web:80", "policy_denied");
        serves(s, "weir0", 4000);
        let there = "green: tcp/S weir0:4001 > green:8080";
        s.forwards("host: tcp/S loopback:4001 > loopback:80", there);
    });
}
