//! Two agents of one node, as during a rolling update, and what probes see of them.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::process::{AGENT, Process, agent_command};
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

    assert!(first.terminate().success());
    second.wait_for("the other weir-agent has ended");
    wait_until(&sockets[1], (true, "ready"));
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
