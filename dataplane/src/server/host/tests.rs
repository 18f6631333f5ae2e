//! The view against a walk over everything.

use proptest::prelude::*;

use super::*;
use crate::netlink::HostPaths;

const UDP: u8 = protocol::UDP;
const TCP: u8 = protocol::TCP;

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn key(text: &str, l4_port: u16, protocol: u8) -> FrontendKey {
    FrontendKey { addr: addr(text), l4_port, protocol }
}

#[test]
fn a_service_on_an_address_of_the_node_leaves_it_the_nodes() {
    let mut view = HostView::default();
    let external = key("192.0.2.10", 443, TCP);
    let touched = view.set_frontend(&external, false);
    assert!(touched.addrs.contains(&external.addr));
    assert_eq!(view.class(&external.addr), Some(AddressClass::SERVICE));
    assert_eq!(view.service_routes(), [Prefix::of_addr(external.addr)]);

    let touched = view.set_own([external.addr].into());
    assert!(touched.l4_ports.contains(&(TCP, 443)) && touched.addrs.contains(&external.addr));
    assert_eq!(view.class(&external.addr), Some(AddressClass::NODE));
    assert!(view.has_l4_port((TCP, 443)) && !view.has_l4_port((UDP, 443)));
    assert_eq!(view.service_routes(), [], "the local table has it");
    let rule = PortRule { is_ipv4: true, protocol: TCP, min: 443, max: 443 };
    assert_eq!(view.rules(), ([rule].into(), 0));

    let _ = view.set_own(BTreeSet::new());
    assert_eq!(view.class(&external.addr), Some(AddressClass::SERVICE));
    assert!(!view.has_l4_port((TCP, 443)) && view.rules().0.is_empty());
}

#[test]
fn node_ports_of_one_range_share_a_rule_per_family_and_protocol() {
    let mut view = HostView::default();
    for l4_port in [30_000, 30_001, 32_767] {
        let _ = view.set_frontend(&key("0.0.0.0", l4_port, TCP), false);
    }
    let _ = view.set_frontend(&key("::", 30_000, TCP), false);
    let _ = view.set_frontend(&key("::", 8080, UDP), false);
    let rule = |is_ipv4, protocol, min, max| PortRule { is_ipv4, protocol, min, max };
    let range = |is_ipv4| rule(is_ipv4, TCP, 30_000, 32_767);
    let expected = [range(true), range(false), rule(false, UDP, 8080, 8080)];
    assert_eq!(view.rules(), (expected.into(), 0));
    assert_eq!(view.class(&addr("0.0.0.0")), None, "it is no address");

    view.is_rules_dirty = false;
    let _ = view.set_frontend(&key("0.0.0.0", 30_002, TCP), false);
    let _ = view.remove_frontend(&key("0.0.0.0", 30_002, TCP));
    assert!(!view.is_rules_dirty, "the range has its rule already");
    let _ = view.remove_frontend(&key("::", 30_000, TCP));
    assert!(view.is_rules_dirty && view.has_l4_port((TCP, 30_000)), "IPv4 still has it");

    let node_ports = weir_tables::NodePorts { min: 20_000, max: 30_000 };
    let _ = view.set_node(&NodeConfig { node_ports, ..NodeConfig::default() });
    let expected = [
        rule(true, TCP, 20_000, 30_000),
        rule(true, TCP, 30_001, 30_001),
        rule(true, TCP, 32_767, 32_767),
        rule(false, UDP, 8080, 8080),
    ];
    assert_eq!(view.rules(), (expected.into(), 0));
}

#[test]
fn more_ports_than_rules_are_counted_and_ranges_go_first() {
    let mut view = HostView::default();
    let _ = view.set_frontend(&key("0.0.0.0", 30_000, UDP), false);
    for l4_port in 0..300 {
        let _ = view.set_frontend(&key("0.0.0.0", 1000 + l4_port, TCP), false);
    }
    let (rules, too_many) = view.rules();
    assert_eq!((rules.len(), too_many), (host_path::RULES_MAX, 45));
    assert!(rules.iter().any(|rule| rule.max == 32_767));
    assert_eq!(view.loopback().1, 300, "no rule is left for these");
}

