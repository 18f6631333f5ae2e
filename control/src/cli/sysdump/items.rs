//! What is collected on a node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use weir_api::paths::Paths;

use super::SysdumpArgs;
use super::collect::{Item, Source};
use super::facts::{children, describe_process, kernel_config, list_folders, sysctls};
use super::links;
use crate::cli::json::Status;

/// Files of the kernel, and their names in the archive.
const KERNEL_FILES: [(&str, &str); 12] = [
    ("version", "/proc/version"),
    ("os-release", "/etc/os-release"),
    ("uptime", "/proc/uptime"),
    ("loadavg", "/proc/loadavg"),
    ("meminfo", "/proc/meminfo"),
    ("cpuinfo", "/proc/cpuinfo"),
    ("interrupts", "/proc/interrupts"),
    ("softirqs", "/proc/softirqs"),
    ("softnet_stat", "/proc/net/softnet_stat"),
    ("net-dev", "/proc/net/dev"),
    ("netstat", "/proc/net/netstat"),
    ("snmp", "/proc/net/snmp"),
];
const PIN_FOLDER: &str = "/sys/fs/bpf";
const CNI_FOLDER: &str = "/etc/cni/net.d";

/// All of it, in order: what says most about weir comes first.
pub(super) async fn list(paths: &Paths, args: &SysdumpArgs) -> Vec<Item> {
    let mut items = own_items(paths, args);
    let status = read_status(&items).await;
    items.extend(state_items(paths));
    items.extend(process_items(&status));
    items.push(Item::made("kernel/config.txt", "the kernel's configuration", kernel_config));
    items.push(Item::made("kernel/sysctls.txt", "/proc/sys", || Ok(sysctls())));
    for (name, file) in KERNEL_FILES {
        items.push(Item::file(&format!("kernel/{name}.txt"), file));
    }
    items.extend(network_items());
    items.extend(uplinks(&status).iter().flat_map(|it| uplink_items(it)));
    items.push(Item::made("bpf/pins.txt", PIN_FOLDER, || {
        Ok(list_folders(&[PathBuf::from(PIN_FOLDER)]))
    }));
    for what in ["prog", "map", "link", "net"] {
        items.push(Item::command(&format!("bpf/{what}.txt"), &["bpftool", what, "show"]));
    }
    items
}

/// What weir itself says, asked by this very program: one that hangs holds up nothing else.
fn own_items(paths: &Paths, args: &SysdumpArgs) -> Vec<Item> {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("weir"));
    let own = own.display().to_string();
    let run_dir = paths.run_dir.display().to_string();
    let flows = args.flows.to_string();
    let ask = |name: &str, words: &[&str]| {
        let all = [&[own.as_str(), "--run-dir", &run_dir][..], words, &["-o", "json"]].concat();
        Item::command(&format!("weir/{name}.json"), &all)
    };
    vec![
        ask("status", &["status"]),
        ask("drops", &["drops", "--all"]),
        ask("endpoints", &["endpoint", "list"]),
        ask("services", &["service", "list"]),
        ask("policy", &["policy", "show"]),
        ask("snat", &["snat", "top", "--limit", "100"]),
        ask("flows", &["flow", "list", "--limit", &flows]),
        Item::command("weir/version.txt", &[&own, "--version"]),
    ]
}

/// Where weir's processes and devices are; nothing where they do not answer.
async fn read_status(items: &[Item]) -> Status {
    let Some(item) = items.first() else { return Status::default() };
    serde_json::from_slice(&item.collect().await.content).unwrap_or_default()
}

/// Files that weir keeps: lists of them all, and those that are text.
fn state_items(paths: &Paths) -> Vec<Item> {
    let folders = [paths.run_dir.clone(), paths.state_dir.clone(), CNI_FOLDER.into()];
    let mut items =
        vec![Item::made("state/files.txt", "weir's folders", move || Ok(list_folders(&folders)))];
    items.push(Item::file("state/endpoints.json", paths.endpoints()));
    items.push(Item::file("state/leases.json", paths.leases()));
    let is_log = |it: &Path| it.extension().is_some_and(|it| it == "log");
    for folder in [&paths.run_dir, &paths.state_dir] {
        for path in children(folder).into_iter().filter(|it| is_log(it)) {
            let name = path.file_name().unwrap_or_default().display().to_string();
            items.push(Item::file(&format!("logs/{name}"), path));
        }
    }
    for path in children(Path::new(CNI_FOLDER)) {
        let name = path.file_name().unwrap_or_default().display().to_string();
        if name.contains("weir") {
            items.push(Item::file(&format!("cni/{name}"), path));
        }
    }
    items
}

fn process_items(status: &Status) -> Vec<Item> {
    let agent = status.agent.as_ref().map(|it| ("agent", it.pid));
    let dataplane = status.dataplane.as_ref().map(|it| ("dataplane", it.pid));
    let known = agent.into_iter().chain(dataplane);
    let describe = |(name, pid)| {
        Item::made(&format!("process/{name}.txt"), "/proc", move || describe_process(pid))
    };
    known.map(describe).collect()
}

fn network_items() -> Vec<Item> {
    let or = |path: &str, words: &[&str], from: &'static str, make: fn() -> String| Item {
        path: format!("network/{path}.txt"),
        source: Source::CommandOr(words.iter().map(|it| (*it).to_owned()).collect(), from, make),
    };
    let proc = "/proc/net";
    vec![
        or("link", &["ip", "-d", "-s", "link"], "/sys/class/net", links::links),
        or("address", &["ip", "addr"], proc, links::addresses),
        or("rule", &["ip", "rule"], "nowhere", links::rules),
        or("rule6", &["ip", "-6", "rule"], "nowhere", links::rules),
        or("route", &["ip", "route", "show", "table", "all"], proc, links::routes),
        or("route6", &["ip", "-6", "route", "show", "table", "all"], proc, links::routes),
        or("neighbour", &["ip", "neigh"], proc, links::neighbours),
        Item::command("network/nftables.txt", &["nft", "list", "ruleset"]),
        Item::command("network/iptables.txt", &["iptables-save"]),
    ]
}

/// Devices that lead outside: those that are not weir's own.
fn uplinks(status: &Status) -> BTreeSet<String> {
    let devices = status.dataplane.iter().flat_map(|it| &it.devices);
    let names = devices.map(|it| it.name.clone());
    names.filter(|it| !it.starts_with("weir")).collect()
}

fn uplink_items(name: &str) -> Vec<Item> {
    let asked = [
        ("driver", "-i"),
        ("features", "-k"),
        ("channels", "-l"),
        ("rings", "-g"),
        ("coalescing", "-c"),
        ("statistics", "-S"),
    ];
    let ask = |(what, flag): (&str, &str)| {
        Item::command(&format!("uplink/{name}/{what}.txt"), &["ethtool", flag, name])
    };
    asked.map(ask).into()
}
