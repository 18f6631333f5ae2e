//! The program by itself: installed, asked for versions, without an agent.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weir-cni");

fn call(variables: &[(&str, &str)], input: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn error(output: &Output) -> Value {
    assert!(!output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn it_installs_itself_over_one_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("weir-cni");
    let install = |program: &std::path::Path| {
        let output = Command::new(program).arg("--install").arg(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    install(PROGRAM.as_ref());
    // This one waits for its standard input, and is replaced meanwhile.
    let mut busy =
        Command::new(&target).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    install(&target);
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    drop(busy.stdin.take());
    busy.wait().unwrap();

    let missing = folder.path().join("absent");
    let output = Command::new(PROGRAM).arg("--install").arg(&missing).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("absent/weir-cni"), "{said}");
}

#[test]
fn versions_are_told_without_anything_else() {
    let output = call(&[("CNI_COMMAND", "VERSION")], "{\"cniVersion\":\"0.4.0\"}");
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["cniVersion"], "0.4.0");
    assert_eq!(told["supportedVersions"].as_array().unwrap().len(), 5);
}

#[test]
fn errors_are_json_and_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, log) = (folder.path().join("agent.sock"), folder.path().join("log"));
    let conf = json!({"cniVersion": "1.1.0", "name": "weir", "socket": socket, "logFile": log});
    let conf = conf.to_string();
    let status = error(&call(&[("CNI_COMMAND", "STATUS")], &conf));
    assert_eq!((&status["code"], &status["cniVersion"]), (&json!(50), &json!("1.1.0")));
    assert!(status["msg"].as_str().unwrap().contains("agent.sock: no such socket"), "{status}");
    assert!(!status["details"].as_str().unwrap().is_empty());
    assert!(
        std::fs::read_to_string(&log).unwrap().contains("Status : weir-agent"),
        "in the log too"
    );

    assert_eq!(error(&call(&[], &conf))["code"], 4);
    assert_eq!(error(&call(&[("CNI_COMMAND", "STATUS")], "{"))["code"], 6);
    let add = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/proc/self/ns/net"),
    ];
    let host = error(&call(&add, &conf));
    assert_eq!(host["code"], 4);
    assert!(host["msg"].as_str().unwrap().contains("the host's own network namespace"), "{host}");
}

#[test]
fn by_hand_it_says_what_it_is() {
    let output = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("weir-cni --install DIR"));
}
