//! What takes minutes, or needs programs that are not part of weir; not part of `cargo test`:
//! `cargo test -p weir-cni --test slow`.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use common::{PATIENCE, conf_folder, ping, with_node};
use weir_lab::clock::wait_until;
use weir_lab::{Host, program};

const DUAL: [&str; 2] = ["10.244.0.0/24", "fd00:10:244::/64"];

/// A lost DEL, and a runtime that never asks for garbage collection.
#[test]
fn what_nobody_gives_back_is_freed() {
    with_node("cniabandoned", &DUAL, |node| {
        let (_one, a) = node.container("one", "aa")?;
        let (_two, b) = node.container("two", "bb")?;
        let added = node.add(&a)?;
        node.add(&b)?;
        let name = added.json["interfaces"][0]["name"].as_str().context("a name")?;
        node.testbed.node().ip(&format!("link del {name}"))?;
        let is_freed = || {
            let leases =
                fs::read_to_string(node.testbed.state_folder().join("leases.json")).ok()?;
            (!leases.contains(&a.id)).then_some(leases)
        };
        let leases = wait_until("the address to be freed", PATIENCE * 3, is_freed)?;
        ensure!(leases.contains(&b.id), "{leases}");
        ensure!(node.endpoints()? == ["default/two"]);
        Ok(())
    });
}

/// The black-box harness of the CNI project, where it is built (scripts/setup-cluster).
#[test]
fn cnitool_is_content() {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cnitool = home.join(".cache/weir/cluster/bin/cnitool");
    if !cnitool.exists() {
        println!("skipped: no {}", cnitool.display());
        return;
    }
    with_node("cnitool", &DUAL, |node| {
        node.wait_for_conf()?;
        let (pod, container) = node.container("web", "aa")?;
        let plugin = program("weir-cni")?;
        let plugins = plugin.parent().context("a folder")?.display().to_string();
        let conf = conf_folder(&node.testbed).display().to_string();
        let netns = container.netns.display().to_string();
        let run = |host: &Host, verb: &str| -> Result<String> {
            let words = [
                "env",
                &format!("NETCONFPATH={conf}"),
                &format!("CNI_PATH={plugins}"),
                "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
                &format!("{}", cnitool.display()),
                verb,
                "weir",
                &netns,
            ];
            Ok(host.run(words)?)
        };
        let host = node.testbed.node();
        run(host, "status")?;
        let added = run(host, "add")?;
        ensure!(added.contains("\"cniVersion\": \"1.1.0\""), "{added}");
        ensure!(added.contains("10.244.0.1/32"), "{added}");
        ping(&pod, &weir_lab::testbed::NODE.v4.to_string())?;
        run(host, "check")?;
        run(host, "del")?;
        run(host, "del")?;
        ensure!(node.host_interfaces()?.is_empty());
        run(host, "add")?;
        run(host, "gc")?;
        ensure!(node.host_interfaces()?.is_empty(), "gc keeps what is not valid");
        Ok(())
    });
}
