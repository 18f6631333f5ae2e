//! Decisions by hand: one case per way that a first packet can go.

use std::cell::OnceCell;

use proptest::prelude::*;
use weir_packet::{Mac, protocol};
use weir_tables::{
    Algorithm, Backend, BackendAddr, BackendState, Endpoint, Frontend, FrontendType, HostPort,
    MaglevParams, Network, NodeConfig, Object, Prefix, Route, RouteTarget, Tables, Uplink,
};

use super::*;
use crate::flow::flow_flags;

const UPLINK: PortId = PortId(2);
const HERE: PortId = PortId(11);
const THERE: PortId = PortId(12);

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn frontend(text: &str, set: &str) -> Object {
    Object::Frontend(Frontend::new(
        FrontendKey { addr: addr(text), l4_port: 80, protocol: protocol::TCP },
        &format!("default/{set}"),
        FrontendType::LoadBalancer,
        set,
    ))
}

fn backends(name: &str, addresses: &[&str]) -> Object {
    let row = |text: &&str| Backend {
        addr: BackendAddr { addr: addr(text), l4_port: 8080 },
        state: BackendState::Active,
        weight: 100,
        node: None,
    };
    Object::BackendSet {
        name: name.into(),
        protocol: protocol::TCP,
        algorithm: Algorithm::Hash,
        backends: addresses.iter().map(row).collect(),
    }
}

/// Two workers: the pod 10.0.0.1 is at worker 0, 10.0.0.2 at worker 1.
fn tables() -> Tables {
    let mut tables = Tables::new(2);
    let node = NodeConfig {
        maglev: MaglevParams::new(251, &[]).expect("a size that exists"),
        ..NodeConfig::default()
    };
    tables.upsert(Object::Node(node)).expect("accepted");
    for (port, text, worker) in [(HERE, "10.0.0.1", 0), (THERE, "10.0.0.2", 1)] {
        let placed = (0..64).any(|salt| {
            let name = format!("default/pod-{worker}-{salt}");
            let mac = Mac([2, 0, 0, 0, 0, port.0 as u8]);
            let pod = Endpoint::new(&name, port, mac, vec![addr(text)]);
            tables.upsert(Object::Endpoint(pod)).expect("accepted");
            let is_right = tables.endpoint(&name).expect("there").1 == WorkerId(worker);
            if !is_right {
                tables.delete(&weir_tables::ObjectRef::Endpoint(name));
            }
            is_right
        });
        assert!(placed, "one name of 64 falls to either worker");
    }
    for object in [
        frontend("10.96.0.1", "here"),
        backends("here", &["10.0.0.1"]),
        frontend("10.96.0.2", "there"),
        backends("there", &["10.0.0.2"]),
        frontend("10.96.0.3", "away"),
        backends("away", &["10.1.0.9"]),
        frontend("10.96.0.4", "unknown"),
    ] {
        tables.upsert(object).expect("accepted");
    }
    tables.set_network(network());
    tables
}

fn network() -> Network {
    let route = |text: &str, length, target| Route {
        prefix: Prefix::new(addr(text), length).expect("a prefix"),
        target,
        metric: 0,
    };
    let via = RouteTarget::Uplink { port: UPLINK, gateway: Some(addr("192.0.2.1")) };
    let on_link = RouteTarget::Uplink { port: UPLINK, gateway: None };
    Network {
        host: Some(HostPort { port: PortId(9), mac: Mac([2, 0, 0, 0, 0, 9]), mtu: 1500 }),
        uplinks: vec![Uplink { port: UPLINK, mac: Mac([2, 0, 0, 0, 0, 2]), mtu: 1500 }],
        addresses: vec![addr("192.0.2.10")],
        uplink_addresses: vec![addr("192.0.2.10")],
        other_macs: Vec::new(),
        routes: vec![
            route("0.0.0.0", 0, via),
            route("192.0.2.0", 24, on_link),
            route("172.17.0.0", 16, RouteTarget::Kernel),
            route("100.64.0.0", 10, RouteTarget::Unreachable),
        ],
        neighbours: [(NextHop { port: UPLINK, addr: addr("192.0.2.1") }, Mac([6; 6]))].into(),
    }
}

thread_local! {
    static SNAPSHOT: OnceCell<Snapshot> = const { OnceCell::new() };
}

