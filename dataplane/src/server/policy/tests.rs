//! What people are told about policy agrees with the snapshot and with what workers recorded.

use weir_packet::{Addr, FlowKey, Mac, protocol};
use weir_tables::policy::{
    Identity, IdentityId, L4, PolicyRules, PortRange, Rule, RuleAction, RulePeers, SelectorId,
};
use weir_tables::{Object, Tables};

use super::*;

const WEB: PortId = PortId(7);
const CLIENT: IdentityId = IdentityId(257);

fn rule(action: RuleAction, peers: RulePeers, ports: Vec<PortRange>, origin: &str) -> Rule {
    Rule { tier: 1, action, peers, ports, origin: origin.into(), log: "noted".into() }
}

/// `default/web` with rules for ingress, `default/free` without, `default/lost` without its rules.
fn snapshot() -> Snapshot {
    let mut tables = Tables::new(1);
    let identity = |id, label: &str, selectors| {
        let selectors = Vec::from(selectors).into_iter().map(SelectorId).collect();
        Object::Identity(Identity { id: IdentityId(id), labels: vec![label.into()], selectors })
    };
    let tcp80 = PortRange { protocol: L4Protocol::Tcp, first: 80, last: 80 };
    let of = RulePeers::Of(vec![SelectorId(1)]);
    let ingress = vec![
        rule(RuleAction::Allow, of, vec![tcp80], "NetworkPolicy default/web: spec.ingress[0]"),
        rule(RuleAction::Deny, RulePeers::Any, vec![], "default deny of NetworkPolicy default/web"),
    ];
    let rules = PolicyRules { name: "web".into(), ingress, egress: vec![] };
    let pod = |name: &str, port: PortId, policy: Option<&str>| {
        let addr = Addr::from_v4([10, 0, 0, port.0 as u8]);
        let mac = Mac([2, 0, 0, 0, 0, port.0 as u8]);
        let policy = policy.map(str::to_owned);
        let identity = IdentityId(256);
        let pod = Endpoint::new(name, port, mac, vec![addr]);
        Object::Endpoint(Endpoint { policy, identity, ..pod })
    };
    let objects = [
        identity(256, "k8s:app=web", &[][..]),
        identity(CLIENT.0, "k8s:app=client", &[1]),
        identity(258, "k8s:app=client2", &[1, 2]),
        Object::PolicyRules(rules),
        pod("default/web", WEB, Some("web")),
        pod("default/free", PortId(8), None),
        pod("default/lost", PortId(9), Some("lost")),
    ];
    for object in objects {
        tables.upsert(object).expect("accepted");
    }
    tables.snapshot()
}

fn verdict(rule: RuleId, kind: VerdictKind, at_ms: u32) -> VerdictEvent {
    let key = FlowKey {
        src: Addr::from_v4([10, 0, 0, 1]),
        dst: Addr::from_v4([10, 0, 0, 7]),
        sport: 4000,
        dport: 81,
        protocol: protocol::TCP,
        family: 4,
        zone: 0,
    };
    VerdictEvent {
        at_ms,
        revision: 3,
        endpoint: WEB,
        direction: Direction::Ingress,
        kind,
        rule,
        key,
        peer: CLIENT,
        l4: L4::new(protocol::TCP, 81),
    }
}

fn rule_ids(snapshot: &Snapshot) -> Vec<RuleId> {
    let table = snapshot.policy_of(WEB).expect("rules");
    table.rules(Direction::Ingress).map(|(id, _)| id).collect()
}

#[test]
fn an_endpoint_is_shown_with_its_rules_their_members_and_their_verdicts() {
    let snapshot = snapshot();
    let ids = rule_ids(&snapshot);
    let counts = Counts::from([
        ((WEB, Direction::Ingress, ids[1], VerdictKind::Denied), 3),
        ((WEB, Direction::Ingress, ids[1], VerdictKind::Audited), 4),
        ((WEB, Direction::Egress, ids[1], VerdictKind::Denied), 100),
        ((PortId(8), Direction::Ingress, ids[1], VerdictKind::Denied), 100),
    ]);
    let shown = show_endpoints(&snapshot, &counts, "default/web");
    let [web] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!((web.identity, web.labels.as_slice()), (256, &["k8s:app=web".to_owned()][..]));
    assert_eq!((web.policy_rules.as_str(), web.is_closed, web.is_audited), ("web", false, false));
    assert_eq!((web.has_ingress, web.has_egress), (true, false));
    assert_eq!(web.since_revision, snapshot.revision());
    let rules = web.ingress.iter();
    let rules: Vec<_> = rules.map(|it| (it.identities, it.verdicts, it.rule.clone())).collect();
    assert_eq!((rules[0].0, rules[0].1), (2, 0));
    assert_eq!((rules[1].0, rules[1].1), (0, 7), "both kinds of verdict, here and inwards alone");
    let first = rules[0].2.as_ref().expect("a rule");
    assert_eq!(first.origin, "NetworkPolicy default/web: spec.ingress[0]");
    assert_eq!((first.selectors.as_slice(), first.any_peer), (&[1][..], false));
    assert!(web.egress.is_empty());
}

