//! What each part of policy gives, from manifests.

use weir_control::model::{Cidr, Name, Severity};
use weir_control::policy::Enforcement;
use weir_tables::policy::{L4, PolicyAction, RuleAction};

use crate::engine::{Egress, Engine, Ingress, ip, name, tcp};

const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {team: red}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web, pod-template-hash: abc}}
spec:
  serviceAccountName: sa
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default, labels: {app: client, pod-template-hash: abc}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: other, labels: {app: client}}
spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 9090}]}]}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {role: edge}}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";

fn engine(policies: &str) -> Engine {
    let mut engine = Engine::new(Enforcement::Default);
    engine.read(&format!("{CLUSTER}\n---\n{policies}"));
    engine
}

fn judge(engine: &Engine, from: &str, port: u16) -> (PolicyAction, String) {
    engine.judge(&name("default/web"), Ingress, ip(from), tcp(port))
}

const WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: http}]
";

#[test]
fn verdicts_name_the_rule_and_default_deny_names_its_policies() {
    let engine = engine(WEB);
    let allowed = (PolicyAction::Allow, "NetworkPolicy default/web: spec.ingress[0]".to_owned());
    let denied = (PolicyAction::Deny, "default deny of NetworkPolicy default/web".to_owned());
    assert_eq!(judge(&engine, "10.0.0.2", 8080), allowed);
    assert_eq!(judge(&engine, "10.0.0.2", 80), denied, "named ports are the pod's own");
    assert_eq!(judge(&engine, "10.0.0.3", 8080), denied, "another namespace");
    let egress = engine.judge(&name("default/web"), Egress, ip("10.0.0.3"), tcp(1));
    assert_eq!(egress.0, PolicyAction::Allow, "no policy is about egress");
    assert_eq!(engine.state.endpoint(&name("default/client")).rules, None);
}

#[test]
fn identities_have_the_labels_of_the_reference() {
    let engine = engine("");
    let web = engine.state.identity_of(&name("default/web")).unwrap();
    assert!(web.0 >= 256, "{web:?}");
    assert_eq!(
        engine.labels_of(ip("10.0.0.1")),
        [
            "k8s:app=web",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
            "k8s:io.cilium.k8s.namespace.labels.team=red",
            "k8s:io.cilium.k8s.policy.cluster=default",
            "k8s:io.cilium.k8s.policy.serviceaccount=sa",
            "k8s:io.kubernetes.pod.namespace=default",
        ]
    );
    assert_eq!(engine.labels_of(ip("192.0.2.1")), ["reserved:host"]);
    assert_eq!(engine.labels_of(ip("192.0.2.2")), ["reserved:remote-node"]);
    assert_eq!(engine.labels_of(ip("8.8.8.8")), ["reserved:world", "reserved:world-ipv4"]);
    assert_eq!(engine.labels_of(ip("2001:db8::1")), ["reserved:world", "reserved:world-ipv6"]);
}

#[test]
fn a_label_that_is_left_out_counts_where_a_policy_asks() {
    let mut engine = engine(&WEB.replace("{app: client}", "{pod-template-hash: abc}"));
    assert_eq!(judge(&engine, "10.0.0.2", 8080).0, PolicyAction::Allow);
    assert_eq!(judge(&engine, "10.0.0.3", 8080).0, PolicyAction::Deny);
    assert!(engine.labels_of(ip("10.0.0.2")).contains(&"k8s:pod-template-hash=abc".to_owned()));
    engine.read(CLUSTER);
    assert!(!engine.labels_of(ip("10.0.0.2")).contains(&"k8s:pod-template-hash=abc".to_owned()));
}

#[test]
fn egress_to_a_named_port_is_the_union_over_the_peers() {
    let mut engine = engine(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: default}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]
",
    );
    let judge = |engine: &Engine, to: &str, port| {
        engine.judge(&name("default/client"), Egress, ip(to), tcp(port)).0
    };
    assert_eq!(judge(&engine, "10.0.0.1", 8080), PolicyAction::Allow);
    assert_eq!(judge(&engine, "10.0.0.1", 9090), PolicyAction::Allow);
    assert_eq!(judge(&engine, "10.0.0.1", 80), PolicyAction::Deny);
    assert_eq!(judge(&engine, "192.0.2.2", 8080), PolicyAction::Deny, "a node is no pod");
    let key = weir_control::model::ObjectKey {
        kind: weir_control::model::Kind::Pod,
        name: name("other/client"),
    };
    engine.state.remove(&key);
    engine.settle();
    assert_eq!(judge(&engine, "10.0.0.1", 9090), PolicyAction::Deny);
}

#[test]
fn a_service_without_a_selector_has_the_named_ports_of_the_pods_behind_it() {
    let engine = engine(
        "
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bare, namespace: default, labels: {kubernetes.io/service-name: bare}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toEntities: [all]}]
  egressDeny:
  - toServices: [{k8sService: {serviceName: bare, namespace: default}}]
    toPorts: [{ports: [{port: http, protocol: TCP}]}]
