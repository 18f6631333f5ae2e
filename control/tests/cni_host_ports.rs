//! Ports of the node that a runtime asks for: those of the Pod object once more, or the only ones.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use common::FakeInterfaces;
use weir_api::v1::{AttachEndpointRequest, Bandwidth, PortMapping, Protocol};
use weir_control::desired::{Desired, NodeSettings};
use weir_control::endpoints::{EndpointError, EndpointStore};
use weir_control::model::{HostPort, Name, Object, Pod};

fn desired() -> Desired {
    Desired::new(NodeSettings {
        name: "n1".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        ..NodeSettings::default()
    })
}

fn request() -> AttachEndpointRequest {
    AttachEndpointRequest {
        name: "default/web".into(),
        interface: "veth1".into(),
        mac: "02:00:00:00:00:01".into(),
        addresses: vec!["10.0.0.1".into(), "fd00::1".into()],
        port_mappings: vec![PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp.into(),
            host_ip: String::new(),
        }],
        bandwidth: Some(Bandwidth { egress_bits_per_s: 1_000_000, ..Bandwidth::default() }),
    }
}

fn frontends(desired: &mut Desired) -> Vec<String> {
    desired.recompute();
    desired.frontends().map(|it| it.key.as_ref().unwrap().to_string()).collect()
}

fn pod(host_ports: Vec<HostPort>) -> Pod {
    Pod {
        name: Name::new("default", "web"),
        origin: None,
        labels: [].into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        is_ready: true,
        is_terminating: false,
        ports: Vec::new(),
        created: None,
        node: Some("n1".into()),
        host_ports,
        service_account: "default".into(),
        is_host_network: false,
        is_policy_audited: false,
    }
}

#[test]
fn mappings_are_kept_on_disk_and_lead_to_the_pod() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.json");
    let mut store = EndpointStore::open(&path, "boot", Box::new(FakeInterfaces)).unwrap();
    store.attach(&request()).unwrap();
    let store = EndpointStore::open(&path, "boot", Box::new(FakeInterfaces)).unwrap();
    let endpoint = store.find_by_interface("veth1").unwrap();
    let object = endpoint.to_object().unwrap();
    assert_eq!(object.bandwidth.unwrap().egress_bits_per_s, 1_000_000);

    let mut desired = desired();
    desired.put_endpoint(object);
    desired.set_port_mappings(&endpoint.name, endpoint.host_ports());
    let both = ["0.0.0.0:8080/TCP", "[::]:8080/TCP"];
    assert_eq!(frontends(&mut desired), both, "without a Pod object");
    desired.remove_endpoint("default/web");
    assert_eq!(frontends(&mut desired), [] as [&str; 0]);
}

#[test]
fn what_the_pod_says_too_counts_once() {
    let mut desired = desired();
    let host_port = |l4_port| HostPort {
        host_ip: Some("192.0.2.1".parse().unwrap()),
        l4_port,
        protocol: Protocol::Tcp,
        container_port: 80,
    };
    desired.upsert(Object::Pod(pod(vec![host_port(8080)])));
    let mapped = HostPort { host_ip: None, ..host_port(8080) };
    desired.set_port_mappings("default/web", vec![mapped, host_port(9090)]);
    assert_eq!(frontends(&mut desired), ["192.0.2.1:8080/TCP", "192.0.2.1:9090/TCP"]);
    assert!(desired.problems().iter().all(|it| !it.object.contains("default/web")));
    // A pod of the same name elsewhere has nothing to do with it.
    let elsewhere = Pod { node: Some("n2".into()), ..pod(vec![host_port(7070)]) };
    desired.upsert(Object::Pod(elsewhere));
    assert_eq!(frontends(&mut desired), [] as [&str; 0], "no address is known of ours");
    desired.set_port_mappings("default/web", Vec::new());
    assert_eq!(frontends(&mut desired), [] as [&str; 0]);
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.json");
    let mut store = EndpointStore::open(&path, "boot", Box::new(FakeInterfaces)).unwrap();
    type Spoil = fn(&mut PortMapping);
    let change: [(Spoil, &str); 4] = [
        (|it| it.host_port = 0, "port of the host: port 0"),
        (|it| it.container_port = 65_536, "port of the container: port 65536"),
        (|it| it.protocol = Protocol::Icmp.into(), "ICMP has no ports"),
        (|it| it.host_ip = "node".into(), "\"node\" is not an IP address"),
    ];
    for (spoil, expected) in change {
        let mut request = request();
        spoil(&mut request.port_mappings[0]);
        let error = store.attach(&request).unwrap_err();
        assert!(matches!(error, EndpointError::PortMapping { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error} does not say {expected}");
    }
    assert_eq!(store.iter().count(), 0);
}
