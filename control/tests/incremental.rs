//! Applying changes one by one gives what computing from scratch gives, whatever their order.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use weir_api::v1::{BackendState, Endpoint, Object as StateObject, Protocol, object};
use weir_control::desired::{Desired, DesiredKey, NodeSettings};
use weir_control::model::{
    ContainerPort, EndpointSlice, Family, Hints, HostPort, Kind, Name, Node, NodeFilter, Object,
    ObjectKey, Pod, Proximity, Service, ServicePolicy, ServicePort, SliceEndpoint, SlicePort,
    TargetPort, ZONE_LABEL,
};

#[derive(Debug, Clone)]
enum Step {
    Upsert(Box<Object>),
    Remove(ObjectKey),
    Attach(Name),
    Detach(Name),
    Recompute,
}

fn upsert(object: Object) -> Step {
    Step::Upsert(Box::new(object))
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

fn port() -> impl Strategy<Value = ServicePort> {
    let node_port = proptest::option::of(29_999..30_002_u16);
    (80..82_u16, any::<bool>(), any::<bool>(), node_port).prop_map(
        |(l4_port, is_tcp, is_named, node_port)| ServicePort {
            name: format!("p{l4_port}"),
            l4_port,
            protocol: if is_tcp { Protocol::Tcp } else { Protocol::Udp },
            target: match is_named {
                true => TargetPort::Name("c".into()),
                false => TargetPort::Number(8080),
            },
            node_port,
        },
    )
}

fn policy() -> impl Strategy<Value = ServicePolicy> {
    let proximities = vec![None, Some(Proximity::SameZone), Some(Proximity::SameNode)];
    let filters = vec![
        NodeFilter::All,
        NodeFilter::Name("n1".into()),
        NodeFilter::Name("n2".into()),
        NodeFilter::Labels("a=x".parse().unwrap()),
    ];
    let health_check_port = proptest::option::of(31_000..31_002_u16);
    let (proximity, nodes) =
        (proptest::sample::select(proximities), proptest::sample::select(filters));
    (proximity, nodes, health_check_port, any::<bool>(), any::<bool>()).prop_map(
        |(proximity, nodes, health_check_port, is_internal_local, is_external_local)| {
            ServicePolicy {
                is_internal_local,
                is_external_local,
                proximity,
                nodes,
                health_check_port,
                ..ServicePolicy::default()
            }
        },
    )
}

fn service() -> impl Strategy<Value = Object> {
    let created = proptest::option::of("202[0-3]-01-01T00:00:00Z");
    let addresses = || vec(address("96"), 0..3);
    let addresses = (addresses(), addresses(), addresses());
    let families = vec![vec![Family::V4], Family::ALL.to_vec()];
    let families = proptest::sample::select(families);
    let classes = vec![None, None, Some("weir.dev/l2".to_owned()), Some("other".to_owned())];
    let kinds = (families, proptest::sample::select(classes));
    (name(), created, addresses, vec(port(), 0..3), labels(), any::<bool>(), policy(), kinds)
        .prop_map(|(name, created, addresses, mut ports, selector, ready, policy, kinds)| {
            let (families, class) = kinds;
            ports.sort_by_key(|it| it.l4_port);
            ports.dedup_by_key(|it| it.l4_port);
            let (cluster_ips, load_balancer_ips, external_ips) = addresses;
            Object::Service(Service {
                name,
                origin: None,
                labels: BTreeMap::new(),
                created,
                cluster_ips,
                load_balancer_ips,
                load_balancer_class: class,
                external_ips,
                ports,
                node_port_families: families,
                selector,
                publish_not_ready: ready,
                policy,
            })
        })
}

/// Names of nodes; the first is this one.
fn node_name() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("n[12]")
}

fn slice() -> impl Strategy<Value = Object> {
    let states =
        [BackendState::Active, BackendState::Terminating, BackendState::Maintenance].to_vec();
    let zone = proptest::option::of("z[12]");
    let hints =
        (vec("z[12]", 0..2), vec("n[12]", 0..2)).prop_map(|(zones, nodes)| Hints { zones, nodes });
    let endpoint = (address("0"), proptest::sample::select(states), node_name(), zone, hints)
        .prop_map(|(address, state, node, zone, hints)| SliceEndpoint {
            address,
            state,
            node,
            zone,
            hints,
        });
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
    let host_ips = vec![None, Some("0.0.0.0".parse().unwrap()), Some("10.96.0.1".parse().unwrap())];
    let host_port =
        (proptest::sample::select(host_ips), 80..82_u16, 29_999..30_001_u16, any::<bool>())
            .prop_map(|(host_ip, low, high, is_low)| HostPort {
                host_ip,
                l4_port: if is_low { low } else { high },
                protocol: Protocol::Tcp,
                container_port: 9090,
            });
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    let host_ports = vec(host_port, 0..2);
    (name(), labels(), vec(address("0"), 0..3), conditions, node_name(), host_ports).prop_map(
        |(name, labels, addresses, (is_ready, is_terminating, has_port), node, host_ports)| {
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
                created: None,
                node,
                host_ports,
                service_account: "default".into(),
                is_host_network: false,
                is_policy_audited: false,
            })
        },
    )
}