",
    );
    let judge = |to, port| engine.judge(&name("default/client"), Egress, ip(to), tcp(port)).0;
    assert_eq!(judge("10.0.0.1", 8080), PolicyAction::Deny);
    assert_eq!(judge("10.0.0.1", 9090), PolicyAction::Allow, "the port of another pod");
    assert_eq!(judge("10.0.0.3", 8080), PolicyAction::Allow, "not behind the service");
}

#[test]
fn ranges_of_each_language_mean_what_they_mean_there() {
    let any = WEB.replace(
        "[{podSelector: {matchLabels: {app: client}}}]",
        "[{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.3/32]}}]",
    );
    let engine_any = engine(&any);
    assert_eq!(judge(&engine_any, "10.0.0.2", 8080).0, PolicyAction::Allow, "also a pod's address");
    assert_eq!(judge(&engine_any, "10.0.0.3", 8080).0, PolicyAction::Deny);
    assert_eq!(judge(&engine_any, "10.9.9.9", 8080).0, PolicyAction::Allow);
    let world = engine(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromCIDR: [10.0.0.0/8]}]
",
    );
    assert_eq!(judge(&world, "10.0.0.2", 8080).0, PolicyAction::Deny, "a pod is not the world");
    assert_eq!(judge(&world, "10.9.9.9", 8080).0, PolicyAction::Allow);
    let labels = world.labels_of(ip("10.9.9.9"));
    assert_eq!(labels, ["cidr:10.0.0.0/8", "reserved:world", "reserved:world-ipv4"]);
}

#[test]
fn the_api_server_is_known_by_the_addresses_of_its_service() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{name: https, port: 6443}]
endpoints: [{addresses: [192.0.2.1]}, {addresses: [192.0.2.2]}, {addresses: [203.0.113.5]}]
";
    let engine = engine(slice);
    assert_eq!(engine.labels_of(ip("192.0.2.1")), ["reserved:host", "reserved:kube-apiserver"]);
    let remote = ["reserved:kube-apiserver", "reserved:remote-node"];
    assert_eq!(engine.labels_of(ip("192.0.2.2")), remote);
    assert_eq!(engine.view.peer(&ip("192.0.2.2").into()).identity.0, 7);
    let outside = ["reserved:kube-apiserver", "reserved:world", "reserved:world-ipv4"];
    assert_eq!(engine.labels_of(ip("203.0.113.5")), outside);
}

#[test]
fn an_endpoint_without_a_pod_is_denied_once_there_is_any_policy() {
    let mut engine = engine(WEB);
    let stranger = name("default/stranger");
    engine.state.attach(&stranger, Some(vec![ip("10.0.0.77")]));
    engine.settle();
    let verdict = engine.judge(&stranger, Ingress, ip("10.0.0.2"), tcp(1));
    let origin = "default deny of endpoints without a Pod object".to_owned();
    assert_eq!(verdict, (PolicyAction::Deny, origin));
    assert_eq!(engine.labels_of(ip("10.0.0.77")), ["reserved:init"]);
    engine.read(CLUSTER);
    assert_eq!(engine.state.endpoint(&stranger).rules, None, "no policy, no isolation");
}

#[test]
fn enforcement_modes() {
    let mut always = Engine::new(Enforcement::Always);
    always.read(&format!("{CLUSTER}\n---\n{WEB}"));
    let client = name("default/client");
    let verdict = always.judge(&client, Egress, ip("10.0.0.1"), tcp(1));
    assert_eq!(verdict.1, "default deny of enforcement mode always");
    assert_eq!(judge(&always, "10.0.0.2", 8080).0, PolicyAction::Allow);
    let mut never = Engine::new(Enforcement::Never);
    never.read(&format!("{CLUSTER}\n---\n{WEB}"));
    assert_eq!(never.state.endpoint(&name("default/web")).rules, None);
}

#[test]
fn redirects_go_before_allows_and_denials_before_both() {
    let engine = engine(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEntities: [cluster]
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: '8080', protocol: TCP}], rules: {http: [{method: GET}]}}]
  ingressDeny:
  - fromEntities: [world]
",
    );
    let rules = engine.state.endpoint(&name("default/web")).rules.unwrap();
    let actions: Vec<_> = engine.rules[&rules].ingress.iter().map(|it| &it.action).collect();
    assert!(
        matches!(
            actions[..],
            [RuleAction::Deny, RuleAction::Redirect { .. }, RuleAction::Allow, RuleAction::Deny]
        ),
        "{actions:?}"
    );
    assert_eq!(judge(&engine, "10.0.0.2", 8080).0, PolicyAction::Redirect);
    assert_eq!(judge(&engine, "10.0.0.3", 8080).0, PolicyAction::Allow, "another namespace");
    assert_eq!(judge(&engine, "8.8.8.8", 8080).0, PolicyAction::Deny);
}

