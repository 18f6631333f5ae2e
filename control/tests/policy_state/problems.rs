//! What of policies people are told about.

use weir_control::policy::Enforcement;

use crate::engine::Engine;

const HEAD: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p, namespace: default}
spec:
  endpointSelector: {}
";

fn problems(engine: &Engine) -> Vec<String> {
    let mut all = engine.state.problems();
    all.iter_mut().for_each(|it| it.location = None);
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn a_group_that_does_not_exist_is_named_until_it_does() {
    let mut engine = Engine::new(Enforcement::Default);
    let policy = format!(
        "{HEAD}  ingress: [{{fromCIDRSet: [{{cidrGroupRef: bad}}]}}]
  egress: [{{toCIDRSet: [{{cidr: 10.0.0.0/8}}, {{cidrGroupRef: bad}}]}}]
"
    );
    engine.read(&policy);
    let expected = [
        "CiliumNetworkPolicy default/p: refused: spec.ingress[0]: CiliumCIDRGroup bad does not \
         exist: the rule is about nobody until it does",
        "CiliumNetworkPolicy default/p: refused: spec.egress[0]: CiliumCIDRGroup bad does not \
         exist: the rule is about its other peers alone until it does",
    ];
    assert_eq!(problems(&engine), expected);
    let group = "---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: bad}
spec: {externalCIDRs: [203.0.113.0/24]}
";
    engine.read(&format!("{policy}{group}"));
    assert_eq!(problems(&engine), [] as [&str; 0]);
    engine.read(&policy);
    assert_eq!(problems(&engine), expected, "and when it goes");
}

#[test]
fn rules_that_need_what_is_not_there_are_named_once_each() {
    let mut engine = Engine::new(Enforcement::Default);
    engine.read(&format!(
        "{HEAD}  ingress:
  - fromEntities: [all]
    toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{{method: GET}}]}}}}]
  egress:
  - toFQDNs: [{{matchName: a.example}}, {{matchName: b.example}}]
"
    ));
    assert_eq!(
        problems(&engine),
        [
            "CiliumNetworkPolicy default/p: ignored: spec.ingress[0].toPorts[0]: needs the L7 \
             proxy, which is not there yet: such connections are dropped",
            "CiliumNetworkPolicy default/p: ignored: spec.egress[0]: no DNS answers are known \
             yet: the rule is about nobody",
        ]
    );
}
