//! Services under policy: ingress is judged by the real client, egress by the real backend.

use anyhow::{Result, ensure};
use weir_lab::probe::{Outcome, Protocol};

use crate::{
    bed::Bed,
    small::{ask, serve_pods},
};

/// A service with the pod y/b behind it, which listens on port 80.
const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: y}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  ipFamilyPolicy: RequireDualStack
  clusterIP: 10.96.0.50
  clusterIPs: [10.96.0.50, "fd00:10:96::50"]
  selector: {pod: b}
  ports: [{name: http, port: 8000, targetPort: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: svc-4, namespace: y, labels: {kubernetes.io/service-name: svc}}
addressType: IPv4
endpoints: [{addresses: [10.244.2.2], nodeName: node-2, conditions: {ready: true}}]
ports: [{name: http, port: 80, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: svc-6, namespace: y, labels: {kubernetes.io/service-name: svc}}
addressType: IPv6
endpoints: [{addresses: ["fd00:244:2::2"], nodeName: node-2, conditions: {ready: true}}]
ports: [{name: http, port: 80, protocol: TCP}]
"#;

const CLUSTER_IPS: [&str; 2] = ["10.96.0.50", "fd00:10:96::50"];
/// Of the node that the backend is on.
const NODE_2: [&str; 2] = ["172.18.0.3", "fd00:18::3"];
/// Whom the policies name, and whom they do not.
const OUTSIDE: [[&str; 2]; 2] = [["203.0.113.10", "198.51.100.7"], ["2001:db8::1", "2001:db8::2"]];

/// Who may ask the pod behind it.
const INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: clients, namespace: y}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress:
    - from:
        - namespaceSelector: {matchLabels: {ns: x}}
          podSelector: {matchLabels: {pod: a}}
        - ipBlock: {cidr: 203.0.113.10/32}
        - ipBlock: {cidr: "2001:db8::1/128"}
      ports: [{port: 80}]
"#;

type Ask = (&'static str, &'static str, Protocol, u16);

pub fn check_ingress(bed: &Bed) -> Result<()> {
    serve_pods(bed)?;
    bed.apply(SERVICE)?;
    let mut asked: Vec<(Ask, bool)> = Vec::new();
    for family in [0, 1] {
        let [friend, stranger] = OUTSIDE[family];
        // Only a node that was asked by it knows the real client.
        asked.push(((friend, NODE_2[family], Protocol::Tcp, 30_080), true));
        asked.push(((stranger, NODE_2[family], Protocol::Tcp, 30_080), false));
        for (pod, may) in [("x/a", true), ("x/c", false), ("y/a", false), ("z/b", false)] {
            asked.push(((pod, CLUSTER_IPS[family], Protocol::Tcp, 8000), may));
        }
    }
    let open: Vec<(Ask, bool)> = asked.iter().map(|(ask, _)| (*ask, true)).collect();
    expect(bed, "no policy", &open)?;
    bed.apply(&format!("{SERVICE}\n---\n{INGRESS}"))?;
    expect(bed, "ingress at the backend", &asked)
}

/// Whom x/a may ask: the pod behind the service, at its own port.
const EGRESS_TO_BACKEND: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: asks, namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress:
    - to: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}]
      ports: [{port: 80}]
";

/// The service's own addresses and port, which no packet has that is judged.
const EGRESS_TO_SERVICE: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: asks, namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress:
    - to: [{ipBlock: {cidr: 10.96.0.0/12}}, {ipBlock: {cidr: "fd00:10:96::/112"}}]
"#;

pub fn check_egress(bed: &Bed) -> Result<()> {
    serve_pods(bed)?;
    for (what, policy, may) in [
        ("egress to the backend", EGRESS_TO_BACKEND, true),
        ("egress to the cluster IP", EGRESS_TO_SERVICE, false),
    ] {
        bed.apply(&format!("{SERVICE}\n---\n{policy}"))?;
        let mut asked: Vec<(Ask, bool)> = Vec::new();
        for address in CLUSTER_IPS {
            asked.push((("x/a", address, Protocol::Tcp, 8000), may));
            asked.push((("x/c", address, Protocol::Tcp, 8000), true));
        }
        expect(bed, what, &asked)?;
    }
    Ok(())
}

fn expect(bed: &Bed, what: &str, asked: &[(Ask, bool)]) -> Result<()> {
    let questions: Vec<Ask> = asked.iter().map(|(ask, _)| *ask).collect();
    let outcomes = ask(bed, &questions)?;
    let mut wrong = Vec::new();
    for ((ask, may), (outcome, _)) in asked.iter().zip(&outcomes) {
        let is_right = match may {
            true => *outcome == Outcome::Answered,
            false => *outcome == Outcome::Silent,
        };
        if !is_right {
            wrong.push(format!("{ask:?}: {outcome:?}"));
        }
    }
    println!("    {what}: {} of {} as expected", asked.len() - wrong.len(), asked.len());
    ensure!(wrong.is_empty(), "{what}: {wrong:?}");
    Ok(())
}
