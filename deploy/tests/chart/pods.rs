//! What runs in the pods, and with which rights.

use serde_json::{Value, json};

use crate::helm::{find, list, pick, texts};

/// What the dataplane needs; found by leaving out one at a time.
const DATAPLANE_CAPABILITIES: [&str; 5] = ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON", "IPC_LOCK"];

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = list(&pod["initContainers"]).iter().chain(list(&pod["containers"]));
    all.into_iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn mounts(container: &Value) -> Vec<&str> {
    let mounts = list(&container["volumeMounts"]);
    mounts.iter().map(|it| it["name"].as_str().unwrap()).collect()
}

fn args(objects: &[Value], name: &str) -> Vec<String> {
    let pod = &pick(objects, "DaemonSet weir")["spec"]["template"]["spec"];
    let args = texts(&container(pod, name)["args"]);
    args.into_iter().map(Into::into).collect()
}

#[test]
fn nobody_has_more_rights_than_it_needs() {
    let Some(helm) = find() else { return };
    let objects = helm.render(&[]).unwrap();
    let pods = ["DaemonSet weir", "Deployment weir-operator"]
        .map(|it| &pick(&objects, it)["spec"]["template"]["spec"]);
    for pod in pods {
        assert_ne!(pod["hostPID"], true);
        assert_ne!(pod["hostIPC"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in list(&pod["initContainers"]).iter().chain(list(&pod["containers"])) {
            let context = &container["securityContext"];
            assert_ne!(context["privileged"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
            let added = texts(&context["capabilities"]["add"]);
            let is_dataplane = container["name"] == "dataplane";
            let expected = if is_dataplane { &DATAPLANE_CAPABILITIES[..] } else { &[] };
            assert_eq!(added, expected, "{}", container["name"]);
            let is_unconfined = context["seccompProfile"]["type"] == "Unconfined";
            assert_eq!(is_unconfined, is_dataplane);
        }
    }
    let [node, operator] = pods;
    assert_eq!(operator["securityContext"]["runAsNonRoot"], true);
    assert!(list(&operator["volumes"]).iter().all(|it| it.get("hostPath").is_none()));
    // The host's programs are writable only for the container that installs one and ends.
    let cases: [(&str, &[&str]); 3] = [
        ("install-cni", &["cni-bin"]),
        ("dataplane", &["run", "state", "bpf", "proc-sys", "health"]),
        ("agent", &["run", "state", "cni-conf", "health"]),
    ];
    for (name, expected) in cases {
        assert_eq!(mounts(container(node, name)), expected, "{name}");
    }
}

/// With ports on the host's network the next pod of an update could not be scheduled.
#[test]
fn the_next_pod_of_an_update_fits_beside_the_one_before() {
    let Some(helm) = find() else { return };
    let objects = helm.render(&["monitoring.enabled=true"]).unwrap();
    let daemon_set = pick(&objects, "DaemonSet weir");
    let rolling = &daemon_set["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(*rolling, json!({"maxSurge": 1, "maxUnavailable": 0}));
    let pod = &daemon_set["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    for name in ["dataplane", "agent"] {
        let container = container(pod, name);
        assert!(container.get("ports").is_none());
        assert!(texts(&container["args"]).contains(&"--standby"), "{name}");
        // A probe asks the program itself, at a socket of this pod alone.
        let socket = format!("/run/weir-health/{name}.sock");
        assert!(texts(&container["args"]).contains(&&*format!("--health-socket={socket}")));
        for probe in ["startupProbe", "readinessProbe"] {
            let command = texts(&container[probe]["exec"]["command"]);
            assert_eq!(command[1..], ["--check-health", &socket], "{name} {probe}");
        }
    }
    let health = list(&pod["volumes"]).iter().find(|it| it["name"] == "health").unwrap();
    assert!(health.get("emptyDir").is_some());
}

#[test]
fn pods_come_up_before_there_is_a_network() {
    let Some(helm) = find() else { return };
    let objects = helm.render(&["apiServer.host=fd00::1", "apiServer.port=443"]).unwrap();
    let node = &pick(&objects, "DaemonSet weir")["spec"]["template"]["spec"];
    let operator = &pick(&objects, "Deployment weir-operator")["spec"]["template"]["spec"];
    assert_eq!(list(&node["tolerations"]), [json!({"operator": "Exists"})]);
    let tolerated: Vec<&Value> =
        list(&operator["tolerations"]).iter().map(|it| &it["key"]).collect();
    for key in [
        "weir.dev/agent-not-ready",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/network-unavailable",
    ] {
        assert!(tolerated.contains(&&json!(key)), "{key}");
    }
    for (pod, name) in [(node, "agent"), (operator, "operator")] {
        assert_eq!(pod["hostNetwork"], true);
        assert_eq!(pod["dnsPolicy"], "Default");
        let env = list(&container(pod, name)["env"]);
        for (name, value) in
            [("KUBERNETES_SERVICE_HOST", "fd00::1"), ("KUBERNETES_SERVICE_PORT", "443")]
        {
            assert!(env.contains(&json!({"name": name, "value": value})), "{env:?}");
        }
    }
    // Both are needed by every other pod.
    assert_eq!(node["priorityClassName"], "system-node-critical");
    assert_eq!(operator["priorityClassName"], "system-cluster-critical");
}

#[test]
fn values_become_flags() {
    let Some(helm) = find() else { return };
    let objects = helm
        .render(&[
            "dataplane.workers=4",
            "dataplane.pinWorkers=false",
            "dataplane.uplinks={eth0,eth1}",
            "dataplane.flowsMax=16777216",
            "dataplane.metricsPort=null",
            "cluster.ranges={10.0.0.0/8}",
            "masquerade.enabled=false",
            "loadBalancer.maglevTableSize=131071",
            "loadBalancer.announceL2=true",
            "loadBalancer.defaultClass=false",
            "agent.extraArgs={--attach-timeout-ms=5000}",
        ])
        .unwrap();
    let dataplane = args(&objects, "dataplane");
    for flag in
        ["--workers=4", "--no-pinning", "--uplink=eth0", "--uplink=eth1", "--flows-max=16777216"]
    {
        assert!(dataplane.iter().any(|it| it == flag), "{flag}: {dataplane:?}");
    }
    assert!(!dataplane.iter().any(|it| it.starts_with("--metrics-address")));
    let agent = args(&objects, "agent");
    for flag in [
        "--cluster-range=10.0.0.0/8",
        "--no-masquerade",
        "--maglev-table-size=131071",
        "--announce-l2",
        "--default-load-balancer-class=false",
        "--attach-timeout-ms=5000",
        "--metrics-address=0.0.0.0:10256",
    ] {
        assert!(agent.iter().any(|it| it == flag), "{flag}: {agent:?}");
    }
    let agent = args(&helm.render(&[]).unwrap(), "agent");
    for flag in ["--no-masquerade", "--announce-l2", "--policy-audit"] {
        assert!(!agent.iter().any(|it| it == flag), "{flag}: {agent:?}");
    }
}