#[test]
fn without_a_name_all_endpoints_are_shown_and_who_lacks_its_rules_is_closed() {
    let snapshot = snapshot();
    let shown = show_endpoints(&snapshot, &Counts::new(), "");
    let states: Vec<_> = shown
        .iter()
        .map(|it| (it.name.as_str(), it.is_closed, it.has_ingress, it.has_egress))
        .collect();
    let expected = [
        ("default/free", false, false, false),
        ("default/lost", true, true, true),
        ("default/web", false, true, false),
    ];
    assert_eq!(states, expected);
    assert!(shown.iter().all(|it| it.ingress.is_empty()), "rules only where asked for");
    assert!(show_endpoints(&snapshot, &Counts::new(), "default/nobody").is_empty());
}

#[test]
fn verdicts_are_shown_with_names_in_place_of_numbers() {
    let snapshot = snapshot();
    let ids = rule_ids(&snapshot);
    let counts = Counts::from([
        ((WEB, Direction::Ingress, ids[1], VerdictKind::Denied), 3),
        ((PortId(9), Direction::Egress, RuleId::MISSING, VerdictKind::Denied), 2),
        ((PortId(77), Direction::Egress, ids[0], VerdictKind::Denied), 1),
    ]);
    let ping = VerdictEvent {
        key: FlowKey {
            protocol: protocol::ICMP,
            sport: 99,
            dport: 0,
            ..verdict(ids[1], VerdictKind::Denied, 0).key
        },
        l4: L4::new(protocol::ICMP, 8),
        endpoint: PortId(77),
        ..verdict(ids[1], VerdictKind::Denied, 1_500)
    };
    let recent = [(0, verdict(ids[1], VerdictKind::Denied, 1_000)), (1, ping)];
    let shown = show_verdicts(&snapshot, &counts, &recent, 3_000);
    let rows: Vec<_> =
        shown.counts.iter().map(|it| (it.endpoint.as_str(), it.rule.as_str(), it.count)).collect();
    let web = ("default/web", "default deny of NetworkPolicy default/web", 3);
    assert_eq!((rows.len(), rows[0]), (2, web), "nobody has port 77: {rows:?}");
    assert_eq!((rows[1].0, rows[1].2), ("default/lost", 2));
    assert!(!rows[1].1.is_empty());
    let [tcp, icmp] = shown.recent.as_slice() else { panic!("{:?}", shown.recent) };
    assert_eq!((tcp.ago_ns, tcp.revision, tcp.worker), (2_000_000_000, 3, 0));
    assert_eq!(
        (tcp.direction(), tcp.verdict()),
        (wire::Direction::Ingress, wire::VerdictKind::Denied)
    );
    assert_eq!((tcp.source_port, tcp.destination_port), (4000, 81));
    assert_eq!(
        (tcp.source.as_slice(), tcp.destination.as_slice()),
        (&[10, 0, 0, 1][..], &[10, 0, 0, 7][..])
    );
    assert_eq!(
        (tcp.peer_identity, tcp.peer_labels.as_slice()),
        (257, &["k8s:app=client".to_owned()][..])
    );
    assert_eq!((tcp.rule.as_str(), tcp.log.as_str()), (rows[0].1, "noted"));
    assert_eq!((icmp.source_port, icmp.destination_port, icmp.worker), (0, 8, 1));
    assert_eq!(icmp.endpoint, "a pod that has gone, on interface 77");
}

#[test]
fn the_history_keeps_the_last_of_each_kind_for_all_who_ask() {
    let history = VerdictHistory::default();
    let news = |kind, from: u32, count: u32| {
        (0..count).map(move |number| (1, verdict(RuleId(9), kind, from + number)))
    };
    assert_eq!(history.add(news(VerdictKind::Denied, 0, 10)).len(), 10);
    let allowed = 3 * RECENT as u32;
    // One worker's verdicts come after the other's, and are older.
    let both = news(VerdictKind::Allowed, 200, allowed).chain(news(VerdictKind::Denied, 100, 5));
    let events = history.add(both);
    assert_eq!(events.len(), RECENT + 15);
    assert!(events.is_sorted_by_key(|(_, event)| event.at_ms));
    assert_eq!(events[14].1.kind, VerdictKind::Denied);
    assert_eq!(events[RECENT + 14].1.at_ms, 200 + allowed - 1);
    assert_eq!(history.add(std::iter::empty()), events, "who asks again sees them again");
}
