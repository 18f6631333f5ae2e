//! Pods made by the plugin on a node that runs weir: made, used, looked at and removed as a
//! container runtime does it.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{PATIENCE, node_yaml, ping, with_node};
use serde_json::{Value, json};
use weir_lab::clock::wait_until;
use weir_lab::testbed::NODE;
use weir_lab::{Host, program};

const DUAL: [&str; 2] = ["10.244.0.0/24", "fd00:10:244::/64"];

fn serve(host: &Host, name: &str, addresses: &[String]) -> Result<weir_lab::Process> {
    let mut command = Command::new(program("weir-lab-http")?);
    command.args(["serve", "--name", name]);
    for address in addresses {
        command.args(["--listen", &std::net::SocketAddr::new(address.parse()?, 8080).to_string()]);
    }
    let server = host.spawn(command)?;
    server.wait_for_output("listening on", PATIENCE)?;
    Ok(server)
}

fn curl(from: &Host, address: &str, port: u16) -> Result<String> {
    let url = format!("http://{}/", std::net::SocketAddr::new(address.parse()?, port));
    Ok(from.run(["curl", "-sS", "-g", "--max-time", "10", &url])?)
}

#[test]
fn pods_are_made_talk_and_go() {
    with_node("cnipods", &DUAL, |node| {
        let (one, a) = node.container("one", "aa")?;
        let (two, b) = node.container("two", "bb")?;
        let added = node.add(&a)?;
        let again = node.add(&a)?;
        ensure!(added.json == again.json, "{added:?}, again {again:?}");
        let other = node.add(&b)?;
        ensure!(added.addresses() == ["10.244.0.1", "fd00:10:244::1"], "{added:?}");
        ensure!(other.addresses() == ["10.244.0.2", "fd00:10:244::2"], "{other:?}");
        ensure!(node.endpoints()? == ["default/one", "default/two"]);

        let _server = serve(&two, "two", &other.addresses())?;
        for address in other.addresses() {
            ping(&one, &address)?;
            ensure!(curl(&one, &address, 8080)?.contains("two"), "{address}");
            // From the host, as probes come.
            ping(node.testbed.node(), &address)?;
        }
        ping(&two, &added.addresses()[0])?;
        // A packet of the largest size, whole.
        one.run(["ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1472", &other.addresses()[0]])?;

        for (container, result) in [(&a, &added), (&b, &other)] {
            let check = node.check(container, result)?;
            ensure!(check.is_ok && check.json.is_null(), "{check:?}");
        }
        node.del(&a)?;
        node.del(&a)?;
        ensure!(one.ip("link show dev eth0").is_err(), "the interface is still there");
        ensure!(node.endpoints()? == ["default/two"]);
        let back = node.add(&a)?;
        ensure!(back.addresses()[0] == "10.244.0.3", "an address is used again at once: {back:?}");
        node.del(&a)?;
        node.del(&b)?;
        ensure!(node.host_interfaces()?.is_empty() && node.endpoints()?.is_empty());
        Ok(())
    });
}

#[test]
fn add_takes_milliseconds() {
    with_node("cnitime", &DUAL, |node| {
        let (mut adds, mut dels) = (Vec::new(), Vec::new());
        for i in 0..10 {
            let (_host, container) = node.container(&format!("p{i}"), &format!("c{i}"))?;
            adds.push(node.add(&container)?.took.as_millis());
            dels.push(node.del(&container)?.took.as_millis());
        }
        adds.sort_unstable();
        dels.sort_unstable();
        println!("ADD: {adds:?} ms; DEL: {dels:?} ms");
        ensure!(adds[5] < 2000, "half of all ADDs take longer than 2 s: {adds:?}");
        Ok(())
    });
}

#[test]
fn results_and_errors_are_of_the_version_that_was_asked() {
    with_node("cniversions", &["10.244.0.0/24"], |node| {
        for (i, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
            node.version = version;
            let (_host, mut container) = node.container(&format!("v{i}"), "aa")?;
            container.id = format!("v{i}");
            let added = node.add(&container)?;
            ensure!(added.json["cniVersion"] == version, "{added:?}");
            let has_mtu = !added.json["interfaces"][1]["mtu"].is_null();
            ensure!(has_mtu == (version == "1.1.0"), "{added:?}");
            ensure!(node.check(&container, &added)?.is_ok);
            container.netns = "/run/netns/weir-no-such".into();
            let failed = node.call("ADD", &container, &[])?;
            ensure!(failed.code() == 4 && failed.json["cniVersion"] == version, "{failed:?}");
        }
        node.version = "2.0.0";
        let (_host, container) = node.container("v", "ff")?;
        ensure!(node.call("ADD", &container, &[])?.code() == 1);
        let versions = node.call("VERSION", &container, &[])?;
        let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        ensure!(versions.json["supportedVersions"] == all, "{versions:?}");
        Ok(())
    });
}

