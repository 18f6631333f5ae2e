//! `weir status` and `weir endpoint list` as people see them, by the real command.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod cli_fakes;

use std::time::Duration;

use cli_fakes::states::{gauge, healthy, problem};
use cli_fakes::{Answers, Fakes, Present, check_golden, printed, weir};
use weir_api::v1::Severity;

/// Prints the status, compares it with the golden file, and checks exit status and brief line.
fn check(name: &str, answers: &Answers, present: Present, exit_status: i32, brief: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _fakes = Fakes::serve(folder, answers, present);
    let output = weir(folder, &["status"]);
    assert_eq!(output.status.code(), Some(exit_status), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    // Without an agent the node is called as its host.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let named = |text: String| match present {
        Present::DataplaneOnly | Present::Neither => text.replacen(host.trim(), "HOST", 1),
        Present::Both | Present::AgentOnly => text,
    };
    check_golden(&format!("status-{name}.txt"), &named(printed(folder, &output)));
    let output = weir(folder, &["status", "--brief"]);
    assert_eq!(output.status.code(), Some(exit_status));
    assert_eq!(named(printed(folder, &output)), format!("{brief}\n"));
}

#[test]
fn a_healthy_node_is_told_in_few_words() {
    let brief = "worker-1 healthy: revision 8, 3 pods, 12524 flows";
    check("healthy", &healthy(), Present::Both, 0, brief);
}

#[test]
fn what_has_no_effect_leaves_a_node_healthy() {
    let mut answers = healthy();
    let reason = "spec.sessionAffinityConfig: no effect without sessionAffinity";
    answers.agent.problems = vec![problem("Service default/web", "", Severity::Ignored, reason)];
    let brief = "worker-1 healthy: revision 8, 3 pods, 12524 flows";
    check("ignored", &answers, Present::Both, 0, brief);
}

#[test]
fn half_a_node_is_shown_with_what_to_do_about_the_other() {
    let mut answers = healthy();
    answers.agent.dataplane_connected = false;
    answers.agent.link_reason = "no such socket".into();
    let brief = "worker-1 unreachable: dataplane: RUN_DIR/dataplane.sock: no such socket: \
                 is weir-dataplane running, with this --run-dir?";
    check("no-dataplane", &answers, Present::AgentOnly, 2, brief);

    let mut answers = healthy();
    answers.dataplane.agent_connected = false;
    answers.dataplane.from_disk = true;
    let brief = "HOST unreachable: agent: RUN_DIR/agent.sock: no such socket: is weir-agent \
                 running, with this --run-dir? (and 1 more)";
    check("no-agent", &answers, Present::DataplaneOnly, 2, brief);
}

#[test]
fn nothing_at_all_is_told_too() {
    let brief = "HOST unreachable: dataplane: RUN_DIR/dataplane.sock: no such socket: is \
                 weir-dataplane running, with this --run-dir? (and 1 more)";
    check("nothing", &healthy(), Present::Neither, 2, brief);
}

#[test]
fn what_is_degraded_comes_first_with_its_reason() {
    let mut answers = healthy();
    answers.dataplane.degraded =
        vec!["eth0: generic XDP, which is slower: the driver has no native XDP".into()];
    for device in &mut answers.dataplane.devices[..2] {
        device.xdp_mode = "generic".into();
        device.reason = "the driver has no native XDP".into();
    }
    answers.dataplane.adopted_flows = 17;
    let lost = "cannot be reached: connection refused; state is kept, trying again";
    answers.agent.source_state = format!("API server https://10.0.0.1:6443: {lost}");
    let server = "API server https://10.0.0.1:6443";
    answers.agent.problems = vec![problem(server, "", Severity::Refused, lost)];
    let brief = "worker-1 degraded: source: API server https://10.0.0.1:6443: cannot be reached: \
                 connection refused; state is kept, trying again (and 1 more)";
    check("degraded", &answers, Present::Both, 1, brief);
}

