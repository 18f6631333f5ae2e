//! Services: who translates, and what both sides see.

use crate::common::node;
use crate::common::variants::in_every_world;

#[test]
fn a_pod_reaches_a_service_and_hears_from_its_address() {
    in_every_world(|s| {
        for _ in 0..2 {
            s.forwards("blue: udp blue:4000 > web:53", "green: udp blue:4000 > green:5353 ttl 63");
            s.forwards("green: udp green:5353 > blue:4000", "blue: udp web:53 > blue:4000 ttl 63");
        }
        s.forwards("red: tcp/S red:4000 > web:80", "green: tcp/S red:4000 > green:8080 ttl 63");
        s.forwards("green: tcp/SA green:8080 > red:4000", "red: tcp/SA web:80 > red:4000 ttl 63");
        s.forwards("red: tcp/A red:4000 > web:80", "green: tcp/A red:4000 > green:8080 ttl 63");
    });
}

#[test]
fn a_flow_to_the_backend_itself_stays_apart() {
    in_every_world(|s| {
        s.forwards("blue: udp blue:4000 > web:53", "green: udp blue:4000 > green:5353 ttl 63");
        s.forwards("blue: udp blue:4001 > green:5353", "green: udp blue:4001 > green:5353 ttl 63");
        s.forwards("green: udp green:5353 > blue:4001", "blue: udp green:5353 > blue:4001 ttl 63");
        s.forwards("green: udp green:5353 > blue:4000", "blue: udp web:53 > blue:4000 ttl 63");
        // The same tuple twice could not be told apart on the way back: the newcomer gets another
        // source port, and nobody notices.
        for (service, answer) in [("web", "web"), ("lb", "lb")] {
            let port = s.forwards_from(
                &format!("blue: udp blue:4001 > {service}:53"),
                "green: udp blue:* > green:5353 ttl 63",
            );
            s.forwards(
                &format!("green: udp green:5353 > blue:{port}"),
                &format!("blue: udp {answer}:53 > blue:4001 ttl 63"),
            );
        }
        s.forwards("green: udp green:5353 > blue:4001", "blue: udp green:5353 > blue:4001 ttl 63");
    });
}