#[test]
fn what_was_broken_is_told_and_what_is_left_is_removed() {
    with_node("cnibroken", &DUAL, |node| {
        let (host, container) = node.container("web", "aa")?;
        let added = node.add(&container)?;
        for (spoil, repair, expected) in [
            ("addr del 10.244.0.1/32 dev eth0", "addr add 10.244.0.1/32 dev eth0", "no address"),
            (
                "neigh del 169.254.1.1 dev eth0",
                "neigh add 169.254.1.1 lladdr 02:77:65:69:72:01 dev eth0 nud permanent",
                "no permanent neighbour 169.254.1.1",
            ),
            (
                "-6 route del default",
                "-6 route add default via fe80::1 dev eth0",
                "has no route to ::/0",
            ),
            ("link set eth0 mtu 1400", "link set eth0 mtu 1500", "has MTU 1400, not 1500"),
        ] {
            host.ip(spoil)?;
            let check = node.check(&container, &added)?;
            ensure!(check.code() == 103 && check.message().contains(expected), "{check:?}");
            // Routes and neighbours may have gone with an address.
            host.ip(repair)?;
            node.add(&container)?;
            let check = node.check(&container, &added)?;
            ensure!(check.is_ok, "after {repair} and ADD: {check:?}");
        }
        let without = node.call("CHECK", &container, &[])?;
        ensure!(without.code() == 7 && without.message().contains("prevResult"), "{without:?}");

        // Half of an ADD, and somebody else's interface.
        let (other, rest) = node.container("rest", "bb")?;
        let added = node.add(&rest)?;
        let name = added.json["interfaces"][0]["name"].as_str().context("a name")?.to_owned();
        node.del(&rest)?;
        node.testbed.node().ip(&format!("link add {name} type veth peer name left0"))?;
        ensure!(node.add(&rest)?.stderr.contains("which an earlier call left"));
        node.del(&rest)?;
        other.ip("link add eth0 type veth peer name other0")?;
        let taken = node.call("ADD", &rest, &[])?;
        ensure!(taken.code() == 102 && taken.message().contains("eth0"), "{taken:?}");
        ensure!(node.endpoints()? == ["default/web"]);
        Ok(())
    });
}

#[test]
fn namespaces_that_have_gone_and_garbage() {
    with_node("cnigarbage", &DUAL, |node| {
        let (_one, a) = node.container("one", "aa")?;
        let (_two, mut b) = node.container("two", "bb")?;
        let (_three, mut c) = node.container("three", "cc")?;
        for container in [&a, &b, &c] {
            node.add(container)?;
        }
        b.netns = "/run/netns/weir-no-such".into();
        node.del(&b)?;
        c.netns = "".into();
        c.runtime_config = Value::Null;
        let deleted =
            node.call("DEL", &c, &[("runtimeConfig", json!({})), ("prevResult", json!({}))])?;
        ensure!(deleted.is_ok, "{deleted:?}");
        ensure!(node.endpoints()? == ["default/one"]);

        let (_four, d) = node.container("four", "dd")?;
        node.add(&d)?;
        node.testbed.node().ip("link add weirp0000000000 type veth peer name left0")?;
        let unsaid = node.call("GC", &a, &[])?;
        ensure!(unsaid.code() == 7 && node.host_interfaces()?.len() > 1, "{unsaid:?}");
        let valid = json!([{"containerID": a.id, "ifname": "eth0"}]);
        let collected = node.call("GC", &a, &[("cni.dev/valid-attachments", valid)])?;
        ensure!(collected.is_ok, "{collected:?}");
        ensure!(node.endpoints()? == ["default/one"] && node.host_interfaces()?.len() == 1);
        Ok(())
    });
}

#[test]
fn a_new_container_of_a_pod_is_not_cut_off_by_the_end_of_the_old_one() {
    with_node("cnireplace", &DUAL, |node| {
        let (_old, a) = node.container("web", "aa")?;
        let (new, b) = node.container("web", "bb")?;
        node.add(&a)?;
        let added = node.add(&b)?;
        node.del(&a)?;
        ensure!(node.endpoints()? == ["default/web"]);
        ensure!(node.check(&b, &added)?.is_ok);
        ping(&new, &NODE.v4.to_string())?;
        Ok(())
    });
}

