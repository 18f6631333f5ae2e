//! What policy does to packets beyond the first of a flow; which rule decides is shown elsewhere.

use weir_packet::dsr::{encapsulate_geneve, geneve_overhead};
use weir_packet::{Addr, Mac, build, set_macs};
use weir_tables::policy::{
    IdentityId, L4Protocol, PolicyRules, PortRange, Rule, RuleAction, RulePeers, SelectorId,
};
use weir_tables::{DsrDispatch, NodeConfig, Object, Prefix};

use crate::common::node::{self, addr, arriving_macs, port_of};
use crate::common::packet::Text;
use crate::common::variants::{FORWARDED, Stage, in_every_world};

/// `green` has these rules for ingress, and nobody any for egress.
fn isolate(s: &mut Stage, ingress: Vec<Rule>) {
    let rules = PolicyRules { name: "green".into(), ingress, egress: Vec::new() };
    s.world.upsert([Object::PolicyRules(rules)]);
    assign(s, false);
}

fn assign(s: &mut Stage, is_audited: bool) {
    let object = node::pod("green", s.world.layout.salt, port_of("green"));
    let Object::Endpoint(mut green) = object else { unreachable!() };
    (green.policy, green.is_audited) = (Some("green".into()), is_audited);
    s.world.upsert([Object::Endpoint(green)]);
}

fn rule(action: RuleAction, peers: RulePeers, ports: Vec<PortRange>) -> Rule {
    Rule { tier: 1, action, peers, ports, origin: "rule".into(), log: String::new() }
}

fn deny_all() -> Rule {
    rule(RuleAction::Deny, RulePeers::Any, Vec::new())
}

fn type_range(s: &Stage, kinds: [u16; 2]) -> PortRange {
    let (protocol, kind) = match s.family {
        4 => (L4Protocol::Icmp, kinds[0]),
        _ => (L4Protocol::Icmpv6, kinds[1]),
    };
    PortRange { protocol, first: kind, last: kind }
}

#[test]
fn a_denied_client_is_told_in_the_name_of_the_service() {
    in_every_world(|s| {
        s.configure(|node| node.policy_reject = true);
        isolate(s, vec![deny_all()]);
        let ttl = |s: &Stage| match s.world.worker_of_port(port_of("blue"))
            == s.world.worker_of_port(port_of("green"))
        {
            true => "",
            false => " ttl 63",
        };
        let told = format!("blue: tcp/AR web:80 > blue:4000{}", ttl(s));
        let counts = "received 1, transmitted 1, originated 1, policy_denied 1";
        s.case("blue: tcp/S blue:4000 > web:80", &[&told], counts);
        s.case("out: tcp/S client:4000 > lb:80", &["out: tcp/AR lb:80 > client:4000"], counts);
    });
}

#[test]
fn a_flow_is_judged_again_when_rules_change_and_goes_on_when_they_change_back() {
    in_every_world(|s| {
        s.forwards("blue: tcp/S blue:4000 > web:80", "green: tcp/S blue:4000 > green:8080 ttl 63");
        s.forwards(
            "green: tcp/SA green:8080 > blue:4000",
            "blue: tcp/SA web:80 > blue:4000 ttl 63",
        );
        isolate(s, vec![deny_all()]);
        for _ in 0..2 {
            s.drops("blue: tcp/A blue:4000 > web:80", "policy_denied");
            s.drops("green: tcp/A green:8080 > blue:4000", "policy_denied");
        }
        isolate(s, vec![rule(RuleAction::Allow, RulePeers::Any, Vec::new()), deny_all()]);
        s.forwards("green: tcp/A green:8080 > blue:4000", "blue: tcp/A web:80 > blue:4000 ttl 63");
        s.forwards("blue: tcp/A blue:4000 > web:80", "green: tcp/A blue:4000 > green:8080 ttl 63");
    });
}

