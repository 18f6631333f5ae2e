//! Random objects come and go. After each revision every verdict, every rule that matches and every
//! `since` is compared with a plain reading of the objects, and with tables made from nothing.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use weir_packet::{Addr, Mac};

use super::naive::Naive;
use crate::network::Prefix;
use crate::policy::*;
use crate::rows::{Endpoint, NodeConfig, Object, ObjectRef};
use crate::{PortId, Snapshot, Tables};

const ADDRESSES: [&str; 16] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.130",
    "10.0.64.1",
    "10.1.0.1",
    "10.128.0.9",
    "11.0.0.1",
    "192.0.2.7",
    "255.255.255.255",
    "fd00::1",
    "fd00::2",
    "fd00:0:0:1::1",
    "fd80::1",
    "2001:db8::1",
    "::1",
    "::fffe:a00:1",
];
/// Addresses that endpoints have besides.
const PODS: [&str; 3] = ["10.0.0.200", "10.0.0.201", "fd00::200"];
const TABLES: [&str; 3] = ["a", "b", "c"];
const IDENTITIES: [u32; 8] = [0, 1, 9, 10, 256, 257, 300, 0x0100_0001];
const PORTS: [u16; 14] = [0, 1, 15, 16, 53, 79, 80, 81, 255, 443, 4095, 4096, 8080, u16::MAX];

fn addr(text: &str) -> Addr {
    text.parse().expect("an address")
}

fn prefix() -> impl Strategy<Value = Prefix> {
    let length = prop_oneof![
        3 => Just(128),
        1 => Just(0),
        6 => select(vec![1, 4, 8, 9, 10, 12, 15, 16, 17, 24, 25, 31, 32, 48, 63, 64, 65, 96, 127]),
    ];
    (select(&ADDRESSES[..]), length).prop_map(|(text, length)| {
        let addr = addr(text);
        let most = if addr.is_v4() { 32 } else { 128 };
        Prefix::new(addr, length.min(most)).expect("not too long")
    })
}

fn identity_id() -> impl Strategy<Value = IdentityId> {
    select(&IDENTITIES[..]).prop_map(IdentityId)
}

/// 0 to 5 choose identities, 5 to 9 ranges.
fn selectors(of: std::ops::Range<u32>, most: usize) -> impl Strategy<Value = Vec<SelectorId>> {
    subsequence(of.map(SelectorId).collect::<Vec<_>>(), 0..=most)
}

fn port_range() -> impl Strategy<Value = PortRange> {
    let port = || select(&PORTS[..]);
    (select(&L4Protocol::ALL[..]), port(), port()).prop_map(|(protocol, a, b)| {
        let most = match protocol {
            L4Protocol::Tcp | L4Protocol::Udp | L4Protocol::Sctp => u16::MAX,
            _ => 255,
        };
        PortRange { protocol, first: a.min(b).min(most), last: a.max(b).min(most) }
    })
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        4 => Just(RuleAction::Allow),
        4 => Just(RuleAction::Deny),
        3 => Just(RuleAction::Pass),
        1 => Just(RuleAction::Redirect { l7: "{}".into() }),
    ];
    let peers = prop_oneof![
        1 => Just(RulePeers::Any),
        3 => selectors(0..9, 3).prop_map(RulePeers::Of),
    ];
    (0u8..3, action, peers, vec(port_range(), 0..3), 0u32..40).prop_map(
        |(tier, action, peers, ports, number)| Rule {
            tier,
            action,
            peers,
            ports,
            origin: format!("rule {number}"),
            log: String::new(),
        },
    )
}

fn rules() -> impl Strategy<Value = Object> {
    let side = || vec(a_rule(), 0..7);
    let is_sorted = prop::bool::weighted(0.9);
    (select(&TABLES[..]), side(), side(), is_sorted).prop_map(
        |(name, mut ingress, mut egress, is_sorted)| {
            if is_sorted {
                ingress.sort_by_key(|rule| rule.tier);
                egress.sort_by_key(|rule| rule.tier);
            }
            Object::PolicyRules(PolicyRules { name: name.into(), ingress, egress })
        },
    )
}

