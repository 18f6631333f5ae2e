//! `kubectl weir`: what it asks kubectl, and how it shows many nodes.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod cli_fakes;

use std::fs;
use std::time::{Duration, Instant};

use cli_fakes::kubectl::{FakeKubectl, pod, running, running_pod, texts, waiting};
use cli_fakes::states::{gauge, healthy};
use cli_fakes::{Fakes, Present, check_golden};
use serde_json::{Value, json};

/// Two nodes that answer, and one whose pod does not start.
fn three_nodes() -> (FakeKubectl, Vec<Fakes>) {
    let broken = waiting("ImagePullBackOff");
    let fake = FakeKubectl::new(&[
        running_pod("weir-b", "worker-2"),
        pod("weir-c", "worker-3", &broken, &broken),
        running_pod("weir-a", "worker-1"),
    ]);
    let first = Fakes::serve(&fake.pod_folder("weir-a"), &healthy(), Present::Both);
    let mut answers = healthy();
    answers.dataplane.gauges[0] = gauge("flows", 0, 450_000, 524_288);
    answers.endpoints.remove(0);
    let second = Fakes::serve(&fake.pod_folder("weir-b"), &answers, Present::Both);
    (fake, vec![first, second])
}

#[test]
fn status_shows_every_node_and_what_is_wrong() {
    let (fake, _nodes) = three_nodes();
    let output = fake.weir(&["status"]);
    let (text, errors) = texts(&fake, &output);
    assert_eq!(output.status.code(), Some(2), "{text}{errors}");
    assert_eq!(errors, "");
    check_golden("plugin-status.txt", &text);
    let selector = "app.kubernetes.io/name=weir,app.kubernetes.io/component=agent";
    let calls = fake.calls();
    assert_eq!(calls[0], format!("-n weir-system get pods -l {selector} -o json"));
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls.contains(&"-n weir-system exec weir-a -c agent -- weir -o json status".into()));

    let (json, _) = texts(&fake, &fake.weir(&["status", "-o", "json"]));
    let all: Vec<Value> = serde_json::from_str(&json).unwrap();
    let states: Vec<&str> = all.iter().map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["healthy", "degraded", "unreachable"]);
    let (brief, _) = texts(&fake, &fake.weir(&["status", "--brief"]));
    assert_eq!(brief.lines().count(), 4, "{brief}");
}

#[test]
fn endpoints_of_all_nodes_are_one_table() {
    let (fake, _nodes) = three_nodes();
    let output = fake.weir(&["endpoint", "list"]);
    let (text, errors) = texts(&fake, &output);
    check_golden("plugin-endpoints.txt", &text);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.starts_with("error: worker-3: pod weir-c of node worker-3 does not run: "));
    let (json, _) = texts(&fake, &fake.weir(&["endpoint", "list", "-o", "json"]));
    let by_node: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(by_node["worker-1"].as_array().unwrap().len(), 3);
    assert_eq!(by_node["worker-2"][0]["name"], "default/web-2");
}

#[test]
fn other_commands_are_shown_node_by_node() {
    let (fake, _nodes) = three_nodes();
    let output = fake.weir(&["drops", "--node-timeout=20"]);
    let (text, errors) = texts(&fake, &output);
    assert_eq!(text, "==> worker-1 <==\nno drops\n\n==> worker-2 <==\nno drops\n");
    assert!(errors.contains("worker-3"), "{errors}");
    let exec = "-n weir-system exec weir-a -c agent -- weir drops";
    assert!(fake.calls().contains(&exec.to_owned()), "{:?}", fake.calls());
}

#[test]
fn one_node_is_asked_as_if_one_were_there() {
    let (fake, _nodes) = three_nodes();
    let flags = ["--context", "prod", "--kubeconfig=/k", "-n", "net", "--node", "worker-2"];
    let output = fake.weir(&[&flags[..], &["status", "--brief"]].concat());
    let (text, errors) = texts(&fake, &output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("worker-1 degraded: pool: "), "{text}");
    assert_eq!(errors, "", "kubectl's remark on the exit status is noise");
    let exec = "--context=prod --kubeconfig=/k -n net exec weir-b -c agent -- weir status --brief";
    assert_eq!(fake.calls()[1], exec);

    let (_, errors) = texts(&fake, &fake.weir(&["status", "--node=worker-9"]));
    let expected = "error: node worker-9: no weir pod in namespace weir-system; there are some on \
                    worker-1, worker-2, worker-3\n";
    assert_eq!(errors, expected);
}