#[test]
fn host_ports_at_loopback_are_for_the_nodes_sockets_alone() {
    let mut view = HostView::default();
    let rule = |protocol, port| PortRule { is_ipv4: true, protocol, min: port, max: port };
    let paths = |rules: &[PortRule], addresses: &[&str]| HostPaths {
        rules: rules.iter().copied().collect(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    assert_eq!(view.loopback(), (HostPaths::default(), 0));
    let only = key("127.0.0.1", 8081, TCP);
    view.is_rules_dirty = false;
    let _ = view.set_frontend(&only, false);
    assert!(view.is_rules_dirty);
    assert_eq!(view.loopback().0, paths(&[rule(TCP, 8081)], &["127.0.0.1"]));
    assert!(view.rules().0.is_empty() && view.l4_ports().is_empty());
    assert_eq!((view.class(&only.addr), view.service_routes()), (None, Vec::new()));

    // The port has its rule for the node's addresses already, not for loopback.
    let _ = view.set_own([addr("192.0.2.1")].into());
    let _ = view.set_frontend(&key("192.0.2.1", 53, UDP), false);
    view.is_rules_dirty = false;
    let _ = view.set_frontend(&key("0.0.0.0", 53, UDP), false);
    assert!(view.is_rules_dirty);
    for text in ["0.0.0.0", "::"] {
        let _ = view.set_frontend(&key(text, 30_080, TCP), false);
    }
    let _ = view.set_frontend(&key("::1", 8081, TCP), false);
    let _ = view.set_frontend(&key("::", 53, UDP), false);
    let both = [rule(TCP, 8081), rule(UDP, 53)];
    assert_eq!(view.loopback().0, paths(&both, &["127.0.0.1"]));
    assert_eq!(view.class(&addr("::1")), None);

    let _ = view.remove_frontend(&only);
    let _ = view.set_frontend(&key("127.0.0.2", 8081, TCP), false);
    assert_eq!(view.loopback().0, paths(&both, &["127.0.0.1", "127.0.0.2"]));
    let _ = view.remove_frontend(&key("0.0.0.0", 53, UDP));
    assert_eq!(view.loopback().0, paths(&[rule(TCP, 8081)], &["127.0.0.2"]));
    view.is_rules_dirty = false;
    let _ = view.remove_frontend(&key("127.0.0.2", 8081, TCP));
    assert!(view.is_rules_dirty);
    assert_eq!(view.loopback(), (HostPaths::default(), 0));
}

#[test]
fn geneve_is_ours_while_a_frontend_uses_it() {
    let mut view = HostView::default();
    let lb = key("203.0.113.7", 80, TCP);
    let _ = view.set_frontend(&lb, false);
    assert!(!view.has_l4_port((UDP, 6081)));
    let touched = view.set_frontend(&lb, true);
    assert!(touched.l4_ports.contains(&(UDP, 6081)) && view.has_l4_port((UDP, 6081)));
    let ipip = NodeConfig { dsr_dispatch: DsrDispatch::Ipip, ..NodeConfig::default() };
    assert!(view.set_node(&ipip).l4_ports.contains(&(UDP, 6081)));
    assert!(!view.has_l4_port((UDP, 6081)));
    let _ = view.set_node(&NodeConfig::default());
    assert!(view.has_l4_port((UDP, 6081)));
    assert!(view.remove_frontend(&lb).l4_ports.contains(&(UDP, 6081)));
    assert!(!view.has_l4_port((UDP, 6081)));
}

#[test]
fn addresses_of_other_nodes_are_not_routed_into_the_port() {
    let mut view = HostView::default();
    let range = |text: &str, length| Prefix::new(addr(text), length).unwrap();
    let _ = view.set_node(&NodeConfig {
        service_ranges: vec![range("10.96.0.0", 16)],
        cluster_ranges: vec![range("192.0.2.0", 24)],
        ..NodeConfig::default()
    });
    for text in ["10.96.0.9", "192.0.2.11", "203.0.113.7"] {
        let _ = view.set_frontend(&key(text, 80, TCP), false);
    }
    let expected = [range("10.96.0.0", 16), range("203.0.113.7", 32)];
    assert_eq!(view.service_routes(), expected);
    view.is_routes_dirty = false;
    let _ = view.set_frontend(&key("10.96.0.10", 80, TCP), false);
    let _ = view.set_frontend(&key("203.0.113.7", 81, TCP), false);
    assert!(!view.is_routes_dirty);
}

#[derive(Clone, Debug)]
enum Step {
    Set(FrontendKey, bool),
    Remove(FrontendKey),
    Own(BTreeSet<Addr>),
}

fn step() -> impl Strategy<Value = Step> {
    let addrs = prop::sample::select(vec![
        "0.0.0.0",
        "::",
        "192.0.2.1",
        "192.0.2.2",
        "fd00::1",
        "127.0.0.1",
        "::1",
    ]);
    let ports = prop::sample::select(vec![80, 6081, 30_000, 30_001]);
    let keys = (addrs.clone(), ports, prop::sample::select(vec![TCP, UDP]))
        .prop_map(|(text, l4_port, protocol)| key(text, l4_port, protocol));
    let own = prop::collection::btree_set(addrs.prop_map(addr), 0..3)
        .prop_map(|own| own.into_iter().filter(is_usable).collect());
    prop_oneof![
        (keys.clone(), any::<bool>()).prop_map(|(key, is_dsr)| Step::Set(key, is_dsr)),
        keys.prop_map(Step::Remove),
        own.prop_map(Step::Own),
    ]
}

proptest! {
    /// After any history the incremental view is what a walk over all frontends says, and every
    /// difference was announced.
    #[test]
    fn the_view_is_what_a_walk_says(steps in prop::collection::vec(step(), 0..40)) {
        let mut view = HostView::default();
        let mut frontends: BTreeMap<FrontendKey, bool> = BTreeMap::new();
        let mut own = BTreeSet::new();
        let mut map: BTreeSet<L4PortKey> = BTreeSet::new();
        for step in steps {
            let touched = match step {
                Step::Set(key, is_dsr) => {
                    frontends.insert(key, is_dsr);
                    view.set_frontend(&key, is_dsr)
                }
                Step::Remove(key) => {
                    frontends.remove(&key);
                    view.remove_frontend(&key)
                }
                Step::Own(addrs) => {
                    own = addrs.clone();
                    view.set_own(addrs)
                }
            };
            for port in touched.l4_ports {
                if view.has_l4_port(port) { map.insert(port) } else { map.remove(&port) };
            }
            let on_node = |key: &&FrontendKey| key.addr.is_unspecified() || own.contains(&key.addr);
            let ports: BTreeSet<(bool, L4PortKey)> = frontends.keys().filter(on_node)
                .map(|key| (key.addr.is_v4(), (key.protocol, key.l4_port))).collect();
            let mut naive: BTreeSet<L4PortKey> = ports.iter().map(|(_, port)| *port).collect();
            if frontends.values().any(|is_dsr| *is_dsr) {
                naive.insert((UDP, 6081));
            }
            prop_assert_eq!(&map, &naive);
            prop_assert_eq!(view.l4_ports(), naive);
            let rules: BTreeSet<PortRule> = ports.iter().map(|port| view.rule(*port)).collect();
            prop_assert_eq!(view.rules().0, rules);
            let outside: Vec<Prefix> = frontends.keys().map(|key| key.addr)
                .filter(|addr| is_usable(addr) && !own.contains(addr))
                .collect::<BTreeSet<Addr>>().into_iter().map(Prefix::of_addr).collect();
            prop_assert_eq!(view.service_routes(), outside);
        }
    }
}
