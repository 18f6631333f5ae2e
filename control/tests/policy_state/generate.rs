//! Random objects: few names, labels and addresses, so that everything meets everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use weir_api::v1::{BackendState, Protocol};
use weir_control::model::policy::{NAMESPACE_LABEL, NAMESPACE_LABELS};
use weir_control::model::{
    AddressBlock, Cidr, CidrGroup, ContainerPort, EndpointSlice, GroupChoice, Hints,
    IdentitySelector, Kind, L7Rules, LabelTest, Name, NamePattern, Namespace, Node, Object,
    ObjectKey, Peers, Pod, Policy, PolicyAction, PolicyPeer, PolicyPort, PolicyProtocol,
    PolicyRule, PolicySpec, PortChoice, Requirement, Section, Service, ServiceChoice,
    ServicePolicy, SliceEndpoint, Subject, Tier,
};

/// `namespace/name` of a pod, a service or a slice.
pub fn name() -> impl Strategy<Value = Name> {
    (0..2_u8, 0..4_u8).prop_map(|(n, i)| Name::new(&format!("ns{n}"), &format!("x{i}")))
}

/// One that a pod, a node, a range or a name may have.
pub fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..2_u8, 1..6_u8).prop_map(|(is_v4, net, i)| {
        let text = if is_v4 { format!("10.{net}.0.{i}") } else { format!("fd00:{net}::{i}") };
        text.parse().unwrap()
    })
}

/// All of them, and one that nothing has.
pub fn all_addresses() -> Vec<IpAddr> {
    let nets = (0..2).flat_map(|net| (1..6).map(move |i| (net, i)));
    let both = nets.flat_map(|(net, i)| [format!("10.{net}.0.{i}"), format!("fd00:{net}::{i}")]);
    let others = ["192.0.2.1".to_owned(), "203.0.113.9".to_owned()];
    both.chain(others).map(|it| it.parse().unwrap()).collect()
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let keys = select(vec!["a", "b", "pod-template-hash"]).prop_map(str::to_owned);
    btree_map(keys, "[xy]", 0..3)
}

pub fn pod() -> impl Strategy<Value = Object> {
    let port = (select(vec!["web", "dns"]), any::<bool>(), 80..83_u16).prop_map(
        |(name, is_tcp, l4_port)| ContainerPort {
            name: name.into(),
            protocol: if is_tcp { Protocol::Tcp } else { Protocol::Udp },
            l4_port,
        },
    );
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.2));
    (name(), labels(), vec(address(), 0..3), vec(port, 0..3), flags).prop_map(
        |(name, labels, addresses, ports, (is_host_network, is_policy_audited))| {
            Object::Pod(Pod {
                name,
                origin: None,
                labels,
                addresses,
                is_ready: true,
                is_terminating: false,
                ports,
                created: None,
                node: None,
                host_ports: Vec::new(),
                service_account: "default".into(),
                is_host_network,
                is_policy_audited,
            })
        },
    )
}

pub fn namespace() -> impl Strategy<Value = Object> {
    (0..2_u8, labels()).prop_map(|(n, labels)| {
        Object::Namespace(Namespace {
            name: Name::new("", &format!("ns{n}")),
            origin: None,
            labels,
        })
    })
}

pub fn node() -> impl Strategy<Value = Object> {
    (1..3_u8, labels(), vec(address(), 0..3)).prop_map(|(i, labels, addresses)| {
        Object::Node(Node {
            name: Name::new("", &format!("n{i}")),
            origin: None,
            internal_addresses: addresses.clone(),
            addresses,
            labels,
            pod_ranges: Vec::new(),
            is_ready: true,
            is_deleting: false,
        })
    })
}

fn range() -> impl Strategy<Value = Cidr> {
    let texts =
        ["10.0.0.0/8", "10.0.0.0/16", "10.1.0.2/32", "fd00::/16", "0.0.0.0/0", "10.0.0.4/30"];
    select(texts.to_vec()).prop_map(|it| it.parse().unwrap())
}

