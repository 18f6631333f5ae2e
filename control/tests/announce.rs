//! Which node answers for a load balancer's address: alike on all of them, and with few moves.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "a test that takes time says how much")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_api::v1::{BackendState, Protocol, object};
use weir_control::desired::{Desired, DesiredKey, NodeSettings};
use weir_control::model::{
    EndpointSlice, Family, Hints, Name, Node, Object, Service, ServicePolicy, ServicePort,
    SliceEndpoint, SlicePort, TargetPort,
};

const ADDRESSES: u16 = 1000;

fn address(i: u16) -> IpAddr {
    IpAddr::from([192, 0, (i >> 8) as u8, i as u8])
}

fn node(name: &str) -> Node {
    Node {
        name: Name::new("", name),
        origin: None,
        addresses: Vec::new(),
        internal_addresses: Vec::new(),
        labels: BTreeMap::new(),
        pod_ranges: Vec::new(),
        is_ready: true,
        is_deleting: false,
    }
}

fn service(i: u16) -> Service {
    Service {
        name: Name::new("default", &format!("s{i}")),
        origin: None,
        labels: BTreeMap::new(),
        created: None,
        cluster_ips: Vec::new(),
        load_balancer_ips: vec![address(i)],
        load_balancer_class: None,
        external_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            l4_port: 80,
            protocol: Protocol::Tcp,
            target: TargetPort::Number(8080),
            node_port: None,
        }],
        node_port_families: vec![Family::V4],
        selector: BTreeMap::new(),
        publish_not_ready: false,
        policy: ServicePolicy::default(),
    }
}

/// The state as the agent of `own` computes it.
fn desired(own: &str, nodes: &[&str]) -> Desired {
    let settings = NodeSettings { name: own.into(), announce_l2: true, ..NodeSettings::default() };
    let mut desired = Desired::new(settings);
    for name in nodes {
        desired.upsert(Object::Node(node(name)));
    }
    for i in 0..ADDRESSES {
        desired.upsert(Object::Service(service(i)));
    }
    desired.recompute();
    desired
}

fn winners(desired: &Desired) -> BTreeMap<IpAddr, String> {
    let addresses = (0..ADDRESSES).map(address);
    addresses.filter_map(|it| Some((it, desired.announcer(it)?.to_owned()))).collect()
}

fn announced(desired: &Desired) -> usize {
    let Some(object::Kind::Node(node)) = &desired.objects()[&DesiredKey::Node].kind else {
        panic!("no node")
    };
    node.announced.len()
}

fn count_moves(old: &BTreeMap<IpAddr, String>, new: &BTreeMap<IpAddr, String>) -> usize {
    old.iter().filter(|(address, node)| new.get(address) != Some(node)).count()
}

#[test]
fn all_agents_agree_and_every_address_has_one_node() {
    let names = ["n1", "n2", "n3", "n4"];
    let all: Vec<Desired> = names.iter().map(|own| desired(own, &names)).collect();
    let first = winners(&all[0]);
    assert_eq!(first.len(), usize::from(ADDRESSES));
    assert!(all.iter().all(|it| winners(it) == first));
    let counts: Vec<usize> = all.iter().map(announced).collect();
    assert_eq!(counts.iter().sum::<usize>(), usize::from(ADDRESSES));
    assert!(counts.iter().all(|it| (200..300).contains(it)), "{counts:?}");
    // It stays as it is between releases: nodes of two of them are in one cluster.
    assert_eq!(first[&address(0)], FIRST_WINNER);
}

const FIRST_WINNER: &str = "n1";

#[test]
fn a_node_that_comes_takes_its_share_and_no_other_address_moves() {
    let mut desired = desired("n1", &["n1", "n2", "n3", "n4"]);
    let before = winners(&desired);
    desired.upsert(Object::Node(node("n5")));
    desired.recompute();
    let after = winners(&desired);
    let moves = count_moves(&before, &after);
    assert!((150..250).contains(&moves), "{moves} of 1000 to the fifth node");
    let to_new = after.values().filter(|it| *it == "n5").count();
    assert_eq!(to_new, moves, "all to the new one");
}

#[test]
fn addresses_of_a_node_that_fails_go_to_the_others_and_come_back() {
    let mut desired = desired("n1", &["n1", "n2", "n3"]);
    let before = winners(&desired);
    let of_n2: BTreeSet<IpAddr> =
        before.iter().filter(|(_, it)| *it == "n2").map(|(address, _)| *address).collect();
    for unfit in [
        Node { is_ready: false, ..node("n2") },
        Node { is_deleting: true, ..node("n2") },
        Node {
            labels: [(
                "node.kubernetes.io/exclude-from-external-load-balancers".to_owned(),
                String::new(),
            )]
            .into(),
            ..node("n2")
        },
    ] {
        desired.upsert(Object::Node(unfit));
        desired.recompute();
        let after = winners(&desired);
        assert_eq!(count_moves(&before, &after), of_n2.len());
        assert!(after.values().all(|it| it != "n2"));
        desired.upsert(Object::Node(node("n2")));
        desired.recompute();
        assert_eq!(winners(&desired), before);
    }
    // Rather perhaps nobody than certainly nobody.
    for name in ["n1", "n2", "n3"] {
        desired.upsert(Object::Node(Node { is_ready: false, ..node(name) }));
    }
    desired.recompute();
    assert_eq!(winners(&desired), before);
}

