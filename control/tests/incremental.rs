//! Applying changes one by one gives what computing from scratch gives, whatever their order.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use weir_api::v1::{BackendState, Object as StateObject, Protocol};
use weir_control::desired::{Desired, DesiredKey, NodeSettings};
use weir_control::model::{
    ContainerPort, EndpointSlice, Kind, Name, Node, Object, ObjectKey, Pod, Service, ServicePort,
    SliceEndpoint, SlicePort, TargetPort,
};

#[derive(Debug, Clone)]
enum Step {
    Upsert(Object),
    Remove(ObjectKey),
    Recompute,
}

/// Few names, addresses and labels, so that everything meets everything.
fn name() -> impl Strategy<Value = Name> {
    (0..2_u8, 0..4_u8).prop_map(|(n, i)| Name::new(&format!("ns{n}"), &format!("x{i}")))
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[ab]", "[xy]", 0..3)
}

fn address(base: &'static str) -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 1..5_u8).prop_map(move |(is_v4, i)| {
        let text = if is_v4 { format!("10.{base}.0.{i}") } else { format!("fd00:{base}::{i}") };
        text.parse().unwrap()
    })
}

fn service() -> impl Strategy<Value = Object> {
    let port =
        (80..82_u16, any::<bool>(), any::<bool>()).prop_map(|(l4_port, is_tcp, is_named)| {
            ServicePort {
                name: format!("p{l4_port}"),
                l4_port,
                protocol: if is_tcp { Protocol::Tcp } else { Protocol::Udp },
                target: if is_named {
                    TargetPort::Name("c".into())
                } else {
                    TargetPort::Number(8080)
                },
            }
        });
    let created = proptest::option::of("202[0-3]-01-01T00:00:00Z");
    let addresses = || vec(address("96"), 0..3);
    (name(), created, addresses(), addresses(), vec(port, 0..3), labels(), any::<bool>()).prop_map(
        |(name, created, cluster_ips, load_balancer_ips, mut ports, selector, ready)| {
            ports.sort_by_key(|it| it.l4_port);
            ports.dedup_by_key(|it| it.l4_port);
            Object::Service(Service {
                name,
                origin: None,
                created,
                cluster_ips,
                load_balancer_ips,
                ports,
                selector,
                publish_not_ready: ready,
            })
        },
    )
}

fn slice() -> impl Strategy<Value = Object> {
    let states =
        [BackendState::Active, BackendState::Terminating, BackendState::Maintenance].to_vec();
    let endpoint = (address("0"), proptest::sample::select(states))
        .prop_map(|(address, state)| SliceEndpoint { address, state });
    (name(), 0..4_u8, vec(endpoint, 0..4), 80..82_u16, 1..3_u32).prop_map(
        |(name, service, endpoints, port, weight)| {
            let service = Name::new(&name.namespace, &format!("x{service}"));
            let (name_, protocol) = (format!("p{port}"), Protocol::Tcp);
            let ports = vec![SlicePort { name: name_, protocol, l4_port: 9000 }];
            Object::Slice(EndpointSlice { name, origin: None, service, ports, endpoints, weight })
        },
    )
}

fn pod() -> impl Strategy<Value = Object> {
    (name(), labels(), vec(address("0"), 0..3), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(name, labels, addresses, is_ready, is_terminating, has_port)| {
            let port = ContainerPort { name: "c".into(), protocol: Protocol::Tcp, l4_port: 9090 };
            let ports = has_port.then_some(port).into_iter().collect();
            Object::Pod(Pod {
                name,
                origin: None,
                labels,
                addresses,
                is_ready,
                is_terminating,
                ports,
            })
        })
}

fn node() -> impl Strategy<Value = Object> {
    (0..3_u8, vec(address("1"), 0..3)).prop_map(|(i, addresses)| {
        Object::Node(Node { name: Name::new("", &format!("n{i}")), origin: None, addresses })
    })
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = proptest::sample::select(Kind::ALL.to_vec());
    let remove = (kinds, name()).prop_map(|(kind, mut name)| {
        if kind == Kind::Node {
            name = Name::new("", &name.name.replace('x', "n"));
        }
        Step::Remove(ObjectKey { kind, name })
    });
    prop_oneof![
        3 => service().prop_map(Step::Upsert),
        3 => slice().prop_map(Step::Upsert),
        3 => pod().prop_map(Step::Upsert),
        1 => node().prop_map(Step::Upsert),
        4 => remove,
        4 => Just(Step::Recompute),
    ]
}

fn new_desired() -> Desired {
    let settings = NodeSettings { name: "n1".into(), ..NodeSettings::default() };
    Desired::new(settings)
}

fn apply(receiver: &mut BTreeMap<DesiredKey, StateObject>, desired: &mut Desired) {
    for (key, object) in desired.recompute() {
        match object {
            Some(object) => drop(receiver.insert(key, object)),
            None => drop(receiver.remove(&key)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_from_scratch(steps in vec(step(), 1..60)) {
        let mut model: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut desired = new_desired();
        let mut received = BTreeMap::new();
        for step in steps {
            match step {
                Step::Upsert(object) => {
                    model.insert(object.key(), object.clone());
                    desired.upsert(object);
                }
                Step::Remove(key) => {
                    model.remove(&key);
                    desired.remove(&key);
                }
                Step::Recompute => apply(&mut received, &mut desired),
            }
        }
        apply(&mut received, &mut desired);
        // The other way round, so that the order is shown not to matter.
        let mut scratch = new_desired();
        for object in model.into_values().rev() {
            scratch.upsert(object);
        }
        scratch.recompute();
        prop_assert_eq!(desired.objects(), scratch.objects());
        prop_assert_eq!(&received, scratch.objects(), "the changes do not add up");
        prop_assert_eq!(desired.problems(), scratch.problems());
        prop_assert_eq!(desired.recompute().len(), 0, "a change without a cause");
    }
}
