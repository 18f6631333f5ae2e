//! The plugin `loopback`, as it is installed, without an agent.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use weir_lab::{Host, Lab, skipped};

/// A runtime's host and one pod on it.
struct Node {
    host: Host,
    pod: Host,
    folder: tempfile::TempDir,
    _lab: Lab,
}

fn with_node(name: &str, test: impl FnOnce(&Node)) {
    if skipped() {
        return;
    }
    let lab = Lab::new(name).unwrap();
    let [host, pod] = ["host", "pod"].map(|name| lab.host(name).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_weir-cni"));
    let installed = install.arg("--install").arg(folder.path()).output().unwrap();
    assert!(installed.status.success(), "{installed:?}");
    test(&Node { host, pod, folder, _lab: lab });
}

impl Node {
    /// Calls the plugin as containerd does, which gives it nothing but its type.
    fn call(&self, verb: &str, version: &str, netns: &Path) -> Output {
        let conf = json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"});
        self.call_with(verb, netns, &conf)
    }

    fn call_with(&self, verb: &str, netns: &Path, conf: &Value) -> Output {
        let mut command = Command::new(self.folder.path().join("loopback"));
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_PATH", self.folder.path());
        command.env("CNI_CONTAINERID", "aa").env("CNI_IFNAME", "lo").env("CNI_NETNS", netns);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        self.host.enter(run).unwrap()
    }
}

#[track_caller]
fn silent(output: &Output) {
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[track_caller]
fn answer(output: &Output, is_ok: bool) -> Value {
    assert_eq!(output.status.success(), is_ok, "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn is_up(host: &Host) -> bool {
    let link = host.ip("-j link show dev lo").unwrap();
    let link: Value = serde_json::from_str(&link).unwrap();
    link[0]["flags"].as_array().unwrap().contains(&json!("UP"))
}

#[test]
fn lo_goes_up_and_down_in_every_version() {
    with_node("cnilo", |node| {
        let netns = node.pod.namespace_path();
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            node.pod.ip("link set dev lo down").unwrap();
            let down = answer(&node.call("CHECK", version, &netns), false);
            assert_eq!((&down["code"], &down["cniVersion"]), (&json!(103), &json!(version)));
            let added = answer(&node.call("ADD", version, &netns), true);
            assert!(is_up(&node.pod));
            assert_eq!(added["cniVersion"], version);
            let lo = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns});
            assert_eq!(added["interfaces"], json!([lo]));
            let addresses: Vec<_> = added["ips"].as_array().unwrap().iter().collect();
            assert_eq!(addresses[0]["address"], "127.0.0.1/8");
            assert_eq!(addresses[1]["address"], "::1/128");
            assert!(addresses.iter().all(|it| it["interface"] == 0));
            assert_eq!(answer(&node.call("ADD", version, &netns), true), added, "once more");
            silent(&node.call("CHECK", version, &netns));
            for verb in ["GC", "STATUS"] {
                silent(&node.call(verb, version, &netns));
            }
            silent(&node.call("DEL", version, &netns));
            assert!(!is_up(&node.pod));
            silent(&node.call("DEL", version, &netns));
        }
        let told = answer(&node.call("VERSION", "0.4.0", &netns), true);
        assert_eq!(told["supportedVersions"].as_array().unwrap().len(), 5);
        assert_eq!(answer(&node.call("ADD", "0.2.0", &netns), false)["code"], 1);
        let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "loopback",
            "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]}});
        let chained = answer(&node.call_with("ADD", &netns, &conf), true);
        assert_eq!(chained, conf["prevResult"], "what the plugin before gave");
        assert!(is_up(&node.pod));
    });
}

#[test]
fn a_namespace_that_has_gone_ends_nothing_but_add() {
    with_node("cnilogone", |node| {
        let file = node.folder.path().join("no-namespace");
        std::fs::write(&file, "").unwrap();
        let missing = node.folder.path().join("missing");
        for netns in [&file, &missing, Path::new("/proc/self/ns/net")] {
            for verb in ["ADD", "CHECK"] {
                let error = answer(&node.call(verb, "1.1.0", netns), false);
                assert_eq!(error["code"], 4, "{verb} {}: {error}", netns.display());
            }
            silent(&node.call("DEL", "1.1.0", netns));
        }
        silent(&node.call("DEL", "1.1.0", Path::new("")));
        assert!(is_up(&node.host), "the host's own is nobody's to take down");
    });
}