#[test]
fn a_local_service_is_answered_for_where_its_endpoints_are() {
    let mut desired = desired("n1", &["n1", "n2", "n3"]);
    let mut local = service(7);
    local.policy.is_external_local = true;
    desired.upsert(Object::Service(local.clone()));
    desired.recompute();
    assert_eq!(desired.announcer(address(7)), None, "no endpoint");
    let mut put = |states: [(BackendState, &str); 2]| {
        let endpoint = |(state, node): (BackendState, &str)| SliceEndpoint {
            address: "10.0.0.1".parse().unwrap(),
            state,
            node: Some(node.into()),
            zone: None,
            hints: Hints::default(),
        };
        let slices = states.into_iter().enumerate().map(|(i, it)| EndpointSlice {
            name: Name::new("default", &format!("s7-{i}")),
            origin: None,
            service: local.name.clone(),
            ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, l4_port: 8080 }],
            endpoints: vec![SliceEndpoint {
                address: IpAddr::from([10, 0, 0, i as u8 + 1]),
                ..endpoint(it)
            }],
            weight: 100,
        });
        for slice in slices {
            desired.upsert(Object::Slice(slice));
        }
        desired.recompute();
        desired.announcer(address(7)).map(str::to_owned)
    };
    let active = BackendState::Active;
    assert_eq!(put([(active, "n2"), (active, "n2")]).as_deref(), Some("n2"));
    let draining = BackendState::Terminating;
    assert_eq!(put([(draining, "n2"), (active, "n3")]).as_deref(), Some("n3"));
    assert_eq!(put([(draining, "n2"), (draining, "n2")]).as_deref(), Some("n2"));
    assert_eq!(put([(BackendState::Maintenance, "n2"), (BackendState::Maintenance, "n3")]), None);
}

#[test]
fn what_is_somebody_elses_is_left_to_them() {
    let mut desired = desired("n1", &["n1", "n2"]);
    let mut theirs = service(7);
    theirs.load_balancer_class = Some("example.com/cloud".into());
    desired.upsert(Object::Service(theirs.clone()));
    desired.recompute();
    assert_eq!(desired.announcer(address(7)), None);
    theirs.load_balancer_class = Some("weir.dev/l2".into());
    desired.upsert(Object::Service(theirs));
    desired.recompute();
    assert!(desired.announcer(address(7)).is_some());
    let off = Desired::new(NodeSettings { name: "n1".into(), ..NodeSettings::default() });
    assert_eq!(off.announcer(address(7)), None);

    // Beside another provider, whose services name no class.
    let settings = NodeSettings { needs_load_balancer_class: true, ..desired.settings().clone() };
    let mut beside = Desired::new(settings);
    for (i, class) in [None, Some("example.com/cloud"), Some("weir.dev/l2")].into_iter().enumerate()
    {
        let class = class.map(str::to_owned);
        let service = Service { load_balancer_class: class, ..service(i as u16) };
        beside.upsert(Object::Service(service));
    }
    beside.recompute();
    assert_eq!([0, 1, 2].map(|i| beside.announcer(address(i)).is_some()), [false, false, true]);
}

#[test]
fn one_service_among_ten_thousand_costs_little() {
    let settings = NodeSettings { name: "n0".into(), announce_l2: true, ..NodeSettings::default() };
    let mut desired = Desired::new(settings);
    for i in 0..100 {
        desired.upsert(Object::Node(node(&format!("n{i}"))));
    }
    for i in 0..10_000 {
        desired.upsert(Object::Service(service(i)));
    }
    let start = std::time::Instant::now();
    desired.recompute();
    let all = start.elapsed();
    let mut one = service(77);
    one.load_balancer_ips = vec!["198.51.100.1".parse().unwrap()];
    desired.upsert(Object::Service(one));
    let start = std::time::Instant::now();
    desired.recompute();
    let one = start.elapsed();
    desired.upsert(Object::Node(Node { is_ready: false, ..node("n50") }));
    let start = std::time::Instant::now();
    desired.recompute();
    let node = start.elapsed();
    println!("10,000 addresses, 100 nodes: all {all:?}, one {one:?}, after a node {node:?}");
    assert!(one.as_millis() < 50, "{one:?}");
}