#[test]
fn what_cannot_be_done_fails_closed_and_is_reported() {
    let mut engine = Engine::new(Enforcement::Default);
    let text = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: groups, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromGroups: [{aws: {securityGroupsIds: [sg-1]}}]
  - fromEntities: [host]
";
    engine.read(&format!("{CLUSTER}\n---\n{text}"));
    let problems = engine.state.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].object, "CiliumNetworkPolicy default/groups");
    assert!(problems[0].reason.starts_with("spec.ingress[0]"), "{problems:?}");
    assert_eq!(problems[0].severity, Severity::Refused);
    assert_eq!(judge(&engine, "10.0.0.2", 8080).0, PolicyAction::Deny);
    assert_eq!(judge(&engine, "192.0.2.1", 8080).0, PolicyAction::Allow);
}

#[test]
fn endpoints_that_the_same_policies_select_share_their_rules() {
    let all = WEB.replace("{matchLabels: {app: web}}", "{}").replace("port: http", "port: 80");
    let mut engine = engine(&all);
    let rules = |engine: &Engine, pod: &str| engine.state.endpoint(&name(pod)).rules;
    let of_web = rules(&engine, "default/web");
    assert!(of_web.is_some());
    assert_eq!(of_web, rules(&engine, "default/client"));
    engine.read(&format!("{CLUSTER}\n---\n{}", all.replace("port: 80", "port: 81")));
    assert_eq!(of_web, rules(&engine, "default/client"), "the name stays");
    assert_eq!(judge(&engine, "10.0.0.2", 81).0, PolicyAction::Allow);
    let explained = engine.state.explain_rules(&of_web.unwrap());
    let wanted = "endpoints default/client, default/web; policies NetworkPolicy default/web";
    assert_eq!(explained, wanted);
}

#[test]
fn a_new_pod_with_known_labels_changes_one_address() {
    let mut engine = engine(WEB);
    let mut clone =
        CLUSTER.replace("{name: client, namespace: default", "{name: c2, namespace: default");
    clone = clone.replace("10.0.0.2", "10.0.0.4");
    engine.read(&format!("{CLUSTER}\n---\n{WEB}\n---\n{}", pod_named(&clone, "c2")));
    assert_eq!(judge(&engine, "10.0.0.4", 8080).0, PolicyAction::Allow);
    let pods = [name("default/client"), name("default/c2")];
    let [one, other] = pods.map(|it| engine.state.identity_of(&it));
    assert_eq!(one, other);
}

/// One document of many.
fn pod_named<'a>(text: &'a str, name: &str) -> &'a str {
    let is_it = |it: &&str| it.contains(&format!("{{name: {name},"));
    text.split("---").find(is_it).unwrap()
}

/// The rules of one that goes become those of one that comes, and must be written again.
#[test]
fn rules_that_are_taken_over_are_up_to_date() {
    let all = WEB.replace("{matchLabels: {app: web}}", "{}").replace("port: http", "port: 80");
    let mut engine = Engine::new(Enforcement::Default);
    engine.read(&format!("{CLUSTER}\n---\n{all}"));
    for pod in ["default/web", "other/client"] {
        engine.state.set_local(&name(pod), false);
    }
    engine.settle();
    // All in one moment: one endpoint leaves, another comes, and the policy changes.
    engine.state.set_local(&name("default/client"), false);
    engine.state.set_local(&name("default/web"), true);
    engine.read(&format!("{CLUSTER}\n---\n{}", all.replace("port: 80", "port: 81")));
    assert_eq!(judge(&engine, "10.0.0.2", 81).0, PolicyAction::Allow);
    assert_eq!(judge(&engine, "10.0.0.2", 80).0, PolicyAction::Deny);
}

#[test]
fn icmp_types_stand_in_place_of_ports() {
    let engine = engine(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ping, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromEntities: [all], icmps: [{fields: [{family: IPv4, type: 8}]}]}]
",
    );
    let judge = |l4| engine.judge(&name("default/web"), Ingress, ip("10.0.0.2"), l4).0;
    assert_eq!(judge(L4::new(1, 8)), PolicyAction::Allow);
    assert_eq!(judge(L4::new(1, 0)), PolicyAction::Deny);
    assert_eq!(judge(L4::new(58, 8)), PolicyAction::Deny);
    assert_eq!(judge(tcp(8)), PolicyAction::Deny);
}

#[test]
fn node_labels_count_while_a_policy_asks_for_them() {
    let mut engine = engine(
        "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: edge}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress: [{action: Deny, to: [{nodes: {matchLabels: {role: edge}}}]}]
",
    );
    let judge = |engine: &Engine, to| engine.judge(&name("default/web"), Egress, ip(to), tcp(1)).0;
    assert_eq!(judge(&engine, "192.0.2.2"), PolicyAction::Deny);
    assert_eq!(judge(&engine, "192.0.2.1"), PolicyAction::Allow);
    assert!(engine.labels_of(ip("192.0.2.2")).contains(&"node:role=edge".to_owned()));
    engine.read(CLUSTER);
    assert_eq!(engine.labels_of(ip("192.0.2.2")), ["reserved:remote-node"]);
}

#[test]
fn ranges_know_what_is_in_them() {
    let range: Cidr = "10.0.0.0/30".parse().unwrap();
    assert!(range.contains(ip("10.0.0.3")) && !range.contains(ip("10.0.0.4")));
    assert!(!range.contains(ip("::a00:3")));
    assert_eq!(Name::parse("a"), None);
}
