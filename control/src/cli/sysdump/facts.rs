//! Facts of the machine that no one file has.

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// Options of the kernel's configuration that something of weir depends on, by their beginnings.
const OPTIONS: [&str; 18] = [
    "CONFIG_BPF",
    "CONFIG_XDP_SOCKETS",
    "CONFIG_CGROUP_BPF",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_NETKIT",
    "CONFIG_VETH",
    "CONFIG_NET_CLS",
    "CONFIG_NET_SCH_INGRESS",
    "CONFIG_NET_INGRESS",
    "CONFIG_NET_XGRESS",
    "CONFIG_NET_NS",
    "CONFIG_IPV6",
    "CONFIG_IP_MULTIPLE_TABLES",
    "CONFIG_IP_SCTP",
    "CONFIG_HZ",
    "CONFIG_PREEMPT",
    "CONFIG_HUGETLBFS",
    "CONFIG_NET_RX_BUSY_POLL",
];
/// Sysctls that weir sets or that decide about its packets; `*` is any interface.
const SYSCTLS: [&str; 30] = [
    "kernel/unprivileged_bpf_disabled",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/busy_poll",
    "net/core/busy_read",
    "net/core/netdev_budget",
    "net/core/netdev_budget_usecs",
    "net/core/netdev_max_backlog",
    "net/ipv4/conf/*/accept_local",
    "net/ipv4/conf/*/arp_announce",
    "net/ipv4/conf/*/arp_ignore",
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/proxy_arp",
    "net/ipv4/conf/*/route_localnet",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/send_redirects",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/ip_nonlocal_bind",
    "net/ipv4/neigh/*/proxy_delay",
    "net/ipv6/conf/*/accept_dad",
    "net/ipv6/conf/*/accept_ra",
    "net/ipv6/conf/*/addr_gen_mode",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/proxy_ndp",
    "net/ipv6/neigh/*/proxy_delay",
    "vm/nr_hugepages",
    "vm/overcommit_memory",
];
/// Lines of a listing.
const ENTRIES_MAX: usize = 20_000;

/// The options, from wherever this kernel shows its configuration.
///
/// # Errors
/// It shows it nowhere.
pub(super) fn kernel_config() -> Result<String, String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let files = [
        "/proc/config.gz".to_owned(),
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ];
    let read = |path: &String| {
        let bytes = fs::read(path).ok()?;
        if !path.ends_with(".gz") {
            return String::from_utf8(bytes).ok();
        }
        let mut text = String::new();
        GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).ok().map(|_| text)
    };
    let Some((path, text)) = files.iter().find_map(|path| Some((path, read(path)?))) else {
        return Err(format!("none of {} can be read", files.join(", ")));
    };
    let is_wanted = |line: &&str| {
        let line = line.trim_start_matches("# ");
        OPTIONS.iter().any(|it| line.starts_with(it))
    };
    let lines: Vec<&str> = text.lines().filter(is_wanted).collect();
    Ok(format!("# from {path}\n{}\n", lines.join("\n")))
}

/// The sysctls, as `sysctl` prints them.
pub(super) fn sysctls() -> String {
    let mut text = String::new();
    for name in SYSCTLS {
        for path in expand(Path::new("/proc/sys"), name) {
            let shown = path.strip_prefix("/proc/sys").unwrap_or(&path).display();
            // Some exist only without a network namespace, or with IPv6.
            if let Ok(value) = fs::read_to_string(&path) {
                let _ = writeln!(text, "{shown} = {}", value.trim().replace('\t', " "));
            }
        }
    }
    text
}

fn expand(root: &Path, name: &str) -> Vec<PathBuf> {
    let Some((before, after)) = name.split_once("/*/") else { return vec![root.join(name)] };
    children(&root.join(before)).into_iter().map(|it| it.join(after)).collect()
}

/// Everything below some folders, with sizes.
pub(super) fn list_folders(folders: &[PathBuf]) -> String {
    let mut text = String::new();
    let mut count = 0;
    for folder in folders {
        let mut rest = vec![folder.clone()];
        while let Some(path) = rest.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                let _ = writeln!(text, "{}: cannot be read", path.display());
                continue;
            };
            count += 1;
            if count > ENTRIES_MAX {
                let _ = writeln!(text, "and more");
                return text;
            }
            let slash = if metadata.is_dir() { "/" } else { "" };
            let _ = writeln!(text, "{:>12}  {}{slash}", metadata.len(), path.display());
            if metadata.is_dir() {
                rest.extend(children(&path).into_iter().rev());
            }
        }
    }
    text
}

/// What is in a folder, in order.
pub(super) fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|it| it.path()).collect();
    paths.sort();
    paths
}

/// What a process may do and what it has used.
///
/// # Errors
/// It is gone, or in a PID namespace that is not ours.
pub(super) fn describe_process(pid: u32) -> Result<String, String> {
    let mut text = String::new();
    for name in ["cmdline", "status", "limits", "cgroup", "sched"] {
        let path = format!("/proc/{pid}/{name}");
        match fs::read_to_string(&path) {
            Ok(content) => {
                let content = content.replace('\0', " ");
                let _ = writeln!(text, "==> {path} <==\n{}\n", content.trim_end());
            }
            Err(error) if name == "cmdline" => return Err(format!("{path}: {error}")),
            Err(_) => {}
        }
    }
    Ok(text)
}
