//! `weir policy show` and `weir drops`, as people and scripts see them.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{FakeDataplane, Server, dataplane_socket};
use weir_api::v1::{
    Direction, DropCount, EndpointPolicy, EnforcedRule, PolicyAction, PolicyPorts, PolicyProtocol,
    PolicyRule, PolicyVerdict, Protocol, VerdictCount, VerdictKind,
};

const DEFAULT_DENY: &str = "default deny of NetworkPolicy default/web";
const FIRST: &str = "NetworkPolicy default/web: spec.ingress[0]";

fn weir(folder: &Path, arguments: &[&str]) -> Output {
    let run_dir = format!("--run-dir={}", folder.display());
    Command::new(env!("CARGO_BIN_EXE_weir")).arg(run_dir).args(arguments).output().unwrap()
}

fn table(folder: &Path, arguments: &[&str]) -> String {
    let output = weir(folder, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Lines with single spaces: how wide a column is does not matter.
fn squeeze(text: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect::<Vec<_>>().join("\n")
}

fn json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&table(folder, &[arguments, &["-o", "json"]].concat())).unwrap()
}

fn rule(action: PolicyAction, origin: &str) -> PolicyRule {
    PolicyRule { tier: 1, action: action.into(), origin: origin.into(), ..PolicyRule::default() }
}

fn web() -> EndpointPolicy {
    let ports = |protocol: PolicyProtocol, first, last| PolicyPorts {
        protocol: protocol.into(),
        first,
        last,
    };
    let allow = PolicyRule {
        selectors: vec![1, 2],
        ports: vec![
            ports(PolicyProtocol::Tcp, 80, 80),
            ports(PolicyProtocol::Udp, 8000, 8080),
            ports(PolicyProtocol::Sctp, 0, 65535),
            ports(PolicyProtocol::Icmp, 8, 8),
            ports(PolicyProtocol::Other, 47, 47),
        ],
        ..rule(PolicyAction::Allow, FIRST)
    };
    let pass = PolicyRule {
        tier: 0,
        any_peer: true,
        ..rule(PolicyAction::Pass, "ClusterNetworkPolicy all: spec.ingress[0]")
    };
    let deny = PolicyRule { any_peer: true, ..rule(PolicyAction::Deny, DEFAULT_DENY) };
    let enforced =
        |rule, identities, verdicts| EnforcedRule { rule: Some(rule), identities, verdicts };
    EndpointPolicy {
        name: "default/web".into(),
        identity: 256,
        labels: vec!["k8s:app=web".into(), "k8s:io.kubernetes.pod.namespace=default".into()],
        policy_rules: "web".into(),
        since_revision: 12,
        ingress: vec![enforced(pass, 0, 0), enforced(allow, 3, 41), enforced(deny, 0, 7)],
        has_ingress: true,
        ..EndpointPolicy::default()
    }
}

fn verdict_count(endpoint: &str, verdict: VerdictKind, rule: &str, count: u64) -> VerdictCount {
    VerdictCount {
        endpoint: endpoint.into(),
        direction: Direction::Ingress.into(),
        verdict: verdict.into(),
        rule: rule.into(),
        count,
    }
}

fn serve(folder: &Path) -> (FakeDataplane, Server) {
    let fake = FakeDataplane::new();
    let server = fake.serve(&dataplane_socket(folder));
    fake.with(|told| {
        let free = EndpointPolicy { name: "default/free".into(), ..EndpointPolicy::default() };
        let closed = EndpointPolicy {
            name: "default/lost".into(),
            policy_rules: "lost".into(),
            is_closed: true,
            is_audited: true,
            has_ingress: true,
            has_egress: true,
            ..EndpointPolicy::default()
        };
        told.policy.endpoints = vec![free, closed, web()];
        told.verdicts.counts = vec![
            verdict_count("default/web", VerdictKind::Allowed, FIRST, 41),
            verdict_count("default/web", VerdictKind::Denied, DEFAULT_DENY, 7),
            verdict_count("default/lost", VerdictKind::Audited, "its rules are missing", 2),
        ];
    });
    (fake, server)
}

#[test]
fn what_is_enforced_is_shown_for_all_and_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (_fake, _server) = serve(folder);
    let expected = "\
ENDPOINT      IDENTITY  RULES  INGRESS   EGRESS  AUDIT  ALLOWED  DENIED  AUDITED
default/free         0  -      open      open    no           0       0        0
default/lost         0  lost   closed    closed  yes          0       0        2
default/web        256  web    enforced  open    no          41       7        0
";
    assert_eq!(table(folder, &["policy", "show"]), expected);
    let expected = "\
endpoint default/web
identity 256
k8s:app=web
k8s:io.kubernetes.pod.namespace=default
rules web, since revision 12

ingress: the first rule that matches decides
TIER ACTION PEERS PORTS VERDICTS ORIGIN
1 admin pass any all 0 ClusterNetworkPolicy all: spec.ingress[0]
2 normal allow 3 identities, 2 selectors 80/TCP, 8000-8080/UDP, all SCTP, ICMP type 8, \
        protocol 47 41 NetworkPolicy default/web: spec.ingress[0]