fn node() -> impl Strategy<Value = Object> {
    let zone = proptest::option::of("z[12]");
    let pod_range = proptest::option::of("10\\.[01]\\.0\\.0/16");
    let conditions = (proptest::bool::weighted(0.8), proptest::bool::weighted(0.2));
    (1..3_u8, vec(address("1"), 0..3), any::<bool>(), labels(), zone, pod_range, conditions)
        .prop_map(|(i, addresses, is_internal, mut labels, zone, pod_range, conditions)| {
            labels.extend(zone.map(|it| (ZONE_LABEL.to_owned(), it)));
            Object::Node(Node {
                name: Name::new("", &format!("n{i}")),
                origin: None,
                internal_addresses: if is_internal { addresses.clone() } else { Vec::new() },
                addresses,
                labels,
                pod_ranges: pod_range.iter().map(|it| it.parse().unwrap()).collect(),
                is_ready: conditions.0,
                is_deleting: conditions.1,
            })
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
        3 => service().prop_map(upsert),
        3 => slice().prop_map(upsert),
        3 => pod().prop_map(upsert),
        3 => node().prop_map(upsert),
        1 => name().prop_map(Step::Attach),
        1 => name().prop_map(Step::Detach),
        4 => remove,
        4 => Just(Step::Recompute),
    ]
}

fn new_desired() -> Desired {
    let settings = NodeSettings { name: "n1".into(), announce_l2: true, ..NodeSettings::default() };
    Desired::new(settings)
}

fn endpoint(name: &Name) -> Endpoint {
    Endpoint { name: name.to_string(), ..Endpoint::default() }
}

fn health_checks(desired: &Desired) -> Vec<(u16, Name, u32)> {
    desired.health_checks().map(|(port, name, count)| (port, name.clone(), count)).collect()
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
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_from_scratch(steps in vec(step(), 1..60)) {
        let mut model: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut attached = BTreeSet::new();
        let mut desired = new_desired();
        let mut received = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Recompute]) {
            match step {
                Step::Upsert(object) => {
                    model.insert(object.key(), (*object).clone());
                    desired.upsert(*object);
                }
                Step::Remove(key) => {
                    model.remove(&key);
                    desired.remove(&key);
                }
                Step::Attach(name) => {
                    desired.put_endpoint(endpoint(&name));
                    attached.insert(name);
                }
                Step::Detach(name) => {
                    desired.remove_endpoint(&name.to_string());
                    attached.remove(&name);
                }
                Step::Recompute => {
                    apply(&mut received, &mut desired);
                    let scratch = compute_from_scratch(&model, &attached);
                    prop_assert_eq!(desired.objects(), &received, "the changes do not add up");
                    let (ours, theirs) = (desired.objects(), scratch.objects());
                    prop_assert_eq!(without_numbers(ours), without_numbers(theirs));
                    prop_assert_eq!(desired.problems(), scratch.problems());
                    prop_assert_eq!(health_checks(&desired), health_checks(&scratch));
                }
            }
        }
        prop_assert_eq!(desired.recompute().len(), 0, "a change without a cause");
    }
}

/// Without the objects of policy, whose numbers depend on the order in which things came: what they
/// mean is compared in `policy_state`.
fn without_numbers(
    objects: &BTreeMap<DesiredKey, StateObject>,
) -> BTreeMap<DesiredKey, StateObject> {
    let mut objects = objects.clone();
    objects.retain(|key, _| {
        !matches!(
            key,
            DesiredKey::Identity(_)
                | DesiredKey::CidrSelector(_)
                | DesiredKey::PeerAddress(..)
                | DesiredKey::PolicyRules(_)
        )
    });
    for object in objects.values_mut() {
        if let Some(object::Kind::Endpoint(endpoint)) = &mut object.kind {
            endpoint.identity = 0;
            endpoint.policy_rules.clear();
        }
    }
    objects
}

/// The other way round, so that the order is shown not to matter.
fn compute_from_scratch(model: &BTreeMap<ObjectKey, Object>, attached: &BTreeSet<Name>) -> Desired {
    let mut scratch = new_desired();
    for object in model.values().rev() {
        scratch.upsert(object.clone());
    }
    for name in attached.iter().rev() {
        scratch.put_endpoint(endpoint(name));
    }
    scratch.recompute();
    scratch
}
