//! Fragments of translated flows follow their first fragment.

use crate::common::packet::fragment;
use crate::common::variants::{FORWARDED, Stage, in_every_world};

/// Both fragments of a datagram, in order.
fn both(s: &Stage, port: &str, text: &str) -> [Vec<u8>; 2] {
    let whole = s.frame(port, text);
    [fragment(&whole, true), fragment(&whole, false)]
}

#[test]
fn fragments_of_services_go_where_the_first_goes() {
    in_every_world(|s| {
        for (port, client) in [("blue", "blue"), ("out", "client")] {
            for _ in 0..2 {
                let text = format!("udp {client}:4000 > lb:53 len 100");
                let [first, later] = both(s, port, &text);
                let there =
                    format!("green: udp {client}:4000 > green:5353 ttl 63 len 40 fragment First");
                s.raw(port, &first, &[&there], FORWARDED);
                let rest =
                    format!("green: UDP {client} > green ttl 63 len 60 fragment Later damaged");
                s.raw(port, &later, &[&rest], FORWARDED);
                let text = format!("udp green:5353 > {client}:4000 len 100");
                let [first, later] = both(s, "green", &text);
                let back =
                    format!("{port}: udp lb:53 > {client}:4000 ttl 63 len 40 fragment First");
                s.raw("green", &first, &[&back], FORWARDED);
                let rest =
                    format!("{port}: UDP lb > {client} ttl 63 len 60 fragment Later damaged");
                s.raw("green", &later, &[&rest], FORWARDED);
            }
        }
    });
}

#[test]
fn fragments_of_source_translated_flows_too() {
    in_every_world(|s| {
        let [first, later] = both(s, "out", "udp client:4000 > far:53 len 100");
        let frame = s.frame("out", "udp client:4000 > far:53");
        let (sent, _) = s.run(crate::common::node::port_of("out"), &frame);
        let own = sent[0].split(['*', ' ']).nth(2).expect("the source");
        let there = format!("out: udp {own} > remote:5353 ttl 63 len 40 fragment First");
        s.raw("out", &first, &[&there], FORWARDED);
        let rest = "out: UDP host > remote ttl 63 len 60 fragment Later damaged";
        s.raw("out", &later, &[rest], FORWARDED);
        let text = format!("udp remote:5353 > {own} len 100");
        let [first, later] = both(s, "out", &text);
        s.raw(
            "out",
            &first,
            &["out: udp far:53 > client:4000 ttl 63 len 40 fragment First"],
            FORWARDED,
        );
        let rest = "out: UDP far > client ttl 63 len 60 fragment Later damaged";
        s.raw("out", &later, &[rest], FORWARDED);
    });
}

#[test]
fn a_later_fragment_alone_is_dropped_where_it_would_be_translated() {
    in_every_world(|s| {
        for (port, text) in
            [("blue", "udp blue:4000 > web:53 len 100"), ("out", "udp client:4000 > lb:53 len 100")]
        {
            let [first, later] = both(s, port, text);
            s.raw(port, &later, &[], "received 1, fragment_unmatched 1");
            s.run(crate::common::node::port_of(port), &first);
            let (sent, _) = s.run(crate::common::node::port_of(port), &later);
            assert_eq!(sent.len(), 1);
            // Its first fragment is forgotten after a while.
            s.advance_ms(30_000);
            s.raw(port, &later, &[], "received 1, fragment_unmatched 1");
        }
    });
}