fn snapshot() -> Snapshot {
    SNAPSHOT.with(|cell| cell.get_or_init(|| tables().snapshot()).clone())
}

fn tcp(src: &str, dst: &str, sport: u16, dport: u16) -> FlowKey {
    let protocol = protocol::TCP;
    FlowKey { src: addr(src), dst: addr(dst), sport, dport, protocol, family: 4, zone: 0 }
}

fn at(port: PortId, stage: Stage, me: u8) -> Facts {
    let me = WorkerId(me);
    let sender = Addr::UNSPECIFIED;
    let (is_whole, is_opening) = (true, true);
    Facts { port, stage, me, workers: 2, is_whole, is_opening, sender, pinned: None }
}

fn decide(key: &FlowKey, facts: &Facts) -> Result<Decision, Refusal> {
    classify(key, &Facts { sender: key.src, ..*facts }, &snapshot())
}

fn decided(key: &FlowKey, facts: &Facts) -> (Decision, Answers) {
    let decision = decide(key, facts).expect("a decision");
    (decision, decision.answers.expect("both directions"))
}

#[test]
fn a_pods_flow_is_translated_at_the_pods_worker() {
    let key = tcp("10.0.0.1", "10.96.0.2", 4000, 80);
    let (decision, reverse) = decided(&key, &at(HERE, Stage::Arrived, 0));
    assert_eq!(decision.forward.action, Action::Deliver { worker: WorkerId(1) });
    assert_eq!(decision.forward.out_port, THERE.0);
    assert_eq!(decision.forward.flags, flow_flags::TO_SERVICE);
    assert_eq!(decision.to, tcp("10.0.0.1", "10.0.0.2", 4000, 8080));
    assert_eq!((decision.from, decision.source_port), (key, SourcePort::Own));
    assert_eq!(reverse.in_port, THERE);
    assert!(matches!(reverse.half.action, Action::Transmit { .. }));
    assert_eq!(reverse.half.out_port, HERE.0);
}

#[test]
fn the_receiving_worker_adds_its_half_and_translates_nothing() {
    let key = tcp("10.0.0.1", "10.0.0.2", 4000, 8080);
    let (decision, reverse) = decided(&key, &at(HERE, Stage::Deliver, 1));
    assert!(matches!(decision.forward.action, Action::Transmit { .. }));
    assert_eq!(decision.to, key);
    assert_eq!(reverse.half.action, Action::Deliver { worker: WorkerId(0) });
    // Nor does it look up a service that has the very address of the backend.
    let mut tables = tables();
    let Object::Frontend(mut odd) = frontend("10.0.0.2", "here") else { unreachable!() };
    odd.key.l4_port = 8080;
    tables.upsert(Object::Frontend(odd)).expect("accepted");
    let again = classify(&key, &at(HERE, Stage::Deliver, 1), &tables.snapshot());
    assert_eq!(again.expect("a decision").to, key);
}

#[test]
fn a_pod_that_reaches_itself_hears_from_the_gateway() {
    let key = tcp("10.0.0.1", "10.96.0.1", 4000, 80);
    let (decision, _) = decided(&key, &at(HERE, Stage::Arrived, 0));
    assert_eq!(decision.to, tcp("169.254.1.1", "10.0.0.1", 4000, 8080));
}

/// A client port for which a flow from outside has this director.
fn directed_to(worker: u8, dst: &str) -> FlowKey {
    let key = |sport| tcp("198.51.100.7", dst, sport, 80);
    let mut keys = (4000..4100).map(key);
    keys.find(|key| service::director(key, false, 2) == WorkerId(worker)).expect("one of a hundred")
}

