//! What `Tables` accepts, refuses and shows to workers.

use super::*;
use crate::network::{HostPort, NextHop, Prefix, Route, RouteTarget, Uplink};
use crate::rows::{FrontendKey, FrontendType};
use crate::{BackendAddr, BackendState, Egress};
use weir_packet::Mac;

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn endpoint(name: &str, port: u32, addresses: &[&str]) -> Object {
    let addresses = addresses.iter().map(|text| addr(text)).collect();
    let mac = Mac([2, 0, 0, 0, 0, port as u8]);
    Object::Endpoint(Endpoint::new(name, PortId(port), mac, addresses))
}

fn frontend(text: &str, set: &str) -> Object {
    Object::Frontend(Frontend::new(
        FrontendKey { addr: addr(text), l4_port: 80, protocol: 6 },
        "default/web",
        FrontendType::ClusterIp,
        set,
    ))
}

fn backends(addresses: &[&str]) -> Object {
    let backend = |text: &&str| Backend {
        addr: BackendAddr { addr: addr(text), l4_port: 8080 },
        state: BackendState::Active,
        weight: 100,
        node: None,
    };
    Object::BackendSet {
        name: "set".into(),
        protocol: 6,
        algorithm: Algorithm::Maglev,
        backends: addresses.iter().map(backend).collect(),
    }
}

#[test]
fn a_frontend_finds_its_backends_whatever_came_first() {
    let mut tables = Tables::new(1);
    tables.upsert(frontend("10.96.0.1", "set")).expect("accepted");
    let key = FrontendKey { addr: addr("10.96.0.1"), l4_port: 80, protocol: 6 };
    let before = tables.snapshot();
    let row = before.frontend(&key).expect("there");
    assert!(before.backends_of(row, false).is_none());
    tables.upsert(backends(&["10.0.0.1"])).expect("accepted");
    let after = tables.snapshot();
    assert_eq!(after.backends_of(row, false).map(|set| set.backends().len()), Some(1));
    assert!(before.backends_of(row, false).is_none(), "a snapshot never changes");
    assert_eq!((before.revision(), after.revision()), (1, 2));
}

#[test]
fn an_address_is_a_service_while_any_frontend_has_it() {
    let mut tables = Tables::new(1);
    let key = |l4_port| FrontendKey { addr: addr("10.96.0.1"), l4_port, protocol: 6 };
    for l4_port in [80, 443] {
        let Object::Frontend(mut row) = frontend("10.96.0.1", "set") else { unreachable!() };
        row.key = key(l4_port);
        tables.upsert(Object::Frontend(row.clone())).expect("accepted");
        tables.upsert(Object::Frontend(row)).expect("the same again");
    }
    tables.delete(&ObjectRef::Frontend(key(80)));
    assert!(tables.snapshot().is_service_addr(&addr("10.96.0.1")));
    tables.delete(&ObjectRef::Frontend(key(443)));
    tables.delete(&ObjectRef::Frontend(key(443)));
    assert!(!tables.snapshot().is_service_addr(&addr("10.96.0.1")));
}

#[test]
fn endpoints_move_and_conflicts_are_refused_by_name() {
    let mut tables = Tables::new(2);
    tables.upsert(endpoint("a/one", 5, &["10.0.0.1", "fd00::1"])).expect("accepted");
    let refused = tables.upsert(endpoint("a/two", 6, &["10.0.0.1"])).expect_err("address taken");
    assert_eq!(
        refused.to_string(),
        "10.0.0.1 is already the address of a/one: remove one of the two"
    );
    let refused = tables.upsert(endpoint("a/two", 5, &["10.0.0.2"])).expect_err("port taken");
    assert!(refused.to_string().contains("a/one"), "{refused}");
    assert!(tables.upsert(endpoint("a/two", 6, &[])).is_err());
    assert!(tables.upsert(endpoint("a/two", 6, &["224.0.0.1"])).is_err());

    tables.upsert(endpoint("a/one", 7, &["10.0.0.9"])).expect("moved");
    let snapshot = tables.snapshot();
    assert_eq!(snapshot.resolve(&addr("10.0.0.1")), Egress::NoRoute);
    assert!(matches!(snapshot.resolve(&addr("10.0.0.9")), Egress::Pod { port: PortId(7), .. }));
    assert!(snapshot.endpoint_at(PortId(5)).is_none());
}

#[test]
fn bad_backends_are_refused_whole() {
    let mut tables = Tables::new(1);
    for wrong in [&["10.0.0.1", "fd00::1"][..], &["10.0.0.1", "10.0.0.1"], &["0.0.0.0"]] {
        assert!(tables.upsert(backends(wrong)).is_err(), "{wrong:?}");
    }
    assert_eq!(tables.snapshot().backend_sets_len(), 0);
}

#[test]
fn destinations_resolve_by_pod_then_host_then_route() {
    let mut tables = Tables::new(1);
    tables.upsert(endpoint("a/one", 5, &["10.0.0.1"])).expect("accepted");
    let uplink = Uplink { port: PortId(2), mac: Mac([2; 6]), mtu: 1500 };
    let gateway = NextHop { port: PortId(2), addr: addr("192.0.2.1") };
    let via = RouteTarget::Uplink { port: PortId(2), gateway: Some(gateway.addr) };
    let route = |text: &str, length, target| Route {
        prefix: Prefix::new(addr(text), length).expect("a prefix"),
        target,
        metric: 0,
    };
    let network = Network {
        host: Some(HostPort { port: PortId(9), mac: Mac([4; 6]), mtu: 1500 }),
        uplinks: vec![uplink],
        addresses: vec![addr("192.0.2.10")],
        uplink_addresses: Vec::new(),
        other_macs: Vec::new(),
        routes: vec![
            route("0.0.0.0", 0, via),
            route("192.0.2.0", 24, RouteTarget::Uplink { port: PortId(2), gateway: None }),
            route("172.17.0.0", 16, RouteTarget::Kernel),
            route("10.96.0.0", 12, RouteTarget::Unreachable),
        ],
        neighbours: [(gateway, Mac([6; 6]))].into(),
    };
    assert!(tables.set_network(network.clone()));
    assert!(!tables.set_network(network), "nothing new");
    let snapshot = tables.snapshot();
    let resolve = |text: &str| snapshot.resolve(&addr(text));
    assert!(matches!(resolve("10.0.0.1"), Egress::Pod { .. }));
    assert!(matches!(resolve("192.0.2.10"), Egress::Host { .. }));
    let Egress::Uplink { adjacency } = resolve("8.8.8.8") else { panic!("by the gateway") };
    assert_eq!(snapshot.adjacency(adjacency).map(|row| row.dst_mac), Some(Mac([6; 6])));
    let hop = NextHop { port: PortId(2), addr: addr("192.0.2.77") };
    assert_eq!(resolve("192.0.2.77"), Egress::Unresolved(hop));
    assert_eq!(resolve("172.17.0.2"), Egress::Kernel);
    assert_eq!(resolve("10.96.0.1"), Egress::NoRoute);
}

#[test]
fn a_resync_can_name_what_is_left_over() {
    let mut tables = Tables::new(1);
    tables.upsert(frontend("10.96.0.1", "set")).expect("accepted");
    tables.upsert(backends(&["10.0.0.1"])).expect("accepted");
    tables.upsert(endpoint("a/one", 5, &["10.0.0.1"])).expect("accepted");
    for name in tables.names() {
        tables.delete(&name);
    }
    assert!(tables.names().is_empty());
}
