//! The program by itself: installed, asked for versions, without an agent.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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
    let install = |program: &Path| {
        let output = Command::new(program).arg("--install").arg(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    install(PROGRAM.as_ref());
    // This one waits for its standard input, and is replaced meanwhile.
    let mut busy =
        Command::new(&target).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    install(&target);
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(list(folder.path()), ["loopback", "weir-cni"], "nothing is left beside them");
    drop(busy.stdin.take());
    busy.wait().unwrap();

    let missing = folder.path().join("absent");
    let output = Command::new(PROGRAM).arg("--install").arg(&missing).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("absent/weir-cni"), "{said}");
}

fn list(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        files.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn by_hand(verb: &str, folder: &Path) -> String {
    let output = Command::new(PROGRAM).arg(verb).arg(folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_is_the_plugin_for_lo_where_there_is_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let loopback = folder.path().join("loopback");
    for _ in 0..2 {
        let said = by_hand("--install", folder.path());
        assert!(said.contains("/weir-cni\n") && said.ends_with("/loopback\n"), "{said}");
        // Within the folder, whose name is another in a container.
        assert_eq!(loopback.read_link().unwrap(), Path::new("weir-cni"));
    }
    let said = by_hand("--uninstall", folder.path());
    assert!(said.contains("/weir-cni\n") && said.contains("/loopback\n"), "{said}");
    assert_eq!(list(folder.path()), [""; 0]);
    assert_eq!(by_hand("--uninstall", folder.path()), "");

    // A program, a link to one, and a link that leads nowhere: all somebody else's.
    type Make = fn(&Path);
    let others: [Make; 3] = [
        |path| std::fs::write(path, "another").unwrap(),
        |path| std::os::unix::fs::symlink("/bin/true", path).unwrap(),
        |path| std::os::unix::fs::symlink("/no/such/weir-cni", path).unwrap(),
    ];
    for make in others {
        make(&loopback);
        let read = || (loopback.read_link().ok(), std::fs::read(&loopback).ok());
        let before = read();
        assert!(!by_hand("--install", folder.path()).contains("/loopback"));
        assert_eq!(read(), before);
        by_hand("--uninstall", folder.path());
        assert_eq!((read(), list(folder.path())), (before, vec!["loopback".to_owned()]));
        std::fs::remove_file(&loopback).unwrap();
    }
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
