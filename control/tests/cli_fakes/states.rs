//! A node as it should be, and what can be wrong with it.

use weir_api::v1::{
    AgentStatus, Bandwidth, DataplaneStatus, DeviceStatus, EndpointPolicy, EndpointState, Gauge,
    Problem, Severity, WorkerStatus,
};

use super::Answers;

/// Two workers, one uplink, three pods.
pub fn healthy() -> Answers {
    Answers {
        agent: AgentStatus {
            version: "0.1.0".into(),
            pid: 4242,
            node: "worker-1".into(),
            synced: true,
            dataplane_connected: true,
            sent_revision: 8,
            acknowledged_revision: 8,
            services: 12,
            backends: 48,
            endpoints: 3,
            policies: 1,
            source: "kubernetes https://10.0.0.1:6443".into(),
            ..AgentStatus::default()
        },
        dataplane: dataplane(),
        endpoints: endpoints(),
        policy: weir_api::v1::PolicyReply { endpoints: policies() },
    }
}

fn dataplane() -> DataplaneStatus {
    let worker = |worker: u32| WorkerStatus {
        worker,
        cpu: worker as i32,
        snapshot_revision: 24,
        turns: 1_234_567,
        rx_packets: 92_649,
        tx_packets: 82_955,
        dropped_packets: 21,
        flows: 6762 - 1000 * u64::from(worker),
        flows_max: 524_288,
        frames_free: 10_240,
        frames_home: 16_384,
    };
    let device = |name: &str, queue, worker, reason: &str| DeviceStatus {
        name: name.into(),
        queue,
        worker,
        xdp_mode: "native".into(),
        reason: reason.into(),
        ..DeviceStatus::default()
    };
    let capability = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    DataplaneStatus {
        version: "0.1.0".into(),
        pid: 4240,
        uptime_ns: 11_000 * 1_000_000_000,
        accepted_revision: 24,
        snapshot_revision: 24,
        agent_connected: true,
        workers: vec![worker(0), worker(1)],
        devices: vec![
            device("eth0", 0, 0, "the driver supports it"),
            device("eth0", 1, 1, "the driver supports it"),
            device("weirt0i", 0, 0, ""),
            device("weirt1i", 0, 1, ""),
        ],
        gauges: (0..2)
            .flat_map(|it| {
                [gauge("flows", it, 6762, 524_288), gauge("frames in use", it, 6144, 16_384)]
            })
            .collect(),
        mtu: 1500,
        capabilities: [
            capability("kernel", "6.18.44"),
            capability("tcx", "yes"),
            capability("huge pages", "none reserved: vm.nr_hugepages is 0"),
        ]
        .into(),
        ..DataplaneStatus::default()
    }
}

/// How full something of a worker is.
pub fn gauge(name: &str, worker: u32, used: u64, limit: u64) -> Gauge {
    let labels = [("worker".to_owned(), worker.to_string())].into();
    Gauge { name: name.into(), labels, used, limit }
}

pub fn problem(object: &str, location: &str, severity: Severity, reason: &str) -> Problem {
    Problem {
        object: object.into(),
        location: location.into(),
        reason: reason.into(),
        severity: severity.into(),
    }
}

fn endpoints() -> Vec<EndpointState> {
    let endpoint = |name: &str, number: u32| EndpointState {
        name: name.into(),
        interface: format!("veth{number}"),
        ifindex: 10 + number,
        mac: "02:00:00:00:00:01".into(),
        addresses: vec![format!("10.244.0.{number}")],
        state: "ready".into(),
        ..EndpointState::default()
    };
    let limited = Bandwidth {
        ingress_bits_per_s: 10_000_000,
        egress_bits_per_s: 1_500_000_000,
        ..Bandwidth::default()
    };
    vec![
        EndpointState { bandwidth: Some(limited), ..endpoint("default/web-1", 1) },
        EndpointState {
            addresses: vec!["10.244.0.2".into(), "fd00:244::2".into()],
            ..endpoint("default/web-2", 2)
        },
        EndpointState {
            state: "interface veth3 is gone: detach, or attach again".into(),
            ..endpoint("shop/db", 3)
        },
    ]
}

fn policies() -> Vec<EndpointPolicy> {
    let policy = |name: &str, identity, rules: &str| EndpointPolicy {
        name: name.into(),
        identity,
        policy_rules: rules.into(),
        ..EndpointPolicy::default()
    };
    vec![
        EndpointPolicy { has_ingress: true, ..policy("default/web-1", 1001, "rules-1") },
        policy("default/web-2", 1002, ""),
        EndpointPolicy { is_closed: true, ..policy("shop/db", 1003, "rules-2") },
    ]
}