#[test]
fn the_outside_goes_to_its_director_who_chooses_and_to_the_pod_who_translates() {
    let key = directed_to(1, "10.96.0.1");
    let arrived = decide(&key, &at(PortId::UPLINK, Stage::Arrived, 0)).expect("a decision");
    assert_eq!(arrived.forward.action, Action::Direct { worker: WorkerId(1) });
    assert_eq!((arrived.to, arrived.answers), (key, None));
    let directed = decide(&key, &at(PortId::UPLINK, Stage::Direct, 1)).expect("a decision");
    assert_eq!(directed.forward.action, Action::Chosen { worker: WorkerId(0) });
    assert_eq!(directed.answers, None);
    let backend = BackendAddr { addr: addr("10.0.0.1"), l4_port: 8080 };
    let (chosen, reverse) = decided(&key, &at(PortId::UPLINK, Stage::Chosen { backend }, 0));
    assert_eq!((chosen.to.dst, chosen.to.dport), (backend.addr, backend.l4_port));
    assert!(matches!(chosen.forward.action, Action::Transmit { .. }));
    assert_eq!(reverse.in_port, HERE);
    assert!(matches!(reverse.half.action, Action::Transmit { .. }), "straight to the uplink");
    // A director that has the pod itself does all of it.
    let key = directed_to(0, "10.96.0.1");
    let (own, _) = decided(&key, &at(PortId::UPLINK, Stage::Arrived, 0));
    assert!(matches!(own.forward.action, Action::Transmit { .. }));
}

#[test]
fn answers_to_the_host_go_by_the_worker_that_translates_for_it() {
    let key = tcp("192.0.2.10", "10.96.0.2", 50000, 80);
    let (decision, reverse) = decided(&key, &at(PortId::HOST, Stage::Arrived, 0));
    assert_eq!(decision.forward.action, Action::Deliver { worker: WorkerId(1) });
    assert!(matches!(reverse.half.action, Action::Transmit { .. }));
    let (_, reverse) = decided(&decision.to, &at(PortId::HOST, Stage::Deliver, 1));
    assert_eq!(reverse.half.action, Action::Deliver { worker: HOST_WORKER });
}

#[test]
fn routes_lead_to_the_uplink_the_kernel_or_nowhere() {
    let from_pod = |dst: &str| {
        let key = tcp("10.0.0.1", dst, 4000, 80);
        decide(&key, &at(HERE, Stage::Arrived, 0))
    };
    let world = from_pod("198.51.100.7").expect("a decision");
    assert!(matches!(world.forward.action, Action::Transmit { .. }));
    assert_eq!(world.answers.expect("both").in_port, PortId::UPLINK);
    let near = from_pod("192.0.2.77").expect("a decision");
    assert_eq!(near.unresolved, Some(NextHop { port: UPLINK, addr: addr("192.0.2.77") }));
    assert!(matches!(near.forward.action, Action::ToKernel { .. }));
    assert_eq!(near.answers.expect("both").in_port, PortId::UPLINK);
    let kernel = from_pod("172.17.0.2").expect("a decision");
    assert!(matches!(kernel.forward.action, Action::ToKernel { .. }));
    assert_eq!(kernel.answers.expect("both").in_port, PortId::HOST);
    assert_eq!(from_pod("100.64.0.1"), Err(Refusal::Tell(Drop::NoRoute)));
    assert_eq!(from_pod("169.254.1.1"), Err(Refusal::Drop(Drop::LinkLocal)));
}

#[test]
fn every_refusal_has_its_reason() {
    let arrived = |port, me| at(port, Stage::Arrived, me);
    let spoofed = Err(Refusal::Drop(Drop::SourceSpoofed));
    let rows = [
        (tcp("10.0.0.2", "8.8.8.8", 1, 2), arrived(HERE, 0), spoofed),
        (tcp("10.0.0.1", "10.0.0.2", 1, 2), arrived(PortId::UPLINK, 0), spoofed),
        (tcp("192.0.2.10", "10.0.0.2", 1, 2), arrived(PortId::UPLINK, 0), spoofed),
        (
            tcp("10.0.0.1", "8.8.8.8", 1, 2),
            arrived(PortId(77), 0),
            Err(Refusal::Drop(Drop::NoEndpoint)),
        ),
        (
            tcp("10.0.0.1", "10.96.0.1", 1, 81),
            arrived(HERE, 0),
            Err(Refusal::Tell(Drop::NoFrontend)),
        ),
        (
            tcp("10.0.0.1", "10.96.0.4", 1, 80),
            arrived(HERE, 0),
            Err(Refusal::Tell(Drop::NoBackend)),
        ),
        (
            tcp("192.0.2.10", "8.8.8.8", 1, 2),
            arrived(PortId::HOST, 0),
            Err(Refusal::Drop(Drop::NoRoute)),
        ),
        (tcp("8.8.8.8", "192.0.2.10", 1, 2), arrived(PortId::UPLINK, 0), Err(Refusal::Punt)),
    ];
    for (key, facts, refusal) in rows {
        assert_eq!(decide(&key, &facts), refusal, "{key} {facts:?}");
    }
    let fragment = Facts { is_whole: false, ..arrived(HERE, 0) };
    for dport in [80, 0] {
        let key = tcp("10.0.0.1", "10.96.0.2", 0, dport);
        let refusal = Err(Refusal::Drop(Drop::FragmentUnmatched));
        assert_eq!(decide(&key, &fragment), refusal);
    }
    let mut ping = tcp("10.0.0.1", "10.96.0.2", 0, 0);
    ping.protocol = protocol::ICMP;
    assert_eq!(decide(&ping, &arrived(HERE, 0)), Err(Refusal::Echo));
    let error = Facts { is_whole: false, ..arrived(HERE, 0) };
    assert_eq!(decide(&ping, &error), Err(Refusal::Drop(Drop::NoFrontend)));
}

