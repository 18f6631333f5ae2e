//! `weir sysdump`: what is in the archive, what is not, and that nothing fails it.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod cli_fakes;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use cli_fakes::kubectl::{FakeKubectl, running_pod, texts};
use cli_fakes::states::healthy;
use cli_fakes::{Fakes, Present, WEIR};
use serde_json::Value;

/// The files of an archive.
fn unpack(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = flate2::read::GzDecoder::new(fs::File::open(archive).unwrap());
    let mut tar = tar::Archive::new(file);
    let read = |file: std::io::Result<tar::Entry<'_, _>>| {
        let mut file = file.unwrap();
        let path = file.path().unwrap().display().to_string();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        (path, content)
    };
    tar.entries().unwrap().map(read).collect()
}

/// The manifest's items by path.
fn manifest(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Value> {
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let items = manifest["items"].as_array().unwrap();
    items.iter().map(|it| (it["path"].as_str().unwrap().to_owned(), it.clone())).collect()
}

#[test]
fn a_node_tells_everything_but_what_is_secret() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let _fakes = Fakes::serve(folder, &healthy(), Present::Both);
    fs::write(folder.join("old.log"), "something went wrong\n").unwrap();
    let archive = folder.join("dump.tar.gz");
    let output = Command::new(WEIR)
        .args(["sysdump", "--file"])
        .arg(&archive)
        .arg("--run-dir")
        .arg(folder)
        .env("A_TOKEN", "hunter2-in-the-environment")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("items, ") && told.contains("manifest.json says why"), "{told}");
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);

    let files = unpack(&archive);
    let items = manifest(&files);
    let status: Value = serde_json::from_slice(&files["weir/status.json"]).unwrap();
    assert_eq!(status["state"], "healthy");
    let endpoints: Value = serde_json::from_slice(&files["weir/endpoints.json"]).unwrap();
    assert_eq!(endpoints[0]["name"], "default/web-1");
    for name in ["weir/flows", "weir/services", "weir/policy", "weir/drops"] {
        assert!(files.contains_key(&format!("{name}.json")), "{name}: {:?}", items.keys());
    }
    assert_eq!(files["logs/old.log"], b"something went wrong\n");
    let sysctls = String::from_utf8_lossy(&files["kernel/sysctls.txt"]);
    assert!(sysctls.contains("net/ipv4/ip_forward = "), "{sysctls}");
    assert!(files.contains_key("network/link.txt") && files.contains_key("kernel/version.txt"));
    let listed = String::from_utf8_lossy(&files["state/files.txt"]).into_owned();
    assert!(listed.contains("old.log"), "{listed}");

    // One that fails is noted, and nothing else.
    let snat = &items["weir/snat.json"];
    assert!(snat["error"].as_str().unwrap().contains("the ports cannot be counted"), "{snat}");
    assert!(!files.contains_key("weir/snat.json"));
    assert!(items["weir/status.json"]["source"].as_str().unwrap().ends_with("status -o json"));
    assert!(items.values().all(|it| it["took_ms"].is_u64()));
    let all: Vec<u8> = files.into_values().flatten().collect();
    assert!(!String::from_utf8_lossy(&all).contains("hunter2"));
}

#[test]
fn without_tools_and_processes_it_reads_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("big.log"), vec![b'x'; 3_000_000]).unwrap();
    let output = Command::new(WEIR)
        .args(["sysdump", "--limit-mb=1", "-f", "-", "--run-dir"])
        .arg(folder)
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let archive = folder.join("dump.tar.gz");
    fs::write(&archive, output.stdout).unwrap();
    let files = unpack(&archive);
    let items = manifest(&files);
    let error = items["weir/drops.json"]["error"].as_str().unwrap();
    assert!(error.contains("no such socket: is weir-dataplane running"), "{error}");
    // A node that does not answer has a status all the same.
    let status: Value = serde_json::from_slice(&files["weir/status.json"]).unwrap();
    assert_eq!(status["state"], "unreachable");
    // The archive has a limit, and says what it has cost.
    let log = &items["logs/big.log"];
    assert_eq!(log["truncated"], true);
    assert!(log["bytes"].as_u64().unwrap() < 1_000_000);
    let late = &items["network/link.txt"];
    assert!(late["error"].as_str().unwrap().contains("--limit-mb"), "{late}");
    assert_eq!(late["note"], "ip: not found, so read from /sys/class/net");
    assert!(items["bpf/prog.txt"]["error"] == "bpftool: not found");
    let bytes: usize =
        files.iter().filter(|(it, _)| *it != "manifest.json").map(|(_, it)| it.len()).sum();
    assert!(bytes <= 1_000_000, "{bytes}");
}

#[test]
fn the_cluster_is_collected_with_all_its_nodes() {
    let fake =
        FakeKubectl::new(&[running_pod("weir-a", "worker-1"), running_pod("weir-b", "worker-2")]);
    let _first = Fakes::serve(&fake.pod_folder("weir-a"), &healthy(), Present::Both);
    // Nothing runs on the other one.
    let output = fake.weir(&["sysdump", "--file", "dump.tar.gz", "--flows", "5"]);
    let (told, errors) = texts(&fake, &output);
    assert!(output.status.success(), "{errors}");
    assert!(told.starts_with("dump.tar.gz: "), "{told}");
    let files = unpack(&fake.path("dump.tar.gz"));
    let items = manifest(&files);
    let status: Value = serde_json::from_slice(&files["nodes/worker-1/weir/status.json"]).unwrap();
    assert_eq!(status["state"], "healthy");
    let status: Value = serde_json::from_slice(&files["nodes/worker-2/weir/status.json"]).unwrap();
    assert_eq!(status["state"], "unreachable");
    assert!(items.contains_key("nodes/worker-2/kernel/version.txt"), "{:?}", items.keys());
    assert_eq!(files["logs/worker-1/agent.log"], b"a line of a log\n");
    assert_eq!(items["logs/worker-1/agent.previous.log"]["error"], "");
    let error = items["cluster/ciliumcidrgroups.yaml"]["error"].as_str().unwrap();
    assert!(error.contains("no such resource type"), "{error}");
    assert!(files.contains_key("cluster/services.yaml") && files.contains_key("weir/objects.yaml"));

    let calls = fake.calls();
    assert!(calls.iter().all(|it| !it.to_lowercase().contains("secret")), "{calls:#?}");
    // Of pods that are not weir's, no specification.
    let pods = calls.iter().filter(|it| it.contains(" pods -A") || it.contains("get pods -A"));
    assert!(pods.clone().count() == 1 && pods.clone().all(|it| !it.contains("yaml")), "{calls:#?}");
    let dumps = calls.iter().filter(|it| it.contains("-- weir sysdump -f -"));
    assert_eq!(dumps.filter(|it| it.ends_with("--limit-mb=200 --flows=5")).count(), 2);
}