fn endpoint(at: usize, policy: Option<&str>, identity: IdentityId) -> Object {
    let port = PortId(at as u32 + 1);
    let name = format!("pod-{at}");
    let mut row = Endpoint::new(&name, port, Mac([2; 6]), vec![addr(PODS[at])]);
    (row.policy, row.identity) = (policy.map(str::to_owned), identity);
    Object::Endpoint(row)
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(Object),
    Delete(ObjectRef),
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let identity = (identity_id(), selectors(0..6, 4))
        .prop_map(|(id, selectors)| Object::Identity(Identity { id, labels: vec![], selectors }));
    let address = (prefix(), identity_id())
        .prop_map(|(prefix, identity)| Object::PeerAddress { prefix, identity });
    let cidr = (5u32..9, vec(prefix(), 0..4), vec(prefix(), 0..3), any::<bool>()).prop_map(
        |(id, prefixes, except, is_world_only)| {
            let id = SelectorId(id);
            Object::CidrSelector(CidrSelector { id, prefixes, except, is_world_only })
        },
    );
    let node = subsequence(&ADDRESSES[..], 0..3).prop_map(|addresses| {
        let addresses = addresses.into_iter().map(addr).collect();
        Object::Node(NodeConfig { addresses, ..NodeConfig::default() })
    });
    let policy = prop::option::weighted(0.8, select(&TABLES[..]));
    let pod = (0..PODS.len(), policy, identity_id())
        .prop_map(|(at, policy, identity)| endpoint(at, policy, identity));
    let gone = prop_oneof![
        identity_id().prop_map(ObjectRef::Identity),
        prefix().prop_map(ObjectRef::PeerAddress),
        prefix().prop_map(ObjectRef::PeerAddress),
        (5u32..9).prop_map(|id| ObjectRef::CidrSelector(SelectorId(id))),
        select(&TABLES[..]).prop_map(|name| ObjectRef::PolicyRules(name.into())),
        (0..PODS.len()).prop_map(|at| ObjectRef::Endpoint(format!("pod-{at}"))),
    ];
    prop_oneof![
        3 => identity.prop_map(Step::Upsert),
        4 => address.prop_map(Step::Upsert),
        3 => cidr.prop_map(Step::Upsert),
        3 => rules().prop_map(Step::Upsert),
        1 => node.prop_map(Step::Upsert),
        1 => pod.prop_map(Step::Upsert),
        5 => gone.prop_map(Step::Delete),
        7 => Just(Step::Commit),
    ]
}

type Key = (PortId, Direction, Addr);
type Verdicts = BTreeMap<Key, Vec<(PolicyAction, Option<String>)>>;

fn all_l4() -> Vec<L4> {
    let l4 = |protocol| PORTS.map(|port| L4 { protocol, port });
    L4Protocol::ALL.into_iter().flat_map(l4).collect()
}

fn keys(naive: &Naive) -> Vec<Key> {
    let addrs: Vec<Addr> = ADDRESSES.iter().chain(&PODS).map(|text| addr(text)).collect();
    let ports = naive.endpoints.values().map(|endpoint| endpoint.port);
    let both = [Direction::Ingress, Direction::Egress];
    let sides = ports.flat_map(|port| both.map(|direction| (port, direction)));
    sides
        .flat_map(|(port, way)| addrs.clone().into_iter().map(move |addr| (port, way, addr)))
        .collect()
}

fn named(snapshot: &Snapshot, verdict: PolicyVerdict) -> (PolicyAction, Option<String>) {
    let origin = match verdict.rule {
        RuleId::NONE => None,
        RuleId::MISSING => Some("missing".to_owned()),
        rule => {
            Some(snapshot.policy().rule(rule).expect("numbered rules are known").origin.clone())
        }
    };
    (verdict.action, origin)
}

fn verdicts(snapshot: &Snapshot, naive: &Naive) -> Verdicts {
    let judge = |(port, direction, addr): Key| {
        let all = all_l4().into_iter();
        all.map(|l4| named(snapshot, snapshot.judge(port, direction, &addr, l4))).collect()
    };
    keys(naive).into_iter().map(|key| (key, judge(key))).collect()
}

/// What a plain reading says, and since when.
#[derive(Default)]
struct Expected {
    naive: Naive,
    revision: u32,
    /// By address: the selectors that choose it, and the revision that they are of.
    peers: BTreeMap<Addr, (BTreeSet<SelectorId>, u32)>,
    tables: BTreeMap<String, (Option<PolicyRules>, u32)>,
    /// Verdicts of earlier revisions.
    history: Vec<(u32, Verdicts)>,
}

impl Expected {
    fn check(&mut self, snapshot: &Snapshot) {
        self.revision += 1;
        assert_eq!(snapshot.revision(), self.revision);
        self.check_peers(snapshot);
        self.check_tables(snapshot);
        self.check_verdicts(snapshot);
    }

    fn check_peers(&mut self, snapshot: &Snapshot) {
        for addr in ADDRESSES.iter().chain(&PODS).map(|text| addr(text)) {
            let selectors = self.naive.selectors(&addr);
            let row = self.peers.entry(addr).or_insert_with(|| (selectors.clone(), self.revision));
            if row.0 != selectors {
                *row = (selectors, self.revision);
            }
            let peer = snapshot.policy().peer(&addr);
            assert_eq!(peer.identity, self.naive.identity(&addr), "identity of {addr}");
            assert_eq!(peer.since, row.1, "the revision of {addr}");
        }
    }

