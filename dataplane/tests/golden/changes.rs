//! What becomes of flows when pods and backends come and go.

use weir_tables::BackendState::{Active, Maintenance, Terminating};
use weir_tables::PortId;

use crate::common::node;
use crate::common::variants::{Stage, in_every_world};

const TOLD: &str = "received 1, transmitted 1, originated 1, backend_gone 1";

/// A connection of `client`, which comes in by `port`, to `pair`; the pod that answers.
fn open(s: &mut Stage, port: &str, client: &str, sport: u16) -> &'static str {
    let frame = s.frame(port, &format!("tcp/S {client}:{sport} > pair:80"));
    let (sent, _) = s.run(node::port_of(port), &frame);
    let pod = if sent[0].starts_with("green") { "green" } else { "red" };
    s.forwards(
        &format!("{pod}: tcp/SA {pod}:8080 > {client}:{sport}"),
        &format!("{port}: tcp/SA pair:80 > {client}:{sport} ttl 63"),
    );
    keeps(s, port, client, sport, pod);
    pod
}

/// An established connection goes on at its pod.
#[track_caller]
fn keeps(s: &mut Stage, port: &str, client: &str, sport: u16, pod: &str) {
    s.forwards(
        &format!("{port}: tcp/A {client}:{sport} > pair:80"),
        &format!("{pod}: tcp/A {client}:{sport} > {pod}:8080 ttl 63"),
    );
}

#[test]
fn a_deleted_backend_resets_its_connections_and_no_others() {
    in_every_world(|s| {
        for (port, client) in [("blue", "blue"), ("out", "client")] {
            s.set_backends("pair", &[("green", Active), ("red", Active)]);
            let flows: Vec<_> =
                (4000..4008).map(|sport| (sport, open(s, port, client, sport))).collect();
            assert!(flows.iter().any(|flow| flow.1 == "red"), "{flows:?}");
            assert!(flows.iter().any(|flow| flow.1 == "green"), "{flows:?}");
            s.set_backends("pair", &[("green", Active)]);
            for (sport, pod) in flows {
                if pod == "green" {
                    keeps(s, port, client, sport, pod);
                    continue;
                }
                let reset = format!("{port}: tcp/R pair:80 > {client}:{sport}");
                s.case(&format!("{port}: tcp/A {client}:{sport} > pair:80"), &[&reset], TOLD);
                // A new attempt on the same port finds the other backend.
                let green = format!("green: tcp/S {client}:{sport} > green:8080 ttl 63");
                s.forwards(&format!("{port}: tcp/S {client}:{sport} > pair:80"), &green);
            }
        }
    });
}

#[test]
fn an_answer_of_a_deleted_backend_ends_the_connection_on_both_sides() {
    in_every_world(|s| {
        for (port, client) in [("blue", "blue"), ("out", "client")] {
            s.set_backends("pair", &[("red", Active)]);
            open(s, port, client, 4000);
            s.set_backends("pair", &[("green", Active)]);
            let answer = format!("red: tcp/A red:8080 > {client}:4000 len 700");
            // The client may only receive: it would wait for ever.
            let end = format!("{port}: tcp/AR pair:80 > {client}:4000 ttl 63");
            s.case(&answer, &[&end], TOLD);
            let reset = format!("red: tcp/R {client}:4000 > red:8080");
            s.case(&answer, &[&reset], TOLD);
        }
    });
}

#[test]
fn datagrams_move_to_another_backend_at_once() {
    in_every_world(|s| {
        for (port, client) in [("blue", "blue"), ("out", "client")] {
            let asks = format!("{port}: udp {client}:4000 > pair:53");
            for (pod, other) in [("green", "red"), ("red", "green"), ("green", "red")] {
                s.set_backends("pair", &[(pod, Active)]);
                for _ in 0..2 {
                    s.forwards(&asks, &format!("{pod}: udp {client}:4000 > {pod}:5353 ttl 63"));
                }
                s.forwards(
                    &format!("{pod}: udp {pod}:5353 > {client}:4000"),
                    &format!("{port}: udp pair:53 > {client}:4000 ttl 63"),
                );
                // A second backend does not move the flow.
                s.set_backends("pair", &[(pod, Active), (other, Active)]);
                s.forwards(&asks, &format!("{pod}: udp {client}:4000 > {pod}:5353 ttl 63"));
            }
        }
    });
}

#[test]
fn a_terminating_backend_keeps_its_flows_and_gets_no_new_ones() {
    in_every_world(|s| {
        for state in [Terminating, Maintenance] {
            for (port, client, sport) in [("blue", "blue", 4100), ("out", "client", 4200)] {
                s.set_backends("pair", &[("green", Active)]);
                let sport = sport + u16::from(state == Maintenance);
                open(s, port, client, sport);
                s.set_backends("pair", &[("green", state), ("red", Active)]);
                keeps(s, port, client, sport, "green");
                assert_eq!(open(s, port, client, sport + 50), "red");
                keeps(s, port, client, sport, "green");
            }
        }
    });
}