3 normal deny any all 7 default deny of NetworkPolicy default/web

egress: open, no policy is about it";
    assert_eq!(squeeze(&table(folder, &["policy", "show", "default/web"])), expected);
    let free = table(folder, &["policy", "show", "default/free"]);
    assert!(free.contains("none: no policy selects it, everything is allowed"), "{free}");
    let lost = table(folder, &["policy", "show", "default/lost"]);
    assert!(lost.contains("lost, closed: they are missing or were refused"), "{lost}");
    assert!(lost.contains("audit     what is denied passes"), "{lost}");
    let output = weir(folder, &["policy", "show", "default/nobody"]);
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "error: endpoint default/nobody is not attached\n");
}

#[test]
fn what_is_enforced_is_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (_fake, _server) = serve(folder);
    let all = json(folder, &["policy", "show"]);
    assert_eq!(all[2]["name"], "default/web");
    assert_eq!(
        (&all[2]["ingress_enforced"], &all[2]["egress_enforced"]),
        (&true.into(), &false.into())
    );
    let verdicts = serde_json::json!({"allowed": 41, "denied": 7, "audited": 0, "redirected": 0});
    assert_eq!(all[2]["verdicts"], verdicts);
    assert!(all[2]["ingress"].is_null(), "the rules come with one endpoint alone");
    let web = json(folder, &["policy", "show", "default/web"]);
    assert_eq!(web["labels"][0], "k8s:app=web");
    let ports = ["80/TCP", "8000-8080/UDP", "all SCTP", "ICMP type 8", "protocol 47"];
    let allow = serde_json::json!({
        "tier": "normal", "action": "allow", "any_peer": false, "selectors": [1, 2],
        "identities": 3, "ports": ports, "verdicts": 41, "origin": FIRST, "log": "", "l7": "",
    });
    assert_eq!(web["ingress"][1], allow);
    assert_eq!(web["egress"], serde_json::json!([]));
}

#[test]
fn drops_say_what_policy_denied_to_whom() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (fake, _server) = serve(folder);
    let recent = |verdict: VerdictKind, protocol: Protocol, port| PolicyVerdict {
        ago_ns: 1_500_000_000,
        revision: 12,
        worker: 1,
        endpoint: "default/web".into(),
        direction: Direction::Ingress.into(),
        verdict: verdict.into(),
        rule: DEFAULT_DENY.into(),
        log: "noted".into(),
        protocol: protocol.into(),
        source: vec![10, 0, 0, 9],
        source_port: 4000,
        destination: vec![10, 0, 0, 7],
        destination_port: port,
        peer_identity: 257,
        peer_labels: vec!["k8s:app=client".into()],
    };
    fake.with(|told| {
        let drop = |reason: &str, packets| DropCount {
            reason: reason.into(),
            description: "why".into(),
            packets,
        };
        told.drops.drops = vec![drop("no_route", 0), drop("policy_denied", 7)];
        told.verdicts.recent = vec![
            recent(VerdictKind::Allowed, Protocol::Tcp, 80),
            recent(VerdictKind::Denied, Protocol::Tcp, 81),
            recent(VerdictKind::Audited, Protocol::Icmp, 8),
        ];
    });
    let expected = "\
PACKETS REASON MEANING
7 policy_denied why

not allowed by policy:
VERDICTS VERDICT ENDPOINT DIRECTION RULE
7 denied default/web ingress default deny of NetworkPolicy default/web
2 audited default/lost ingress its rules are missing

the last of them:
AGO VERDICT FROM TO PORT PEER ENDPOINT DIRECTION REVISION RULE
1.5s denied 10.0.0.9:4000 10.0.0.7:81 81/TCP 257 default/web ingress 12 \
        default deny of NetworkPolicy default/web
1.5s audited 10.0.0.9 10.0.0.7 ICMP type 8 257 default/web ingress 12 \
        default deny of NetworkPolicy default/web";
    assert_eq!(squeeze(&table(folder, &["drops"])), expected);
    let drops = json(folder, &["drops"]);
    assert_eq!(drops["drops"][1]["packets"], 7);
    assert_eq!(drops["denied"].as_array().unwrap().len(), 2);
    assert_eq!(drops["denied"][0]["rule"], DEFAULT_DENY);
    let denied = serde_json::json!({
        "ago_ns": 1_500_000_000_u64, "revision": 12, "worker": 1, "endpoint": "default/web",
        "direction": "ingress", "verdict": "denied", "rule": DEFAULT_DENY, "log": "noted",
        "source": "10.0.0.9:4000", "destination": "10.0.0.7:81", "port": "81/TCP",
        "peer_identity": 257, "peer_labels": ["k8s:app=client"],
    });
    assert_eq!(drops["recent"][0], denied);

    fake.with(|told| (told.drops.drops, told.verdicts) = Default::default());
    assert_eq!(table(folder, &["drops"]), "no drops\n");
}