    fn check_tables(&mut self, snapshot: &Snapshot) {
        self.tables.retain(|name, _| self.naive.rules.contains_key(name));
        for (name, rules) in &self.naive.rules {
            let now = (rules.clone(), self.revision);
            let row = self.tables.entry(name.clone()).or_insert_with(|| now.clone());
            if row.0 != now.0 {
                *row = now;
            }
            let table = snapshot.policy().table(name).expect("a table for every name");
            assert_eq!(table.since(), row.1, "the revision of rules {name}");
            assert_eq!(table.is_closed(), rules.is_none());
        }
        let names: BTreeSet<&str> = snapshot.policy().tables().map(|table| table.name()).collect();
        assert!(names.iter().eq(self.naive.rules.keys()), "{names:?}");
    }

    fn check_verdicts(&mut self, snapshot: &Snapshot) {
        let found = verdicts(snapshot, &self.naive);
        for (key, verdicts) in &found {
            let (port, direction, peer) = *key;
            let mut endpoints = self.naive.endpoints.values();
            let endpoint = endpoints.find(|row| row.port == port).expect("of this list");
            for (l4, verdict) in all_l4().into_iter().zip(verdicts) {
                let expected = self.naive.judge(endpoint, direction, &peer, l4);
                assert_eq!(*verdict, expected, "{} {direction:?} {peer} {l4}", endpoint.name);
            }
            self.check_explained(snapshot, *key);
        }
        for (revision, earlier) in &self.history {
            for (key, verdicts) in &found {
                let is_other = earlier.get(key).is_some_and(|earlier| earlier != verdicts);
                let since = snapshot.judged_since(key.0, key.1, &key.2);
                assert!(
                    since > *revision || !is_other,
                    "{key:?} of {since} was not so in {revision}"
                );
                assert!(since <= self.revision);
            }
        }
        self.history.push((self.revision, found));
    }

    /// `matching` and `ranges` say the same as the verdicts do.
    fn check_explained(&self, snapshot: &Snapshot, (port, direction, addr): Key) {
        let Some(table) = snapshot.policy_of(port) else { return };
        let peer = snapshot.policy().peer(&addr);
        for protocol in L4Protocol::ALL {
            let ranges = table.ranges(direction, peer, protocol);
            assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (0, u16::MAX));
            assert!(ranges.windows(2).all(|two| two[0].1 + 1 == two[1].0 && two[0].2 != two[1].2));
            for l4 in PORTS.map(|port| L4 { protocol, port }) {
                let range = ranges.iter().find(|range| l4.port <= range.1).expect("without gaps");
                assert_eq!(range.2, table.judge(direction, peer, l4));
            }
        }
        let Some(Some(rules)) = self.naive.rules.get(table.name()) else { return };
        let selectors = self.naive.selectors(&addr);
        for l4 in all_l4().into_iter().step_by(5) {
            let expected = Naive::matching(rules, direction, &selectors, l4);
            assert_eq!(table.matching(direction, peer, l4), expected);
        }
    }
}

proptest! {
    #[test]
    fn verdicts_and_their_age_equal_a_plain_reading(steps in vec(step(), 1..60)) {
        let mut tables = Tables::new(1);
        let mut expected = Expected::default();
        let pods = (0..PODS.len()).map(|at| endpoint(at, Some(TABLES[at]), IdentityId(256)));
        for step in pods.map(Step::Upsert).chain(steps).chain([Step::Commit]) {
            match step {
                Step::Upsert(object) => {
                    let is_good = tables.upsert(object.clone()).is_ok();
                    let is_rules = matches!(object, Object::PolicyRules(_));
                    prop_assert!(is_good || is_rules, "only rules are ever wrong here");
                    expected.naive.upsert(object);
                }
                Step::Delete(name) => {
                    tables.delete(&name);
                    expected.naive.delete(&name);
                }
                Step::Commit => expected.check(&tables.snapshot()),
            }
        }
        let mut fresh = Tables::new(1);
        for object in expected.naive.objects() {
            let _ = fresh.upsert(object);
        }
        prop_assert_eq!(tables.names(), fresh.names());
        let (now, fresh) = (tables.snapshot(), fresh.snapshot());
        prop_assert_eq!(verdicts(&now, &expected.naive), verdicts(&fresh, &expected.naive));
        for name in tables.names() {
            tables.delete(&name);
        }
        prop_assert!(tables.names().is_empty());
    }
}