#[test]
fn a_pod_says_which_node_to_ask() {
    let (fake, _nodes) = three_nodes();
    let web = json!({"metadata": {"name": "web-1"}, "spec": {"nodeName": "worker-2"}});
    fs::write(fake.path("pod.json"), web.to_string()).unwrap();
    let output = fake.weir(&["--pod", "default/web-1", "flow", "list", "--limit", "7"]);
    assert!(output.status.success(), "{output:?}");
    let calls = fake.calls();
    assert_eq!(calls[0], "-n default get pod web-1 -o json");
    assert_eq!(calls[2], "-n weir-system exec weir-b -c agent -- weir flow list --limit 7");
    // So does the pod that a command is about.
    fake.weir(&["policy", "show", "default/web-1"]);
    let last = fake.calls().pop().unwrap();
    assert_eq!(last, "-n weir-system exec weir-b -c agent -- weir policy show default/web-1");

    let pending = json!({"metadata": {"name": "web-1"}, "status": {"phase": "Pending"}});
    fs::write(fake.path("pod.json"), pending.to_string()).unwrap();
    let (_, errors) = texts(&fake, &fake.weir(&["--pod=default/web-1", "drops"]));
    assert_eq!(errors, "error: pod default/web-1 has no node yet: Pending\n");
    let (_, errors) = texts(&fake, &fake.weir(&["--pod=web-1", "drops"]));
    assert_eq!(errors, "error: \"web-1\" is not a pod: write it as namespace/name\n");
}

#[test]
fn a_dataplane_without_its_agent_can_be_asked() {
    let crashed = waiting("CrashLoopBackOff");
    let fake = FakeKubectl::new(&[pod("weir-a", "worker-1", &crashed, &running())]);
    let folder = fake.pod_folder("weir-a");
    let _fakes = Fakes::serve(&folder, &healthy(), Present::DataplaneOnly);
    let output = fake.weir(&["status"]);
    let (text, _) = texts(&fake, &output);
    assert_eq!(output.status.code(), Some(2));
    assert!(fake.calls()[1].contains("exec weir-a -c dataplane -- weir"), "{:?}", fake.calls());
    assert!(text.contains("unreachable  agent: FAKE/weir-a/agent.sock: no such socket"), "{text}");
}

#[test]
fn what_is_missing_is_said() {
    let fake = FakeKubectl::new(&[]);
    let output = fake.weir_in("/nonexistent", &["status"]);
    let (_, errors) = texts(&fake, &output);
    let expected = "error: kubectl: no such program: install it, or add it to PATH; kubectl weir \
                    calls it\n";
    assert_eq!(errors, expected);
    let (_, errors) = texts(&fake, &fake.weir(&["status"]));
    assert!(
        errors.starts_with("error: no weir pods in namespace weir-system (labels "),
        "{errors}"
    );
    assert!(errors.contains("give their namespace with -n"), "{errors}");
    let attach = ["endpoint", "attach", "a/b", "--interface=x", "--mac=y", "--address=10.0.0.1"];
    let (_, errors) = texts(&fake, &fake.weir(&attach));
    assert_eq!(errors, "error: say on which node: --node NAME, or --pod NAMESPACE/NAME\n");
    let (_, errors) = texts(&fake, &fake.weir(&["up", "--manifests=m", "--uplink=eth0"]));
    assert!(errors.contains("not through kubectl"), "{errors}");
    // This needs no cluster.
    let maglev = ["maglev", "--table-size=251", "--backend=10.0.0.1:80/TCP"];
    let (table, errors) = texts(&fake, &fake.weir_in("/nonexistent", &maglev));
    assert!(table.contains("10.0.0.1:80"), "{table}{errors}");
}

#[test]
fn a_node_that_hangs_holds_up_no_other() {
    let (fake, _nodes) = three_nodes();
    fs::write(fake.pod_folder("weir-b").join("hang"), "").unwrap();
    let start = Instant::now();
    let (text, _) = texts(&fake, &fake.weir(&["status", "--node-timeout=2"]));
    assert!(start.elapsed() < Duration::from_secs(15));
    assert!(text.contains("no answer within 2 s (--node-timeout)"), "{text}");
    assert!(text.lines().nth(1).unwrap().starts_with("worker-1  healthy"), "{text}");
}

#[test]
fn many_nodes_are_asked_at_once_but_not_all() {
    let pods: Vec<Value> =
        (0..20).map(|it| running_pod(&format!("weir-{it}"), &format!("worker-{it}"))).collect();
    let fake = FakeKubectl::new(&pods);
    for number in 0..20 {
        fs::write(fake.pod_folder(&format!("weir-{number}")).join("slow"), "").unwrap();
    }
    fake.weir(&["drops"]);
    let overlap = fs::read_to_string(fake.path("overlap")).unwrap();
    let (mut now, mut most) = (0, 0);
    for line in overlap.lines() {
        now += if line == "start" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!(overlap.lines().count(), 40);
    assert!((2..=8).contains(&most), "{most} at one time");
}