pub fn group() -> impl Strategy<Value = Object> {
    (0..2_u8, labels(), vec(range(), 0..3)).prop_map(|(i, labels, cidrs)| {
        let name = Name::new("", &format!("g{i}"));
        Object::CidrGroup(CidrGroup { name, origin: None, labels, cidrs })
    })
}

/// One of them is the API server's.
fn service_name() -> impl Strategy<Value = Name> {
    prop_oneof![3 => name(), 1 => Just(Name::new("default", "kubernetes"))]
}

pub fn service() -> impl Strategy<Value = Object> {
    (service_name(), labels(), labels()).prop_map(|(name, labels, selector)| {
        Object::Service(Service {
            name,
            origin: None,
            labels,
            created: None,
            cluster_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            load_balancer_class: None,
            external_ips: Vec::new(),
            ports: Vec::new(),
            node_port_families: Vec::new(),
            selector,
            publish_not_ready: false,
            policy: ServicePolicy::default(),
        })
    })
}

pub fn slice() -> impl Strategy<Value = Object> {
    let endpoint = address().prop_map(|address| SliceEndpoint {
        address,
        state: BackendState::Active,
        node: None,
        zone: None,
        hints: Hints::default(),
    });
    (service_name(), 0..2_u8, vec(endpoint, 0..3)).prop_map(|(service, i, endpoints)| {
        let name = Name::new(&service.namespace, &format!("s{i}"));
        Object::Slice(EndpointSlice {
            name,
            origin: None,
            service,
            ports: Vec::new(),
            endpoints,
            weight: 100,
        })
    })
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let keys = vec![
        "k8s:a".to_owned(),
        "any:b".to_owned(),
        "k8s:pod-template-hash".to_owned(),
        "node:a".to_owned(),
        "reserved:world".to_owned(),
        "reserved:remote-node".to_owned(),
        "reserved:kube-apiserver".to_owned(),
        "reserved:init".to_owned(),
        format!("{NAMESPACE_LABELS}a"),
        format!("{NAMESPACE_LABELS}kubernetes.io/metadata.name"),
        NAMESPACE_LABEL.to_owned(),
    ];
    (select(keys), btree_set("[xy]", 0..3), btree_set("ns[01]", 1..3), 0..6_u8).prop_map(
        |(key, values, namespaces, test)| {
            let is_name = key == NAMESPACE_LABEL || key.ends_with("name");
            let values: BTreeSet<String> = if is_name { namespaces } else { values };
            let test = match test {
                0 | 1 => LabelTest::In(values),
                2 => LabelTest::NotIn(values),
                3 => LabelTest::Absent,
                _ => LabelTest::Exists,
            };
            Requirement { key, test }
        },
    )
}

fn selector() -> impl Strategy<Value = IdentitySelector> {
    vec(requirement(), 0..3).prop_map(|requirements| IdentitySelector { requirements })
}

fn peer() -> impl Strategy<Value = PolicyPeer> {
    let block = (range(), vec(range(), 0..2), any::<bool>());
    let block = block.prop_map(|(cidr, except, is_world_only)| {
        PolicyPeer::Block(AddressBlock { cidr, except, is_world_only })
    });
    let groups = prop_oneof![
        "g[012]".prop_map(GroupChoice::Name),
        requirement().prop_map(|mut it| {
            it.key = "a".into();
            GroupChoice::Labels(IdentitySelector { requirements: vec![it] })
        }),
    ];
    let group = (groups, vec(range(), 0..2))
        .prop_map(|(groups, except)| PolicyPeer::CidrGroup { groups, except });
    let patterns = [
        NamePattern::Name("a.example".into()),
        NamePattern::Pattern("*.example".into()),
        NamePattern::Pattern("*".into()),
    ];
    let services = prop_oneof![
        service_name().prop_map(ServiceChoice::Name),
        proptest::option::of("ns[01]").prop_map(|namespace| {
            let test = LabelTest::Exists;
            let requirements = vec![Requirement { key: "a".into(), test }];
            ServiceChoice::Labels { namespace, selector: IdentitySelector { requirements } }
        }),
    ];
    prop_oneof![
        4 => selector().prop_map(PolicyPeer::Identities),
        2 => block,
        1 => group,
        1 => select(patterns.to_vec()).prop_map(PolicyPeer::Fqdn),
        1 => services.prop_map(PolicyPeer::Services),
    ]
}

