//! What the fuzzers have found worth keeping, replayed through the same functions.

#[allow(dead_code, reason = "the binaries of the fuzz package use the rest")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Runs a target over its corpus, smallest name first.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{}: a corpus has seeds", corpus.display());
    for file in files {
        println!("{}", file.display());
        run(&std::fs::read(&file).expect("readable"));
    }
}

#[test]
fn parser() {
    replay("parser", targets::parser);
}

#[test]
fn pipeline() {
    replay("pipeline", targets::pipeline);
}

#[test]
fn state_protocol() {
    replay("state_protocol", targets::state_protocol);
}

#[test]
fn aaa_write_seeds() {
    use prost::Message as _;
    use targets::common::{node, packet};
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for target in ["parser", "pipeline", "state_protocol"] {
        std::fs::create_dir_all(dir.join(target)).unwrap();
    }
    let mut frames = vec![];
    let texts = [("blue", "udp blue:4000 > web:53"), ("out", "tcp/S client:4000 > lb:80"), ("green", "tcp/AS green:8080 > client:4000"),
        ("host", "tcp/A host:50000 > web:80"), ("blue", "ping blue > lb id 7"), ("out", "udp client:53 > blue:4000"), ("blue", "udp blue:4000 > own:53"), ("blue", "tcp/AF blue:4000 > empty:80"), ("blue", "udp blue:1 > near:2"), ("red", "udp red:5353 > blue:4000")];
    for family in [4, 6] {
        for (port, text) in texts {
            frames.push((port, packet::arriving(node::port_of(port), text, family)));
        }
        let whole = packet::arriving(node::port_of("blue"), "udp blue:4000 > web:53 len 100", family);
        frames.push(("blue", packet::fragment(&whole, true)));
        frames.push(("blue", packet::fragment(&whole, false)));
    }
    let mut arp = vec![0xff; 6]; arp.extend(node::pod_mac(weir_tables::PortId(11)).0); arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]); arp.extend(node::pod_mac(weir_tables::PortId(11)).0); arp.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    frames.push(("blue", arp));
    for (at, (_, frame)) in frames.iter().enumerate() {
        std::fs::write(dir.join(format!("parser/seed-{at:02}")), frame).unwrap();
    }
    let kind = |port: &str| match port { "out" => 0u8, "host" => 2, "blue" => 4, "green" => 5, "red" => 6, _ => 7 };
    for start in 0..6u8 {
        let mut steps = vec![start * 17];
        for (at, (port, frame)) in frames.iter().enumerate() {
            if at % 3 != usize::from(start) % 3 { continue; }
            steps.extend([kind(port), 0, frame.len() as u8]);
            steps.extend(frame);
            if at % 5 == 0 { steps.extend([192 + (at as u8 / 5) * 3 + start, 6, at as u8]); }
            steps.extend([kind(port), 9, frame.len() as u8]);
            steps.extend(frame);
        }
        std::fs::write(dir.join(format!("pipeline/seed-{start}")), steps).unwrap();
    }
    let full = targets::state::resync();
    std::fs::write(dir.join("state_protocol/seed-0"), full.encode_to_vec()).unwrap();
    for (at, object) in full.upserts.iter().enumerate() {
        let update = weir_api::v1::Update { revision: 5, resync: at == 0, upserts: vec![object.clone()], deletes: object.reference().into_iter().collect() };
        std::fs::write(dir.join(format!("state_protocol/seed-{}", at + 1)), update.encode_to_vec()).unwrap();
    }
    let pod = weir_api::v1::Endpoint { name: "default/a".into(), interface: "veth1".into(), ifindex: 7, mac: vec![2, 0, 0, 0, 0, 1], addresses: vec![vec![10, 0, 0, 1], vec![0xfd; 16]], failure_mode: 1 };
    let mut other = pod.clone(); other.name = "default/b".into();
    let object = |pod| weir_api::v1::Object { kind: Some(weir_api::v1::object::Kind::Endpoint(pod)) };
    let update = weir_api::v1::Update { revision: 5, resync: false, upserts: vec![object(pod), object(other)], deletes: vec![] };
    std::fs::write(dir.join("state_protocol/seed-4"), update.encode_to_vec()).unwrap();
}
