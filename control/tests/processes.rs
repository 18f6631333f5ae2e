//! The real binaries: `weir-agent`, `weir`, and `weir up` with a stand-in for the dataplane.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::process::{Process, agent_command, free_address, http_get, signal};
use common::{FakeDataplane, dataplane_socket, service};
use rustix::process::Signal;
use weir_api::v1::{Protocol, SnatClient, SnatRemote};

const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// The number after `pid ` in a line of the log.
fn pid_in(line: &str) -> u32 {
    let digits: String =
        line.split("pid ").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn weir(folder: &Path, arguments: &[&str]) -> Output {
    let run_dir = format!("--run-dir={}", folder.display());
    Command::new(WEIR).arg(run_dir).args(arguments).output().unwrap()
}

fn weir_json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = weir(folder, &[arguments, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn make_manifests(folder: &Path) -> PathBuf {
    let manifests = folder.join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let bad = service("bad", "10.96.0.9", 80).replace("port: 80", "port: 80000");
    std::fs::write(manifests.join("web.yaml"), service("web", "10.96.0.1", 80) + &bad).unwrap();
    manifests
}

/// One that is good, and one with a field that nobody knows.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wrong}
spec: {podSelector: {}, podselector: {}}
";

#[test]
fn an_agent_serves_its_command_line_and_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let manifests = make_manifests(folder);
    let address = free_address();
    let mut agent =
        Process::start(agent_command(folder).arg(format!("--metrics-address={address}")));
    agent.wait_for("manifests read: 1 services");
    let problem = agent.wait_for("Service default/bad");
    assert!(
        problem.contains("web.yaml:9: Service default/bad: refused: spec.ports[0].port: 80000")
    );

    // Without a dataplane the agent answers, and says so.
    let output = weir(folder, &["status"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("n1: unreachable, "), "{text}");
    assert!(text.contains("dataplane.sock: no such socket: is weir-dataplane running"), "{text}");
    assert!(text.contains("0 sent, 0 acknowledged; not connected to the dataplane"), "{text}");

    assert!(http_get(&address, "/healthz").starts_with("HTTP/1.1 503"));
    assert!(http_get(&address, "/livez").starts_with("HTTP/1.1 200"));

    let fake = FakeDataplane::new();
    let _server = fake.serve(&dataplane_socket(folder));
    agent.wait_for("the dataplane runs revision 1");
    let attach = ["endpoint", "attach", "default/a", "--interface=lo", "--mac=02:00:00:00:00:01"];
    let output = weir(folder, &[&attach[..], &["--address=10.0.0.1"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "default/a: attached, in revision 2\n");
    let list = weir_json(folder, &["endpoint", "list"]);
    assert_eq!(list[0]["state"], "ready");
    assert_eq!(list[0]["ifindex"], 1);
    let output = weir(folder, &[&attach[..], &["--address=127.0.0.1"]].concat());
    let refused = String::from_utf8(output.stderr).unwrap();
    assert!(refused.contains("endpoint default/a: 127.0.0.1 is a loopback address"), "{refused}");

    std::fs::write(manifests.join("more.yaml"), service("more", "10.96.0.2", 53)).unwrap();
    agent.wait_for("manifests changed: 1 objects");
    let services = weir_json(folder, &["service", "list"]);
    assert_eq!(services[1]["frontend"], "10.96.0.2:53/TCP");
    assert_eq!(services[1]["type"], "ClusterIP");
    let table = String::from_utf8(weir(folder, &["service", "list"]).stdout).unwrap();
    assert!(table.starts_with("SERVICE       TYPE       FRONTEND"), "{table}");

    std::fs::write(manifests.join("policy.yaml"), POLICIES).unwrap();
    agent.wait_for("NetworkPolicy default/wrong");
    let status = weir_json(folder, &["status"]);
    assert_eq!(status["agent"]["policies"], 1);
    let problems = status["agent"]["problems"].to_string();
    assert!(
        problems.contains("policy.yaml") && problems.contains("spec.podselector"),
        "{problems}"
    );

    let metrics = http_get(&address, "/metrics");
    assert!(metrics.contains("weir_agent_objects{kind=\"Service\"} 2"), "{metrics}");
    assert!(metrics.contains("weir_agent_problems{severity=\"refused\"} 2"), "{metrics}");
    assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
    assert!(http_get(&address, "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(http_get(&address, "/").starts_with("HTTP/1.1 404"));
    assert!(agent.terminate().success());

    let output = weir(folder, &["service", "list"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("agent.sock: nobody answers: weir-agent has stopped"), "{errors}");
    // The endpoint is known to the next agent, which replaces the socket.
    let mut next = Process::start(&mut agent_command(folder));
    next.wait_for("the dataplane runs revision 1");
    assert_eq!(weir_json(folder, &["endpoint", "list"])[0]["name"], "default/a");
    // A second one at the same place does not start.
    let output = agent_command(folder).output().unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("agent.lock: another weir-agent (pid "), "{errors}");
}

#[test]
fn the_users_of_source_ports_are_shown_with_the_names_of_pods() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let fake = FakeDataplane::new();
    let _server = fake.serve(&dataplane_socket(folder));
    fake.with(|told| (told.snat_usage.port_min, told.snat_usage.port_max) = (50_000, 50_099));
    let table = String::from_utf8(weir(folder, &["snat", "top"]).stdout).unwrap();
    let nobody = "source ports 50000-50099: none in use, no flow leaves with the node's address\n";
    assert_eq!(table, nobody, "without an agent");

    fake.with(|told| {
        let remote = |destination: [u8; 4], used| SnatRemote {
            protocol: Protocol::Tcp.into(),
            source: vec![192, 0, 2, 1],
            destination: destination.into(),
            destination_port: 443,
            worker: 1,
            used,
            limit: 50,
        };
        told.snat_usage.flows = 27;
        told.snat_usage.remotes = vec![remote([198, 51, 100, 7], 25), remote([203, 0, 113, 9], 2)];
        let client = |address: Vec<u8>, flows| SnatClient { address, flows };
        let outside = "2001:db8::5".parse::<std::net::Ipv6Addr>().unwrap().octets().into();
        told.snat_usage.clients = vec![client(vec![10, 0, 0, 1], 26), client(outside, 1)];
    });
    make_manifests(folder);
    let mut agent = Process::start(&mut agent_command(folder));
    agent.wait_for("the dataplane runs revision 1");
    let attach = ["endpoint", "attach", "default/a", "--interface=lo", "--mac=02:00:00:00:00:01"];
    assert!(weir(folder, &[&attach[..], &["--address=10.0.0.1"]].concat()).status.success());
    let table = String::from_utf8(weir(folder, &["snat", "top"]).stdout).unwrap();
    let expected = "\
source ports 50000-50099: 27 flows leave with the node's address

PROTO  SOURCE     DESTINATION       WORKER  USED  OF  PERCENT
TCP    192.0.2.1  198.51.100.7:443       1    25  50     50.0
TCP    192.0.2.1  203.0.113.9:443        1     2  50      4.0

CLIENT     ADDRESS      FLOWS
default/a  10.0.0.1        26
-          2001:db8::5      1
";
    assert_eq!(table, expected);
    let usage = weir_json(folder, &["snat", "top", "--limit=1"]);
    assert_eq!(usage["remotes"].as_array().unwrap().len(), 1);
    assert_eq!(usage["remotes"][0]["destination"], "198.51.100.7:443");
    let client = serde_json::json!({"address": "10.0.0.1", "endpoint": "default/a", "flows": 26});
    assert_eq!(usage["clients"], serde_json::json!([client]));
}

/// The binaries beside each other, with a shell script as the dataplane.
fn install(folder: &Path, dataplane: &str) -> PathBuf {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = folder.join("dataplane.sh");
    std::fs::write(&script, dataplane).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    // By a process of its own: what this one has open for writing, a child that another test
    // starts holds for a moment, and a file that is open for writing cannot be run.
    let copy = |from: &Path, name: &str| {
        assert!(Command::new("cp").arg(from).arg(bin.join(name)).status().unwrap().success());
    };
    copy(Path::new(WEIR), "weir");
    copy(Path::new(common::process::AGENT), "weir-agent");
    copy(&script, "weir-dataplane");
    bin.join("weir")
}

fn up_command(weir: &Path, folder: &Path) -> Command {
    let mut command = Command::new(weir);
    command
        .args(["up", "--node=n1", "--workers=2", "--uplink=up0", "--uplink=up1"])
        .arg(format!("--run-dir={}", folder.display()))
        .arg(format!("--state-dir={}", folder.join("state").display()))
        .arg(format!("--manifests={}", folder.join("manifests").display()));
    command
}

#[test]
fn up_starts_both_restarts_what_fails_and_stops_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_manifests(folder);
    let script = "#!/bin/sh\necho \"flags: $*\" >&2\ntrap 'exit 0' TERM\n\
                  while :; do sleep 0.05; done\n";
    let weir = install(folder, script);
    let mut up = Process::start(&mut up_command(&weir, folder));
    // Their lines come in any order.
    let mut pids = std::collections::BTreeMap::new();
    while pids.len() < 2 {
        let line = up.wait_for(": started, pid ");
        let name = if line.contains("weir-agent") { "agent" } else { "dataplane" };
        pids.insert(name, pid_in(&line));
    }
    if !up.seen.iter().any(|line| line.contains("manifests read")) {
        up.wait_for("manifests read");
    }
    let flags = up.seen.iter().find(|line| line.starts_with("flags: ")).expect("it has started");
    assert!(flags.contains("--workers=2 --uplink=up0 --uplink=up1"), "{flags}");
    assert!(flags.contains("--failure-mode=auto"), "{flags}");

    // A failure within the first second would end all: these are past it.
    std::thread::sleep(Duration::from_millis(1200));
    signal(pids["agent"], Signal::KILL);
    let line = up.wait_for("weir-agent (pid");
    assert!(line.contains("killed by signal 9; starting it again in 10ms"), "{line}");
    assert!(line.contains("meanwhile the dataplane keeps forwarding"), "{line}");
    up.wait_for("weir-agent: started, pid ");
    signal(pids["dataplane"], Signal::KILL);
    up.wait_for("weir-dataplane (pid");
    // Its own first line and the one that says it was started come in either order.
    up.wait_for("flags: ");

    assert!(up.terminate().success());
    up.wait_for("asked to stop");
    up.wait_for("weir-agent: stopped: exit, without an error");
    up.wait_for("weir-dataplane: stopped: exit, without an error");
}

#[test]
fn up_gives_up_where_a_process_cannot_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_manifests(folder);
    let weir = install(folder, "#!/bin/sh\necho 'no such device up0' >&2\nexit 3\n");
    let output = up_command(&weir, folder).output().unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no such device up0"), "{errors}");
    assert!(errors.contains("error: weir-dataplane did not start: exit code 3"), "{errors}");
    assert!(errors.contains("weir-agent: stopped"), "the agent is not left behind: {errors}");

    std::fs::remove_dir_all(folder.join("manifests")).unwrap();
    let output = up_command(&weir, folder).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("manifests: cannot read"), "{errors}");
}
