//! A cluster of 10,000 identities, and policies about them.

use weir_packet::{Addr, Mac};
use weir_tables::policy::{
    CidrSelector, Identity, IdentityId, L4Protocol, PolicyRules, PortRange, Rule, RuleAction,
    RulePeers, SelectorId,
};
use weir_tables::{Endpoint, Object, PortId, Prefix, Tables};

pub const IDENTITIES: u32 = 10_000;
/// Selectors of an application each, from 0.
pub const APPS: u32 = 500;
/// Selectors of a namespace each, behind those of applications.
const NAMESPACES: u32 = 50;
/// Selectors of a range each, behind those of namespaces.
const RANGES: u32 = 1000;

fn of_app(app: u32) -> SelectorId {
    SelectorId(app % APPS)
}

fn of_namespace(number: u32) -> SelectorId {
    SelectorId(APPS + number % NAMESPACES)
}

fn of_range(number: u32) -> SelectorId {
    SelectorId(APPS + NAMESPACES + number % RANGES)
}

/// The address of the only pod of an identity.
pub fn pod_addr(number: u32) -> Addr {
    let [_, high, middle, low] = number.to_be_bytes();
    Addr::from_v4([10, high, middle, low])
}

/// An address of a range of the world.
pub fn world_addr(number: u32, is_v4: bool) -> Addr {
    let [_, _, high, low] = (number % RANGES).to_be_bytes();
    if is_v4 {
        return Addr::from_v4([198, high, low, 7]);
    }
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0x20, 0x01]);
    octets[5..7].copy_from_slice(&[high, low]);
    octets[15] = 7;
    Addr::from_v6(octets)
}

/// Of an application in one of the namespaces.
pub fn identity(number: u32) -> [Object; 2] {
    let id = IdentityId(256 + number);
    let selectors = vec![of_app(number), of_namespace(number / APPS)];
    let labels = vec![format!("k8s:app=app-{}", number % APPS)];
    let prefix = Prefix::of_addr(pod_addr(number));
    [
        Object::Identity(Identity { id, labels, selectors }),
        Object::PeerAddress { prefix, identity: id },
    ]
}

fn range(number: u32) -> Object {
    let v4 = Prefix::new(world_addr(number, true), 24).expect("not too long");
    let v6 = Prefix::new(world_addr(number, false), 56).expect("not too long");
    let (prefixes, except) = (vec![v4, v6], Vec::new());
    Object::CidrSelector(CidrSelector {
        id: of_range(number),
        prefixes,
        except,
        is_world_only: true,
    })
}

/// All identities and ranges.
pub fn peers() -> Vec<Object> {
    (0..IDENTITIES).flat_map(identity).chain((0..RANGES).map(range)).collect()
}

fn rule(origin: String, action: RuleAction, peers: RulePeers, l4_port: Option<u16>) -> Rule {
    let tcp = |port| PortRange { protocol: L4Protocol::Tcp, first: port, last: port };
    let ports = l4_port.map(tcp).into_iter().collect();
    Rule { tier: 1, action, peers, ports, origin, log: String::new() }
}

fn deny_all() -> Rule {
    rule("default deny".into(), RuleAction::Deny, RulePeers::Any, None)
}

/// Rules about every application, every namespace and every range in turn, of one port each.
pub fn rules(name: &str, count: u32) -> Object {
    let side = |direction: &str| {
        let one = |number: u32| {
            let selector = match number % 3 {
                0 => of_app(number / 3),
                1 => of_namespace(number / 3),
                _ => of_range(number / 3),
            };
            let peers = RulePeers::Of(vec![selector]);
            let port = 1024 + (number % 30_000) as u16;
            let origin = format!("NetworkPolicy bench/policy-{number}: spec.{direction}[0]");
            rule(origin, RuleAction::Allow, peers, Some(port))
        };
        (0..count - 1).map(one).chain([deny_all()]).collect()
    };
    let (ingress, egress) = (side("ingress"), side("egress"));
    Object::PolicyRules(PolicyRules { name: name.to_owned(), ingress, egress })
}

/// One policy: ingress of an application, from its namespace, and from a range; egress likewise.
fn policy(number: u32, direction: &str) -> [Rule; 3] {
    let origin = |at: u32| format!("NetworkPolicy bench/policy-{number}: spec.{direction}[{at}]");
    let of = |selector| RulePeers::Of(vec![selector]);
    [
        rule(origin(0), RuleAction::Allow, of(of_app(number)), Some(8080)),
        rule(origin(1), RuleAction::Allow, of(of_namespace(number)), Some(443)),
        rule(origin(2), RuleAction::Allow, of(of_range(number)), Some(53)),
    ]
}

/// What `policies` policies come to for a number of endpoints with rules of their own, each of
/// which every `selects`th policy selects.
pub fn policies(policies: u32, endpoints: u32, selects: u32) -> Vec<Object> {
    let table = |endpoint: u32| {
        let side = |direction: &str| {
            let mine = (0..policies).filter(|number| number % selects == endpoint % selects);
            mine.flat_map(|number| policy(number, direction)).chain([deny_all()]).collect()
        };
        let name = format!("rules {endpoint}");
        let (ingress, egress) = (side("ingress"), side("egress"));
        Object::PolicyRules(PolicyRules { name, ingress, egress })
    };
    (0..endpoints).map(table).collect()
}

/// A pod of this node.
pub fn endpoint(number: u32, policy: &str) -> Object {
    let [_, _, high, low] = number.to_be_bytes();
    let addr = Addr::from_v4([172, 16, high, low]);
    let name = format!("bench/pod-{number}");
    let mut pod = Endpoint::new(&name, PortId(1 + number), Mac([2; 6]), vec![addr]);
    pod.policy = Some(policy.to_owned());
    Object::Endpoint(pod)
}

pub fn load(tables: &mut Tables, objects: impl IntoIterator<Item = Object>) {
    for object in objects {
        tables.upsert(object).expect("a valid object");
    }
}