#[test]
fn a_deleted_service_refuses_and_its_connections_are_reset() {
    in_every_world(|s| {
        for (port, client) in [("blue", "blue"), ("out", "client")] {
            if port == "out" && s.world.layout.queues.len() > 1 {
                // A worker that has never met the flow would punt: nobody has the address any more.
                continue;
            }
            s.world.upsert(node::frontends("pair").into_iter().map(weir_tables::Object::Frontend));
            s.set_backends("pair", &[("green", Active)]);
            open(s, port, client, 4000);
            s.delete_service("pair");
            let reset = format!("{port}: tcp/R pair:80 > {client}:4000");
            s.case(&format!("{port}: tcp/A {client}:4000 > pair:80"), &[&reset], TOLD);
        }
        // Nobody has the address any more: from outside it is the kernel's business.
        let punted = "received 1, transmitted 1, punted 1";
        s.case("out: tcp/S client:1 > pair:80", &["host: tcp/S client:1 > pair:80"], punted);
    });
}

#[test]
fn a_pod_at_a_used_address_starts_with_no_flows() {
    in_every_world(|s| {
        s.forwards(
            "out: tcp/S client:4000 > lb:80",
            "green: tcp/S client:4000 > green:8080 ttl 63",
        );
        s.forwards("blue: udp blue:4000 > green:53", "green: udp blue:4000 > green:53 ttl 63");
        s.forwards("green: udp green:53 > blue:4000", "blue: udp green:53 > blue:4000 ttl 63");
        let before = s.world.counters().transmitted;
        s.delete_pod("green");
        let salt = s.world.layout.salt + 100;
        let port = PortId(42);
        s.world.upsert([node::pod("green", salt, port)]);
        let mac = (node::pod_mac(port), weir_dataplane::pipeline::GATEWAY_MAC);
        let frame = |text| crate::common::packet::Text::parse(text, s.family).frame(mac);
        let (answer, from_old) = (frame("udp green:53 > blue:4000"), PortId(12));
        // The old port has no pod any more; the new one sends and receives.
        assert_eq!(s.run(from_old, &answer), (vec![], "received 1, no_endpoint 1".into()));
        let sent = s.run(port, &answer).0;
        assert_eq!(sent, ["blue: udp green:53 > blue:4000 ttl 63"]);
        s.recount();
        s.forwards("blue: udp blue:4000 > green:53", "if42: udp blue:4000 > green:53 ttl 63");
        s.forwards("out: tcp/S client:4000 > lb:80", "if42: tcp/S client:4000 > green:8080 ttl 63");
        assert!(s.world.counters().transmitted > before);
    });
}

#[test]
fn flows_to_a_pod_that_is_gone_are_refused() {
    in_every_world(|s| {
        s.forwards("blue: udp blue:4000 > green:53", "green: udp blue:4000 > green:53 ttl 63");
        s.delete_pod("green");
        // The default route leads out: another node may have the address.
        s.forwards("blue: udp blue:4000 > green:53", "out: udp blue:4000 > green:53 ttl 63");
        s.drops("green: udp green:53 > blue:4000", "no_endpoint");
    });
}

#[test]
fn a_service_address_that_becomes_a_pods_is_the_pods() {
    in_every_world(|s| {
        let text = "out: tcp/S client:4000 > pair:80";
        s.set_backends("pair", &[("green", Active)]);
        s.forwards(text, "green: tcp/S client:4000 > green:8080 ttl 63");
        s.delete_service("pair");
        s.world.upsert([node::pod("pair", s.world.layout.salt, PortId(43))]);
        s.forwards(text, "if43: tcp/S client:4000 > pair:80 ttl 63");
        s.forwards("blue: udp blue:1 > pair:53", "if43: udp blue:1 > pair:53 ttl 63");
    });
}

#[test]
fn flows_expire_and_the_next_packet_is_a_first_one() {
    in_every_world(|s| {
        s.set_backends("pair", &[("green", Active)]);
        s.forwards("out: udp client:4000 > pair:53", "green: udp client:4000 > green:5353 ttl 63");
        s.set_backends("pair", &[("green", Terminating), ("red", Active)]);
        s.forwards("out: udp client:4000 > pair:53", "green: udp client:4000 > green:5353 ttl 63");
        s.advance_ms(60_000);
        s.forwards("out: udp client:4000 > pair:53", "red: udp client:4000 > red:5353 ttl 63");
    });
}

#[test]
fn a_flow_that_is_older_than_its_service_moves_to_it_at_once() {
    in_every_world(|s| {
        s.delete_service("lb");
        s.forwards("blue: udp blue:4000 > lb:53", "out: udp blue:4000 > lb:53 ttl 63");
        let rows = node::frontends("lb").into_iter().map(weir_tables::Object::Frontend);
        s.world.upsert(rows);
        s.forwards("blue: udp blue:4000 > lb:53", "green: udp blue:4000 > green:5353 ttl 63");
        s.forwards("green: udp green:5353 > blue:4000", "blue: udp lb:53 > blue:4000 ttl 63");
    });
}

#[test]
fn answers_that_the_kernel_received_belong_to_their_flow() {
    in_every_world(|s| {
        s.forwards("blue: udp blue:4000 > far:53", "out: udp blue:4000 > remote:5353 ttl 63");
        // By an interface that is no uplink: the kernel routes it into the pod's veth.
        s.forwards("host: udp remote:5353 > blue:4000", "blue: udp far:53 > blue:4000");
        s.forwards("blue: udp blue:4000 > far:53", "out: udp blue:4000 > remote:5353 ttl 63");
    });
}
