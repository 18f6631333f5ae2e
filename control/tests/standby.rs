//! Two agents of one node, as during a rolling update, and what probes see of them.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::process::{AGENT, Process, agent_command, free_address};
use common::{FakeDataplane, dataplane_socket, service};

/// Exit status and answer of `--check-health`.
fn check(socket: &Path) -> (bool, String) {
    let flag = format!("--check-health={}", socket.display());
    let output = Command::new(AGENT).arg(flag).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap().trim_end().to_owned())
}

fn wait_until(socket: &Path, expected: (bool, &str)) {
    for _ in 0..200 {
        let (is_healthy, text) = check(socket);
        if is_healthy == expected.0 && text.contains(expected.1) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("never {expected:?}, but {:?}", check(socket));
}

fn wait_for_frontends(fake: &FakeDataplane, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|it| format!("frontend {it}")).collect();
    for _ in 0..200 {
        if fake.frontends() == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("never {expected:?}, but {:?}", fake.frontends());
}

/// An API server of an empty cluster: every list is empty, and no watch ever tells anything.
fn serve_empty_cluster(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut watches = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|it| it.is_ok_and(|it| !it.is_empty())) {}
            if request.contains("watch=") {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).unwrap();
                watches.push(stream);
                continue;
            }
            let list = r#"{"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}"#;
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length";
            stream.write_all(format!("{head}: {}\r\n\r\n{list}", list.len()).as_bytes()).unwrap();
        }
    });
}

const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'http://192.0.2.1'}}]
users: [{name: u, user: {}}]
";

/// Else a rolling update would end every agent that works for one that never will.
#[test]
fn who_stands_by_is_healthy_once_its_source_works() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("manifests")).unwrap();
    std::fs::write(folder.join("kubeconfig"), KUBECONFIG).unwrap();
    let mut first = Process::start(agent_command(folder).arg("--standby"));
    first.wait_for("manifests read");

    let (address, socket) = (free_address(), folder.join("next.sock"));
    let mut next = Command::new(AGENT);
    next.args(["--standby", "--kubernetes", "--node=n1"])
        .arg(format!("--api-server=http://{address}"))
        .arg(format!("--kubeconfig={}", folder.join("kubeconfig").display()))
        .arg(format!("--run-dir={}", folder.display()))
        .arg(format!("--state-dir={}", folder.join("state").display()))
        .arg(format!("--health-socket={}", socket.display()));
    let mut next = Process::start(&mut next);
    next.wait_for("waiting for its end");
    wait_until(&socket, (false, "not ready: waiting for the API server: reading "));
    wait_until(&socket, (false, "Connection refused"));
    // One that runs, and starts again, is better than one that cannot.
    assert!(first.terminate().success());
    std::thread::sleep(Duration::from_secs(1));
    assert!(!check(&socket).0, "it has nothing to take over with");
    let mut first = Process::start(&mut agent_command(folder));
    first.wait_for("manifests read");
    serve_empty_cluster(&address);
    wait_until(&socket, (true, "standby: waiting for the end of pid "));
    assert!(first.terminate().success());
    next.wait_for("cluster read: 0 services");
    assert!(next.terminate().success());
}

#[test]
fn who_could_not_start_does_not_stand_by() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("manifests")).unwrap();
    let mut first = Process::start(agent_command(folder).arg("--standby"));
    first.wait_for("manifests read");
    let elsewhere = format!("--manifests={}", folder.join("nowhere").display());
    let mut next = Command::new(AGENT);
    next.args(["--standby", "--node=n1", &elsewhere])
        .arg(format!("--run-dir={}", folder.display()))
        .arg(format!("--state-dir={}", folder.join("state").display()));
    Process::start(&mut next).wait_for("cannot read the manifests");
    std::fs::create_dir_all(folder.join("state")).unwrap();
    std::fs::write(folder.join("state/endpoints.json"), "{\"version\": 9").unwrap();
    let mut next = Process::start(agent_command(folder).arg("--standby"));
    next.wait_for("cannot read the attached endpoints");
}

#[test]
fn the_next_agent_waits_for_the_end_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("manifests")).unwrap();
    std::fs::write(folder.join("manifests/web.yaml"), service("web", "10.96.0.1", 80)).unwrap();
    let sockets = ["a.sock", "b.sock"].map(|it| folder.join(it));
    let start = |socket: &Path| {
        let flag = format!("--health-socket={}", socket.display());
        Process::start(agent_command(folder).arg("--standby").arg(flag))
    };
    let mut first = start(&sockets[0]);
    first.wait_for("manifests read");
    wait_until(&sockets[0], (false, "not ready: the dataplane is not connected"));
    let fake = FakeDataplane::new();
    let _server = fake.serve(&dataplane_socket(folder));
    wait_until(&sockets[0], (true, "ready"));

    let mut second = start(&sockets[1]);
    second.wait_for("waiting for its end");
    wait_until(&sockets[1], (true, "standby: waiting for the end of pid "));
    // Without the flag there is nothing to wait for.
    let third = agent_command(folder).output().unwrap();
    let errors = String::from_utf8(third.stderr).unwrap();
    assert!(
        !third.status.success() && errors.contains("agent.lock: another weir-agent"),
        "{errors}"
    );
    assert_eq!(check(&sockets[0]), (true, "ready".into()));

    // What comes and goes meanwhile is known to it, too.
    let manifests = folder.join("manifests");
    std::fs::write(manifests.join("more.yaml"), service("more", "10.96.0.2", 80)).unwrap();
    wait_for_frontends(&fake, &["10.96.0.1:80/TCP", "10.96.0.2:80/TCP"]);
    std::fs::remove_file(manifests.join("web.yaml")).unwrap();
    wait_for_frontends(&fake, &["10.96.0.2:80/TCP"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(first.terminate().success());
    second.wait_for("the other weir-agent has ended");
    wait_until(&sockets[1], (true, "ready"));
    let last = fake.updates().pop().unwrap();
    assert!(last.resync, "{last:?}");
    assert_eq!(fake.frontends(), ["frontend 10.96.0.2:80/TCP"]);
    let (is_healthy, text) = check(&sockets[0]);
    assert!(!is_healthy && text.contains("does the process run"), "{text}");
    assert!(second.terminate().success());

    // A process that waits can be stopped, too.
    let _third = start(&sockets[0]);
    wait_until(&sockets[0], (true, "ready"));
    let mut fourth = start(&sockets[1]);
    fourth.wait_for("waiting for its end");
    assert!(fourth.terminate().success());
}