#[test]
fn a_full_range_says_so_and_goes_on_when_a_pod_goes() {
    with_node("cnifull", &["10.244.0.0/30"], |node| {
        let mut all = Vec::new();
        for i in 0..3 {
            let (host, mut container) = node.container(&format!("p{i}"), "aa")?;
            container.id = format!("p{i}");
            all.push((host, container));
        }
        let first = node.add(&all[0].1)?;
        node.add(&all[1].1)?;
        let full = node.call("ADD", &all[2].1, &[])?;
        ensure!(full.code() == 101, "{full:?}");
        for part in ["no free address in 10.244.0.0/30", "2 in use", "delete pods of this node"] {
            ensure!(full.message().contains(part), "{full:?} does not say {part:?}");
        }
        ensure!(node.host_interfaces()?.len() == 2);
        node.del(&all[0].1)?;
        ensure!(node.add(&all[2].1)?.addresses() == first.addresses());
        ping(&all[2].0, "10.244.0.2")?;

        // Without any range the runtime is told to come again.
        node.testbed.apply("node", &node_yaml(&[]))?;
        wait_until("the range to go", PATIENCE, || {
            matches!(node.status_code(&all[0].1), Ok(50)).then_some(())
        })?;
        ensure!(node.add(&all[1].1)?.addresses() == ["10.244.0.2"], "what was given stays");
        Ok(())
    });
}

#[test]
fn ports_of_the_node_lead_to_pods_that_ask_for_them() {
    with_node("cniports", &DUAL, |node| {
        let (host, mut container) = node.container("web", "aa")?;
        container.runtime_config = json!({
            "portMappings": [{"hostPort": 8088, "containerPort": 8080, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 100_000_000, "ingressBurst": 4_294_967_295_u64,
                "egressRate": 0, "egressBurst": 0},
        });
        let added = node.add(&container)?;
        let _server = serve(&host, "web", &added.addresses())?;
        for address in NODE.both() {
            let answer = curl(node.testbed.client(), &address.to_string(), 8088)?;
            ensure!(answer.contains("web"), "{answer}");
        }
        node.testbed.agent().context("an agent")?.kill();
        node.testbed.start_agent()?;
        node.testbed.wait_until_settled()?;
        ensure!(curl(node.testbed.client(), &NODE.v4.to_string(), 8088)?.contains("web"));
        node.del(&container)?;
        ensure!(curl(node.testbed.client(), &NODE.v4.to_string(), 8088).is_err());
        Ok(())
    });
}

#[test]
fn a_node_without_a_range_is_not_ready_until_it_has_one() {
    with_node("cninorange", &[], |node| {
        let (_host, container) = node.container("web", "aa")?;
        let is_told = || {
            let health = node.health().ok()?;
            (health.starts_with("not ready") && health.contains("spec.podCIDRs")).then_some(())
        };
        wait_until("the probe to be told", PATIENCE, is_told)?;
        ensure!(node.status_code(&container)? == 50);
        // An ADD waits for it.
        let (caller, waiting) = (node.caller(), container.clone());
        let calling = std::thread::spawn(move || caller.call("ADD", &waiting, &[]));
        node.testbed.apply("node", &node_yaml(&DUAL))?;
        let added = calling.join().unwrap()?;
        ensure!(added.is_ok, "{added:?}");
        node.wait_for_conf()?;
        let is_ready = || (node.health().ok()? == "ready").then_some(());
        Ok(wait_until("the probe to be content", PATIENCE, is_ready)?)
    });
}

#[test]
fn the_configuration_file_is_there_when_pods_can_be_made() {
    with_node("cniconf", &DUAL, |node| {
        let (_host, container) = node.container("web", "aa")?;
        let path = node.wait_for_conf()?;
        ensure!(node.status_code(&container)? == 0);
        let text = std::fs::read_to_string(&path)?;
        node.testbed.agent().context("an agent")?.kill();
        ensure!(path.exists(), "it goes with the agent");
        node.testbed.start_agent()?;
        node.testbed.wait_until_settled()?;
        std::fs::remove_dir_all(path.parent().context("a folder")?)?;
        node.wait_for_conf()?;
        std::fs::write(&path, "{}")?;
        let is_repaired = || (std::fs::read_to_string(&path).ok()? == text).then_some(());
        wait_until("the file to be repaired", Duration::from_secs(20), is_repaired)?;
        Ok(())
    });
}
