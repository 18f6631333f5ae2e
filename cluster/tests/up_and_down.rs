//! A real cluster of one node, from nothing and back: `scripts/cluster test` runs it. It needs root
//! and what `scripts/cluster build` builds.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use weir_lab::clock::{pause, wait_until};

const NAME: &str = "updown";

/// Runs on the node's own network: without a CNI plugin nothing else can.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  hostNetwork: true
  nodeName: node-1
  tolerations: [{operator: Exists}]
  containers:
    - name: web
      image: registry.k8s.io/e2e-test-images/agnhost:2.63.0
      args: [netexec, --http-port=8088]
"#;

/// Ends the cluster also when the test fails.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        let _ = cluster(&["down"]);
    }
}

fn cluster(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_weir-cluster");
    Command::new(program).args(["--name", NAME]).args(arguments).output().expect("it starts")
}

#[track_caller]
fn succeed(arguments: &[&str]) -> String {
    let output = cluster(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{errors}");
    said
}

fn state() -> PathBuf {
    let status = succeed(&["status"]);
    let line = status.lines().find_map(|line| line.strip_prefix("state: ")).expect("a state");
    PathBuf::from(line)
}

fn supervisor() -> String {
    let text = fs::read_to_string(state().join("supervisor.json")).expect("a supervisor");
    let pid = text.split_once("\"pid\":").expect("a pid").1;
    pid.chars().take_while(char::is_ascii_digit).collect()
}

/// Everything of the cluster's that this machine still has.
fn leftovers(state: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    if state.exists() {
        found.push(state.display().to_string());
    }
    for folder in ["/run/netns", "/run/weir-lab", "/sys/fs/cgroup"] {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.contains(&format!("cluster{NAME}"))));
    }
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let cgroup = controller.path().join(format!("weir-cluster-{NAME}"));
        found.extend(cgroup.exists().then(|| cgroup.display().to_string()));
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        // Whatever it is: containerd, kubelet and the control plane name the state's folder.
        found.extend(words.contains(&format!("/state/{NAME}/")).then_some(words));
    }
    found
}

fn check_node_and_pod() {
    let nodes = succeed(&["kubectl", "get", "nodes", "-o", "yaml"]);
    for wanted in ["weir.dev/agent-not-ready", "zone-1", "10.244.0.0/24", "fd00:10:244::/64"] {
        assert!(nodes.contains(wanted), "{wanted} is not in {nodes}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let pod = folder.path().join("pod.yaml");
    fs::write(&pod, POD).expect("a file");
    succeed(&["kubectl", "apply", "-f", &pod.display().to_string()]);
    succeed(&["kubectl", "wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let host = succeed(&["kubectl", "exec", "web", "--", "hostname"]);
    assert_eq!(host.trim(), "node-1");
    let answer =
        succeed(&["run", "--", "curl", "-s", "-m", "5", "http://172.30.0.11:8088/hostname"]);
    assert_eq!(answer, "node-1");
}

fn check_isolation() {
    let interfaces = succeed(&["exec", "node-1", "--", "ls", "/sys/class/net", "/run/netns"]);
    assert!(interfaces.contains("eth0") && !interfaces.contains(NAME), "{interfaces}");
    let pins = succeed(&["exec", "node-1", "--", "stat", "-f", "-c", "%T", "/sys/fs/bpf"]);
    assert_eq!(pins.trim(), "bpf_fs");
}

fn check_link() {
    let ping = || cluster(&["run", "--", "ping", "-c", "1", "-W", "1", "172.30.0.11"]).status;
    assert!(ping().success());
    succeed(&["link", "node-1", "--partition"]);
    assert!(!ping().success(), "through a partition");
    succeed(&["link", "node-1", "--heal", "--loss", "1"]);
    assert!(!ping().success(), "through a link that loses everything");
    succeed(&["link", "node-1", "--clear", "--mtu", "1400"]);
    assert!(ping().success());
    let mtu = succeed(&["exec", "node-1", "--", "cat", "/sys/class/net/eth0/mtu"]);
    assert_eq!(mtu.trim(), "1400");
}

fn check_restarts() {
    succeed(&["control-plane", "stop"]);
    assert!(!cluster(&["kubectl", "get", "--raw=/readyz"]).status.success(), "while it is down");
    pause(Duration::from_secs(2));
    assert!(succeed(&["status"]).contains("kube-apiserver: is down"), "it stays down");
    succeed(&["control-plane", "start"]);
    wait_until("the API server to return", Duration::from_secs(60), || {
        cluster(&["kubectl", "get", "--raw=/readyz"]).status.success().then_some(())
    })
    .expect("it returns");

    let pid = || succeed(&["exec", "node-1", "--", "cat", "/run/weir-cluster/containerd.pid"]);
    let before = pid();
    succeed(&["node", "restart-containerd", "node-1"]);
    wait_until("containerd to return", Duration::from_secs(30), || {
        let is_back = cluster(&["exec", "node-1", "--", "ctr", "version"]).status.success();
        (pid() != before && is_back).then_some(())
    })
    .expect("it returns");
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(succeed(&["kubectl", "get", "pod", "web", "-o", restarts]), "0");
}

#[test]
fn a_cluster_comes_up_works_and_leaves_nothing() {
    if weir_lab::skipped() {
        return;
    }
    let _down = Down;
    succeed(&["down"]);
    succeed(&["up", "--without-weir", "--nodes", "1"]);
    let state = state();
    assert!(!cluster(&["up", "--without-weir"]).status.success(), "a second one of that name");
    check_node_and_pod();
    check_isolation();
    check_link();
    check_restarts();
    assert!(!leftovers(&state).is_empty(), "what is up is found");
    succeed(&["down"]);
    assert_eq!(leftovers(&state), [""; 0]);

    // And after a crash.
    succeed(&["up", "--without-weir", "--nodes", "1"]);
    let killed = Command::new("kill").args(["-KILL", &supervisor()]).status().expect("kill runs");
    assert!(killed.success());
    pause(Duration::from_millis(500));
    assert!(!cluster(&["status"]).status.success(), "nobody supervises");
    assert!(leftovers(&state).len() > 5, "nodes and control plane live on");
    succeed(&["down"]);
    assert_eq!(leftovers(&state), [""; 0]);
    succeed(&["down"]);
}
