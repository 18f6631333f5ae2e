//! ICMP errors: they follow the flow of the packet that they quote, and are translated with it.

use weir_packet::reply::{IcmpError, write_icmp_error};
use weir_packet::{Parsed, parse};

use crate::common::node::{addr, arriving_macs, port_of};
use crate::common::packet::Text;
use crate::common::variants::{FORWARDED, Stage, in_every_world};

/// What `router` says, by `port`, of a packet that it could not forward.
fn error(s: &Stage, port: &str, router: &str, about: &str) -> Vec<u8> {
    // The packet as the router has it: whoever sent it, it came from this node.
    let (from, to) = arriving_macs(port_of(port));
    let frame = Text::parse(about, s.family).frame((to, from));
    let Ok(Parsed::Ip(packet)) = parse(&frame) else { panic!("an IP packet") };
    let mut buffer = frame;
    buffer.resize(2048, 0);
    let source = addr(router, s.family);
    let error = IcmpError::TooBig { mtu: 1400 };
    let len = write_icmp_error(&mut buffer, &packet.headers, error, source).expect("an error");
    buffer.truncate(len);
    buffer
}

fn code(s: &Stage) -> &'static str {
    if s.family == 4 { "3/4" } else { "2/0" }
}

#[test]
fn errors_about_answers_of_a_service_reach_its_backend() {
    in_every_world(|s| {
        s.forwards(
            "out: tcp/S client:4000 > lb:80",
            "green: tcp/S client:4000 > green:8080 ttl 63",
        );
        s.forwards(
            "green: tcp/SA green:8080 > client:4000",
            "out: tcp/SA lb:80 > client:4000 ttl 63",
        );
        for router in ["router", "client"] {
            let frame = error(s, "out", router, "tcp/A lb:80 > client:4000 len 100");
            let about = "tcp/A green:8080 > client:4000";
            let there =
                format!("green: unreachable {} {router} > green about {about} ttl 63", code(s));
            s.raw("out", &frame, &[&there], FORWARDED);
        }
        // Nobody's flow: chosen as its packets would be, and forgotten again.
        let frame = error(s, "out", "router", "tcp/A lb:80 > client:4999 len 100");
        let about = "tcp/A green:8080 > client:4999";
        let there = format!("green: unreachable {} router > green about {about} ttl 63", code(s));
        let flows =
            |s: &Stage| -> u32 { s.world.workers.iter().map(|worker| worker.flows().len()).sum() };
        let before = flows(s);
        s.raw("out", &frame, &[&there], FORWARDED);
        assert!(flows(s) <= before + 1, "at most the way to the director");
    });
}

#[test]
fn errors_about_requests_of_a_pod_name_the_service() {
    in_every_world(|s| {
        s.forwards("blue: udp blue:4000 > far:53", "out: udp blue:4000 > remote:5353 ttl 63");
        // As from the service, whoever said it: so do answers come.
        for (router, named) in [("router", "far"), ("remote", "far")] {
            let frame = error(s, "out", router, "udp blue:4000 > remote:5353 len 100");
            let about = "udp blue:4000 > far:53";
            let there =
                format!("blue: unreachable {} {named} > blue about {about} ttl 63", code(s));
            s.raw("out", &frame, &[&there], FORWARDED);
        }
        // A backend of this node refuses: as from the service.
        s.forwards("blue: udp blue:4000 > web:53", "green: udp blue:4000 > green:5353 ttl 63");
        let frame = error(s, "green", "green", "udp blue:4000 > green:5353");
        let about = "udp blue:4000 > web:53";
        let there = format!("blue: unreachable {} web > blue about {about} ttl 63", code(s));
        s.raw("green", &frame, &[&there], FORWARDED);
    });
}

#[test]
fn errors_about_source_translated_packets_find_their_client() {
    in_every_world(|s| {
        for (port, client, ttl) in [("out", "client", " ttl 63"), ("host", "host", "")] {
            let ask = format!("{port}: udp {client}:4000 > far:53");
            let own = s.forwards_from(&ask, &format!("out: udp host:* > remote:5353{ttl}"));
            let frame = error(s, "out", "router", &format!("udp host:{own} > remote:5353 len 100"));
            let about = format!("udp {client}:4000 > far:53");
            let there =
                format!("{port}: unreachable {} far > {client} about {about}{ttl}", code(s));
            s.raw("out", &frame, &[&there], FORWARDED);
        }
        // Of a port of the range that is nobody's: the host's.
        let frame = error(s, "out", "router", "udp host:65000 > remote:9 len 100");
        let about = "udp host:65000 > remote:9";
        let there = format!("host: unreachable {} router > host about {about}", code(s));
        s.raw("out", &frame, &[&there], "received 1, transmitted 1, punted 1");
    });
}

#[test]
fn errors_are_believed_only_from_where_the_flow_passes() {
    in_every_world(|s| {
        s.forwards("blue: udp blue:4000 > web:53", "green: udp blue:4000 > green:5353 ttl 63");
        let frame = error(s, "red", "red", "udp blue:4000 > green:5353");
        s.raw("red", &frame, &[], "received 1, icmp_unrelated 1");
        let frame = error(s, "green", "red", "udp blue:4000 > green:5353");
        s.raw("green", &frame, &[], "received 1, source_spoofed 1");
    });
}