#[test]
fn what_passed_as_audited_is_judged_again_once_it_is_not() {
    in_every_world(|s| {
        let flow = |s: &mut Stage, sport| {
            let text = format!("udp blue:{sport} > green:53");
            s.forwards(&format!("blue: {text}"), &format!("green: {text} ttl 63"));
        };
        isolate(s, vec![deny_all()]);
        assign(s, true);
        flow(s, 4000);
        assign(s, false);
        s.drops("blue: udp blue:4000 > green:53", "policy_denied");
        s.configure(|node| node.policy_audit = true);
        flow(s, 4001);
        s.configure(|node| node.policy_audit = false);
        s.drops("blue: udp blue:4001 > green:53", "policy_denied");
    });
}

#[test]
fn the_node_reaches_its_pods_and_nobody_else_does_by_its_address() {
    in_every_world(|s| {
        isolate(s, vec![deny_all()]);
        s.forwards("host: udp host:4000 > green:53", "green: udp host:4000 > green:53");
        s.forwards("green: udp green:53 > host:4000", "host: udp green:53 > host:4000");
        s.drops("out: udp host:4001 > green:53", "source_spoofed");
        let range = |family, length| Prefix::new(addr("router", family), length).expect("short");
        s.configure(|node: &mut NodeConfig| {
            node.dsr_dispatch = DsrDispatch::Geneve;
            node.cluster_ranges = vec![range(4, 32), range(6, 128)];
        });
        for client in ["host", "client"] {
            let frame = tunnelled(s, &format!("udp {client}:4002 > green:5353"));
            s.raw("out", &frame, &[], "received 1, policy_denied 1");
        }
    });
}

/// A packet for `web` in a tunnel from another node.
fn tunnelled(s: &Stage, inner: &str) -> Vec<u8> {
    let inner = Text::parse(inner, s.family).frame((Mac::ZERO, Mac::ZERO));
    let service: (Addr, u16) = (addr("web", s.family), 53);
    let room = geneve_overhead(s.family, Some(s.family));
    let mut frame = [vec![0; room], inner].concat();
    let path = build::Path {
        src: addr("router", s.family),
        dst: addr("host", s.family),
        dst_mac: Mac::ZERO,
        src_mac: Mac::ZERO,
        sport: 0xc000,
        dport: 0,
        ttl: build::DEFAULT_TTL,
    };
    encapsulate_geneve(&mut frame, &path, 2, Some(service)).expect("it fits");
    let (src, dst) = arriving_macs(port_of("out"));
    set_macs(&mut frame, dst, src);
    frame
}

#[test]
fn an_echo_opens_nothing_but_itself() {
    in_every_world(|s| {
        let echo = type_range(s, [8, 128]);
        let allowed = rule(RuleAction::Allow, RulePeers::Any, vec![echo]);
        isolate(s, vec![allowed, deny_all()]);
        let mut other = s.frame("blue", "ping blue > green id 0");
        let at = if s.family == 4 { 34 } else { 54 };
        // A timestamp, or a message that nobody knows; the checksum does not matter here.
        other[at] = if s.family == 4 { 13 } else { 200 };
        s.raw("blue", &other, &[], "received 1, policy_denied 1");
        s.forwards("blue: ping blue > green id 0", "green: ping blue > green id 0 ttl 63");
        s.raw("blue", &other, &[], "received 1, policy_denied 1");
    });
}

#[test]
fn a_pod_without_its_rules_is_closed_and_an_unknown_one_is_no_stranger() {
    in_every_world(|s| {
        assign(s, false);
        s.drops("blue: udp blue:4000 > green:53", "policy_closed");
        let nobody = RulePeers::Of(vec![SelectorId(1)]);
        isolate(s, vec![rule(RuleAction::Allow, nobody, Vec::new()), deny_all()]);
        s.drops("blue: udp blue:4000 > green:53", "policy_denied");
        let identity = IdentityId(300);
        let prefix = Prefix::of_addr(addr("blue", s.family));
        s.world.upsert([
            Object::Identity(weir_tables::policy::Identity {
                id: identity,
                labels: Vec::new(),
                selectors: vec![SelectorId(1)],
            }),
            Object::PeerAddress { prefix, identity },
        ]);
        s.case(
            "blue: udp blue:4000 > green:53",
            &["green: udp blue:4000 > green:53 ttl 63"],
            FORWARDED,
        );
    });
}