fn port() -> impl Strategy<Value = PolicyPort> {
    let protocols =
        [PolicyProtocol::Tcp, PolicyProtocol::Udp, PolicyProtocol::Any, PolicyProtocol::Icmp];
    let port = prop_oneof![
        Just(PortChoice::All),
        (80..83_u16, 0..2_u16).prop_map(|(first, more)| PortChoice::Range(first, first + more)),
        select(vec!["web", "dns"]).prop_map(|it| PortChoice::Named(it.into())),
    ];
    (select(protocols.to_vec()), port).prop_map(|(protocol, port)| PolicyPort { protocol, port })
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        4 => vec(peer(), 0..3).prop_map(Peers::Of),
    ];
    let l7 = proptest::option::weighted(0.2, 0..3_u8);
    let unsupported = proptest::option::weighted(0.1, Just("cannot".to_owned()));
    (0..3_u8, peers, vec(port(), 0..3), l7, unsupported).prop_map(
        |(action, peers, ports, l7, unsupported)| PolicyRule {
            path: String::new(),
            action: match action {
                0 => PolicyAction::Allow,
                1 => PolicyAction::Deny,
                _ => PolicyAction::Pass,
            },
            peers,
            ports,
            l7: l7.map(|priority| L7Rules { parser: "http", priority, json: "[]".into() }),
            unsupported,
        },
    )
}

fn section(direction: &'static str) -> impl Strategy<Value = Option<Section>> {
    let rules = (any::<bool>(), vec(rule(), 0..3)).prop_map(move |(is_default_deny, mut rules)| {
        for (at, rule) in rules.iter_mut().enumerate() {
            rule.path = format!("spec.{direction}[{at}]");
        }
        Section { is_default_deny, rules }
    });
    proptest::option::of(rules)
}

fn spec() -> impl Strategy<Value = PolicySpec> {
    let subject = prop_oneof![
        9 => selector().prop_map(Subject::Endpoints),
        1 => selector().prop_map(Subject::Nodes),
    ];
    (0..3_u8, 0..2_u32, subject, section("ingress"), section("egress")).prop_map(
        |(tier, priority, subject, mut ingress, mut egress)| {
            let tier = [Tier::Admin, Tier::Normal, Tier::Baseline][usize::from(tier)];
            for rule in
                [&mut ingress, &mut egress].into_iter().flatten().flat_map(|it| &mut it.rules)
            {
                // As the languages have it.
                match tier {
                    Tier::Normal if rule.action == PolicyAction::Pass => {
                        rule.action = PolicyAction::Deny;
                    }
                    Tier::Normal => {}
                    Tier::Admin | Tier::Baseline => rule.l7 = None,
                }
            }
            let priority = if tier == Tier::Normal { 0 } else { priority };
            PolicySpec { tier, priority, subject, ingress, egress, log: String::new() }
        },
    )
}

pub fn policy_key() -> impl Strategy<Value = ObjectKey> {
    let kinds = [Kind::NetworkPolicy, Kind::CiliumNetworkPolicy, Kind::ClusterNetworkPolicy];
    (select(kinds.to_vec()), name()).prop_map(|(kind, name)| ObjectKey { kind, name })
}

pub fn policy() -> impl Strategy<Value = Object> {
    (policy_key(), vec(spec(), 1..3))
        .prop_map(|(key, specs)| Object::Policy(Policy { key, origin: None, specs }))
}
