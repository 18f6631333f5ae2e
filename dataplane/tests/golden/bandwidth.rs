//! Limits of what a pod may send and receive.

use weir_tables::{Bandwidth, Endpoint, Object, Rate};

use crate::common::node::port_of;
use crate::common::variants::{FORWARDED, Stage, in_every_world};

/// Two packets of 1000 bytes or a little more at once, and two more each 21 ms.
const RATE: Rate = Rate { bytes_per_s: 100_000, burst_bytes: 2100 };
const REFILL_MS: u64 = 21;
const TOO_MUCH: &str = "received 1, bandwidth 1";

fn limit(s: &mut Stage, pod: &str, bandwidth: Bandwidth) {
    let snapshot = s.world.snapshot();
    let endpoint = snapshot.endpoint_at(port_of(pod)).expect("attached").clone();
    s.world.upsert([Object::Endpoint(Endpoint { bandwidth, ..endpoint })]);
}

/// How many of four packets of a pod to another arrive.
fn arrived(s: &mut Stage, from: &str, to: &str) -> usize {
    let frame = s.frame(from, &format!("udp {from}:4000 > {to}:53 len 972"));
    let results: Vec<_> = (0..4).map(|_| s.run(port_of(from), &frame)).collect();
    let is_through = |(sent, counts): &&(Vec<String>, String)| {
        let is_through = counts == FORWARDED;
        assert_eq!(sent.len(), usize::from(is_through), "{sent:?} {counts}");
        assert!(is_through || counts == TOO_MUCH, "{counts}");
        is_through
    };
    results.iter().filter(is_through).count()
}

#[test]
fn a_pod_sends_and_receives_no_more_than_its_limits() {
    in_every_world(|s| {
        assert_eq!(arrived(s, "blue", "green"), 4, "without limits");
        limit(s, "blue", Bandwidth { egress: Some(RATE), ..Bandwidth::default() });
        assert_eq!(arrived(s, "blue", "green"), 2, "what blue sends");
        assert_eq!(arrived(s, "green", "blue"), 4, "but not what it receives");
        s.advance_ms(REFILL_MS);
        assert_eq!(arrived(s, "blue", "red"), 2, "whomever it sends to");

        limit(s, "green", Bandwidth { ingress: Some(RATE), ..Bandwidth::default() });
        assert_eq!(arrived(s, "red", "green"), 2, "what green receives");
        assert_eq!(arrived(s, "grey", "green"), 0, "whoever sends it");
        assert_eq!(arrived(s, "green", "red"), 4, "but not what it sends");

        limit(s, "blue", Bandwidth::default());
        limit(s, "green", Bandwidth::default());
        assert_eq!(arrived(s, "blue", "green"), 4, "without limits again");
    });
}
