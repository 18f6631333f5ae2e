//! Services as Kubernetes writes them: 100 to a file, 10 endpoints each, every tenth of type
//! LoadBalancer.

use std::fmt::Write;

pub const ENDPOINTS: u32 = 10;
pub const PER_FILE: u32 = 100;
/// One in so many is of type LoadBalancer: it has a Maglev table.
const LOAD_BALANCER_EVERY: u32 = 10;

/// File name and text of every file.
pub fn files(services: u32) -> Vec<(String, String)> {
    let file = |first: u32| {
        let mut text = String::new();
        for number in first..(first + PER_FILE).min(services) {
            write_service(&mut text, number);
        }
        (format!("services-{:04}", first / PER_FILE), text)
    };
    (0..services).step_by(PER_FILE as usize).map(file).collect()
}

fn write_service(text: &mut String, number: u32) {
    let (high, low) = (number >> 8, number & 255);
    let is_balanced = number.is_multiple_of(LOAD_BALANCER_EVERY);
    let (kind, status) = if is_balanced {
        let ingress =
            format!("status: {{loadBalancer: {{ingress: [{{ip: 198.18.{high}.{low}}}]}}}}\n");
        ("LoadBalancer", ingress)
    } else {
        ("ClusterIP", String::new())
    };
    let _ = write!(
        text,
        "---
apiVersion: v1
kind: Service
metadata:
  name: s{number}
  namespace: default
spec:
  type: {kind}
  clusterIP: 10.96.{high}.{low}
  clusterIPs:
  - 10.96.{high}.{low}
  sessionAffinity: None
  ports:
  - name: http
    port: 80
    protocol: TCP
    targetPort: 8080
{status}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: s{number}-x
  namespace: default
  labels:
    kubernetes.io/service-name: s{number}
addressType: IPv4
ports:
- name: http
  port: 8080
  protocol: TCP
endpoints:
"
    );
    for endpoint in 0..ENDPOINTS {
        let node = (number + endpoint) % 500;
        let _ = write!(
            text,
            "- addresses:
  - 10.{}.{high}.{low}
  conditions:
    ready: true
    serving: true
    terminating: false
  nodeName: n{node}
  zone: z{}
",
            100 + endpoint,
            node % 3
        );
    }
}