proptest! {
    /// Whatever comes in, at any stage: no panic, and a reverse that undoes the forward direction.
    #[test]
    fn the_reverse_undoes_the_forward_direction(
        src in 0..8_usize,
        dst in 0..8_usize,
        ports in (1..4_u16, prop_oneof![Just(80_u16), Just(8080), Just(0)]),
        port in prop_oneof![Just(HERE), Just(THERE), Just(PortId::UPLINK), Just(PortId::HOST)],
        stage in 0..4_usize,
        me in 0..2_u8,
        is_whole in any::<bool>(),
    ) {
        let ends = ["10.0.0.1", "10.0.0.2", "10.96.0.1", "10.96.0.2", "10.96.0.3", "192.0.2.10",
            "198.51.100.7", "169.254.1.1"];
        let key = tcp(ends[src], ends[dst], ports.0, ports.1);
        let backend = BackendAddr { addr: addr("10.0.0.2"), l4_port: 8080 };
        let stage =
            [Stage::Arrived, Stage::Deliver, Stage::Direct, Stage::Chosen { backend }][stage];
        let facts = Facts { is_whole, ..at(port, stage, me) };
        if let Ok(decision) = decide(&key, &facts) {
            prop_assert_eq!(decision.from, key);
            prop_assert_eq!(decision.to.family, key.family);
            let keeps = decision.source_port == SourcePort::Own;
            prop_assert!(!keeps || decision.to.sport == key.sport);
            let is_translated = decision.to != key;
            let is_elsewhere = matches!(decision.forward.action, Action::Chosen { .. });
            prop_assert!(!is_translated || is_elsewhere || decision.answers.is_some());
        }
    }
}

#[test]
fn a_backend_elsewhere_sees_the_node_unless_a_pod_asks() {
    let away = |src: &str, port, me| {
        decided(&tcp(src, "10.96.0.3", 4000, 80), &at(port, Stage::Direct, me))
    };
    let (pod, _) = away("10.0.0.1", HERE, 0);
    assert_eq!((pod.to.src, pod.source_port), (addr("10.0.0.1"), SourcePort::Own));
    for (src, port) in [("192.0.2.10", PortId::HOST), ("198.51.100.7", PortId::UPLINK)] {
        let (decision, answers) = away(src, port, 0);
        assert_eq!(
            (decision.to.src, decision.source_port),
            (addr("192.0.2.10"), SourcePort::Allocated)
        );
        assert_eq!(decision.to.dst, addr("10.1.0.9"));
        assert_eq!(answers.in_port, PortId::UPLINK);
    }
}

#[test]
fn answers_to_the_node_go_to_the_worker_of_their_port() {
    let from_world = |dport| {
        let key = tcp("10.1.0.9", "192.0.2.10", 8080, dport);
        decide(&key, &at(PortId::UPLINK, Stage::Arrived, 0))
    };
    assert_eq!(from_world(49152), Err(Refusal::Punt), "mine, and nobody's flow");
    let other = from_world(65535).expect("a decision");
    assert_eq!(other.forward.action, Action::Direct { worker: WorkerId(1) });
    assert!(other.is_stateless);
    assert_eq!(from_world(49151), Err(Refusal::Punt), "not in the range");
}
