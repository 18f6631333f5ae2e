//! The agent and the dataplane go and come back between and during the plugin's calls.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Node, PATIENCE, ping, with_node};
use serde_json::json;
use weir_lab::clock::{pause, wait_until};

const DUAL: [&str; 2] = ["10.244.0.0/24", "fd00:10:244::/64"];

fn kill_agent(node: &Node) -> Result<()> {
    node.testbed.agent().context("an agent")?.kill();
    Ok(())
}

#[test]
fn pods_outlive_the_agent_and_calls_wait_for_it() {
    with_node("cniagent", &DUAL, |node| {
        let (one, a) = node.container("one", "aa")?;
        let (two, b) = node.container("two", "bb")?;
        let added = node.add(&a)?;
        let other = node.add(&b)?;
        node.wait_for_conf()?;
        kill_agent(node)?;
        ping(&one, &other.addresses()[1])?;
        ensure!(node.status_code(&a)? == 50);

        // A pod goes also without an agent; its address is freed later.
        let deleted = node.del(&b)?;
        ensure!(deleted.stderr.contains("freed by the agent's garbage collector"), "{deleted:?}");
        ensure!(deleted.took < Duration::from_secs(20), "{deleted:?}");
        ensure!(node.host_interfaces()?.len() == 1);

        // An ADD that begins without an agent ends with one.
        let (three, c) = node.container("three", "cc")?;
        let caller = node.caller();
        let calling = std::thread::spawn(move || caller.call("ADD", &c, &[]).map(|it| (c, it)));
        pause(Duration::from_secs(2));
        node.testbed.start_agent()?;
        let (c, late) = calling.join().unwrap()?;
        ensure!(late.is_ok && late.took >= Duration::from_secs(2), "{late:?}");
        ensure!(late.addresses() == ["10.244.0.3", "fd00:10:244::3"], "{late:?}");
        ping(&three, &added.addresses()[0])?;
        ensure!(node.check(&a, &added)?.is_ok && node.check(&c, &late)?.is_ok);
        ensure!(node.add(&a)?.json == added.json, "addresses survive a restart");

        // The runtime's garbage collection need not wait for the agent's.
        let valid = json!([
            {"containerID": a.id, "ifname": "eth0"}, {"containerID": c.id, "ifname": "eth0"}
        ]);
        ensure!(node.call("GC", &a, &[("cni.dev/valid-attachments", valid)])?.is_ok);
        ensure!(node.endpoints()? == ["default/one", "default/three"]);
        let leases = fs::read_to_string(node.testbed.state_folder().join("leases.json"))?;
        ensure!(!leases.contains(&b.id) && leases.contains(&a.id), "{leases}");
        drop(two);
        Ok(())
    });
}

#[test]
fn pods_outlive_the_dataplane() {
    with_node("cnidataplane", &DUAL, |node| {
        let (one, a) = node.container("one", "aa")?;
        let (_two, b) = node.container("two", "bb")?;
        let added = node.add(&a)?;
        let other = node.add(&b)?;
        node.testbed.dataplane().context("a dataplane")?.kill();
        wait_until("the agent to notice", PATIENCE, || {
            matches!(node.status_code(&a), Ok(51)).then_some(())
        })?;
        // A pod that works is not taken apart because it cannot be attached again.
        let again = node.call("ADD", &a, &[])?;
        ensure!(again.code() == 11, "{again:?}");
        // A new one is not left half made.
        let (_three, c) = node.container("three", "cc")?;
        let failed = node.call("ADD", &c, &[])?;
        ensure!(failed.code() == 11, "{failed:?}");
        ensure!(node.host_interfaces()?.len() == 2);
        node.testbed.start_dataplane()?;
        node.testbed.wait_until_settled()?;
        ping(&one, &other.addresses()[0])?;
        ensure!(node.check(&a, &added)?.is_ok);
        ensure!(node.add(&c)?.is_ok);
        Ok(())
    });
}

#[test]
fn leases_that_are_damaged_come_back_from_the_pods() {
    with_node("cnidamaged", &DUAL, |node| {
        let (_one, a) = node.container("one", "aa")?;
        let added = node.add(&a)?;
        kill_agent(node)?;
        let path = node.testbed.state_folder().join("leases.json");
        fs::write(&path, "{\"version\": 1")?;
        node.testbed.start_agent()?;
        node.testbed.wait_until_settled()?;
        ensure!(path.with_extension("damaged").exists());
        ensure!(node.add(&a)?.json == added.json, "the pod keeps its addresses");
        let (_two, b) = node.container("two", "bb")?;
        ensure!(node.add(&b)?.addresses()[0] == "10.244.0.2", "none is given twice");
        node.del(&a)?;
        ensure!(node.endpoints()? == ["default/two"]);
        Ok(())
    });
}