#[test]
fn the_outside_reaches_a_load_balancer_on_any_queue() {
    in_every_world(|s| {
        let workers = s.world.layout.queues.clone();
        for sport in 4000..4010 {
            let opening = format!("out: tcp/S client:{sport} > lb:80");
            let opened = format!("green: tcp/S client:{sport} > green:8080 ttl 63");
            s.forwards(&opening, &opened);
            // A retransmission changes nothing.
            s.forwards(&opening, &opened);
            s.forwards(
                &format!("green: tcp/SA green:8080 > client:{sport}"),
                &format!("out: tcp/SA lb:80 > client:{sport} ttl 63"),
            );
            let frame = s.frame("out", &format!("tcp/A client:{sport} > lb:80"));
            for worker in workers.iter().chain(&workers) {
                s.world.inject_at_queue(*worker, &frame);
                s.world.settle();
            }
            let sent = s.world.take_sent();
            assert_eq!(sent.len(), workers.len() * 2);
            assert!(sent.iter().all(|packet| *packet == sent[0]));
            s.recount();
        }
        s.forwards("out: udp client:4000 > lb:53", "green: udp client:4000 > green:5353 ttl 63");
        s.forwards("green: udp green:5353 > client:4000", "out: udp lb:53 > client:4000 ttl 63");
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    in_every_world(|s| {
        for _ in 0..2 {
            s.forwards("blue: udp blue:4000 > own:53", "blue: udp hairpin:4000 > blue:5353 ttl 63");
            s.forwards("blue: udp blue:5353 > hairpin:4000", "blue: udp own:53 > blue:4000 ttl 63");
        }
        s.forwards("blue: tcp/S blue:4000 > own:80", "blue: tcp/S hairpin:4000 > blue:8080 ttl 63");
        s.forwards(
            "blue: tcp/SA blue:8080 > hairpin:4000",
            "blue: tcp/SA own:80 > blue:4000 ttl 63",
        );
        // Another pod reaches the same backend with its own address.
        s.forwards("green: udp green:4000 > own:53", "blue: udp green:4000 > blue:5353 ttl 63");
        s.forwards("blue: udp blue:5353 > green:4000", "green: udp own:53 > green:4000 ttl 63");
    });
}

#[test]
fn the_host_reaches_services_also_after_a_change() {
    in_every_world(|s| {
        s.forwards("host: tcp/S host:50000 > web:80", "green: tcp/S host:50000 > green:8080");
        for _ in 0..3 {
            s.forwards("green: tcp/SA green:8080 > host:50000", "host: tcp/SA web:80 > host:50000");
            s.forwards("host: tcp/A host:50000 > web:80", "green: tcp/A host:50000 > green:8080");
            // Any new snapshot: every entry is judged again.
            s.world.publish();
        }
    });
}

#[test]
fn a_backends_address_is_not_looked_up_again() {
    in_every_world(|s| {
        // A service on the very address and port that another one's backend has.
        let Some(mut odd) = node::frontends("pair")
            .into_iter()
            .find(|row| row.key.l4_port == 53 && row.key.addr == node::addr("pair", s.family))
        else {
            panic!("there is one")
        };
        odd.key.addr = node::addr("green", s.family);
        odd.key.l4_port = 5353;
        s.world.upsert([weir_tables::Object::Frontend(odd)]);
        s.set_backends("pair", &[("red", weir_tables::BackendState::Active)]);
        s.forwards("grey: udp grey:1 > green:5353", "red: udp grey:1 > red:5353 ttl 63");
        s.forwards("blue: udp blue:4000 > web:53", "green: udp blue:4000 > green:5353 ttl 63");
        s.forwards("green: udp green:5353 > blue:4000", "blue: udp web:53 > blue:4000 ttl 63");
    });
}

#[test]
fn a_service_of_the_kernels_side_answers_from_its_address() {
    in_every_world(|s| {
        s.set_backends("web", &[("docker", weir_tables::BackendState::Active)]);
        for _ in 0..2 {
            s.forwards("blue: udp blue:4000 > web:53", "host: udp blue:4000 > docker:5353");
            s.forwards("host: udp docker:5353 > blue:4000", "blue: udp web:53 > blue:4000");
        }
    });
}

#[test]
fn a_closed_connection_is_chosen_anew_by_the_next_syn() {
    use weir_tables::BackendState::{Active, Terminating};
    in_every_world(|s| {
        for (client, port) in [("blue", "blue"), ("client", "out")] {
            if port == "out" && s.world.layout.workers > 1 {
                // The director may not have seen the end, where the pod's worker receives the flow.
                continue;
            }
            let ttl = " ttl 63";
            s.set_backends("pair", &[("green", Active)]);
            let to = |flags: &str| format!("{port}: tcp/{flags} {client}:4000 > pair:80");
            let at = |pod: &str, flags: &str| {
                format!("{pod}: tcp/{flags} {client}:4000 > {pod}:8080{ttl}")
            };
            let answer = |pod: &str, flags: &str| {
                (
                    format!("{pod}: tcp/{flags} {pod}:8080 > {client}:4000"),
                    format!("{port}: tcp/{flags} pair:80 > {client}:4000{ttl}"),
                )
            };
            s.forwards(&to("S"), &at("green", "S"));
            let (packet, expected) = answer("green", "SA");
            s.forwards(&packet, &expected);
            s.set_backends("pair", &[("green", Terminating), ("red", Active)]);
            s.forwards(&to("A"), &at("green", "A"));
            s.forwards(&to("AF"), &at("green", "AF"));
            let (packet, expected) = answer("green", "AF");
            s.forwards(&packet, &expected);
            s.forwards(&to("A"), &at("green", "A"));
            s.forwards(&to("S"), &at("red", "S"));
            let (packet, expected) = answer("red", "SA");
            s.forwards(&packet, &expected);
            s.forwards(&to("A"), &at("red", "A"));
        }
    });
}

#[test]
fn an_idle_connection_keeps_its_backend_for_hours() {
    use weir_tables::BackendState::{Active, Terminating};
    in_every_world(|s| {
        s.set_backends("pair", &[("green", Active)]);
        s.forwards(
            "out: tcp/S client:4000 > pair:80",
            "green: tcp/S client:4000 > green:8080 ttl 63",
        );
        s.forwards(
            "green: tcp/SA green:8080 > client:4000",
            "out: tcp/SA pair:80 > client:4000 ttl 63",
        );
        s.forwards(
            "out: tcp/A client:4000 > pair:80",
            "green: tcp/A client:4000 > green:8080 ttl 63",
        );
        s.set_backends("pair", &[("green", Terminating), ("red", Active)]);
        for _ in 0..3 {
            s.advance_ms(7_200_000);
            s.forwards(
                "out: tcp/A client:4000 > pair:80",
                "green: tcp/A client:4000 > green:8080 ttl 63",
            );
        }
    });
}

#[test]
fn the_last_packet_of_a_connection_and_the_syn_of_the_next_may_come_in_one_burst() {
    use weir_tables::BackendState::{Active, Terminating};
    in_every_world(|s| {
        s.set_backends("pair", &[("green", Active)]);
        let to = |flags: &str| format!("tcp/{flags} blue:4000 > pair:80");
        s.forwards(&format!("blue: {}", to("S")), "green: tcp/S blue:4000 > green:8080 ttl 63");
        s.forwards("green: tcp/R green:8080 > blue:4000", "blue: tcp/R pair:80 > blue:4000 ttl 63");
        s.set_backends("pair", &[("green", Terminating), ("red", Active)]);
        for flags in ["A", "S"] {
            let frame = s.frame("blue", &to(flags));
            s.world.inject(node::port_of("blue"), &frame);
        }
        s.world.settle();
        s.recount();
        let sent = s.world.take_sent();
        let mut sent: Vec<_> = sent.iter().map(|(port, _)| node::port_name(*port)).collect();
        sent.sort();
        assert_eq!(sent, ["green", "red"]);
    });
}