#[test]
fn full_pools_are_marked() {
    let mut answers = healthy();
    let gauges = &mut answers.dataplane.gauges;
    gauges[2] = gauge("flows", 1, 450_000, 524_288);
    gauges.push(gauge("verdict counts", 0, 80, 100));
    answers.dataplane.workers[1].flows = 450_000;
    let brief = "worker-1 degraded: pool: flows of worker 1: 450000 of 524288 (85 %): at 100 % new \
                 connections are dropped; give more --flows-max";
    check("full", &answers, Present::Both, 1, brief);
}

#[test]
fn refused_objects_are_named() {
    let mut answers = healthy();
    let wrong = "spec.ports[0].port: 80000 is not a port: 1 to 65535";
    answers.agent.problems = vec![
        problem("Node worker-2", "", Severity::Ignored, "no podCIDR yet"),
        problem("Service default/bad", "web.yaml:9", Severity::Refused, wrong),
    ];
    for number in 0..30 {
        let object = format!("NetworkPolicy shop/policy-{number}");
        answers.agent.problems.push(problem(&object, "", Severity::Refused, "by the dataplane"));
    }
    let brief = "worker-1 degraded: Service default/bad (web.yaml:9): spec.ports[0].port: 80000 is \
                 not a port: 1 to 65535 (and 30 more)";
    check("refused", &answers, Present::Both, 1, brief);
}

#[test]
fn a_change_that_does_not_arrive_is_told() {
    let mut answers = healthy();
    answers.agent.sent_revision = 9;
    answers.dataplane.workers[1].snapshot_revision = 23;
    answers.dataplane.workers[1].cpu = -1;
    let brief = "worker-1 degraded: agent: the dataplane has not acknowledged revision 9 for a \
                 second (and 1 more)";
    check("stuck", &answers, Present::Both, 1, brief);
}

#[test]
fn json_has_everything() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut answers = healthy();
    answers.agent.problems = vec![problem("Service a/b", "", Severity::Refused, "wrong")];
    let _fakes = Fakes::serve(folder, &answers, Present::Both);
    let output = weir(folder, &["status", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["state"], "degraded");
    assert_eq!(status["node"], "worker-1");
    assert_eq!(status["findings"][0]["severity"], "refused");
    assert_eq!(status["agent"]["problems"][0]["severity"], "refused");
    assert_eq!(status["agent"]["source"], "kubernetes https://10.0.0.1:6443");
    assert_eq!(status["dataplane"]["capabilities"]["tcx"], "yes");
    assert_eq!(status["dataplane"]["mtu"], 1500);
    assert_eq!(status["dataplane"]["gauges"].as_array().unwrap().len(), 4);
    assert_eq!(status["dataplane"]["workers"][0]["turns"], 1_234_567);
}

#[test]
fn it_waits_for_a_node_to_become_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let start = std::time::Instant::now();
    let output = weir(folder, &["status", "--brief", "--wait=1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(start.elapsed() >= Duration::from_secs(1));
    let path = folder.to_owned();
    let starting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        Fakes::serve(&path, &healthy(), Present::Both)
    });
    let output = weir(folder, &["status", "--brief", "--wait=20"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    drop(starting.join().unwrap());
}

#[test]
fn endpoints_are_shown_with_their_policy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let fakes = Fakes::serve(folder, &healthy(), Present::Both);
    let output = weir(folder, &["endpoint", "list"]);
    check_golden("endpoints.txt", &printed(folder, &output));
    let output = weir(folder, &["endpoint", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list[0]["policy"]["identity"], 1001);
    assert_eq!(list[0]["bandwidth"]["ingress_bits_per_s"], 10_000_000);
    assert_eq!(list[2]["policy"]["closed"], true);
    drop(fakes);

    // Without the dataplane, what the agent knows.
    let mut answers = healthy();
    answers.endpoints.truncate(1);
    answers.endpoints[0].bandwidth = None;
    answers.endpoints[0].created = "2020-01-01T00:00:00Z".into();
    std::fs::remove_file(folder.join("dataplane.sock")).unwrap();
    let _fakes = Fakes::serve(folder, &answers, Present::AgentOnly);
    let output = weir(folder, &["endpoint", "list"]);
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.starts_with("without identities and policy: "), "{told}");
    let table = printed(folder, &output);
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with("default/web-1  10.244.0.1"), "{table}");
    assert!(table.lines().next().unwrap().ends_with("AGE") && row.ends_with('h'), "{table}");
}
