//! Interfaces, addresses and routes where there is no `ip`, and NICs where there is no `ethtool`:
//! what the kernel shows as files.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::facts::children;

/// Attributes of an interface in `/sys/class/net` that are of use.
const ATTRIBUTES: [&str; 15] = [
    "address",
    "carrier",
    "dev_id",
    "dormant",
    "duplex",
    "flags",
    "gro_flush_timeout",
    "ifalias",
    "ifindex",
    "iflink",
    "mtu",
    "napi_defer_hard_irqs",
    "operstate",
    "speed",
    "type",
];

/// As `ip -d -s link` would.
pub(super) fn links() -> String {
    let mut text = String::new();
    for folder in children(Path::new("/sys/class/net")) {
        text.push_str(&describe(&folder));
    }
    text
}

/// Of one interface.
fn describe(folder: &Path) -> String {
    let mut text = format!("{}\n", folder.file_name().unwrap_or_default().display());
    let mut add = |name: &str, value: &str| {
        let _ = writeln!(text, "    {name} {}", value.trim());
    };
    for name in ATTRIBUTES {
        if let Ok(value) = fs::read_to_string(folder.join(name)) {
            add(name, &value);
        }
    }
    for name in ["device/driver", "master"] {
        if let Ok(target) = fs::read_link(folder.join(name)) {
            add(name, &target.display().to_string());
        }
    }
    let queues = children(&folder.join("queues"));
    let count = |prefix: &str| {
        let is_one = |it: &&std::path::PathBuf| {
            it.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        };
        queues.iter().filter(is_one).count()
    };
    add("queues", &format!("{} receive, {} send", count("rx-"), count("tx-")));
    for file in children(&folder.join("statistics")) {
        let value = fs::read_to_string(&file).unwrap_or_default();
        if value.trim() != "0" {
            let name = file.file_name().unwrap_or_default().display().to_string();
            add(&format!("statistics {name}"), &value);
        }
    }
    text
}

/// Files of the kernel under their names.
pub(super) fn files(names: &[&str]) -> String {
    let mut text = String::new();
    for name in names {
        let content = fs::read_to_string(name).unwrap_or_else(|error| format!("{error}\n"));
        let _ = writeln!(text, "==> {name} <==\n{content}");
    }
    text
}

pub(super) fn addresses() -> String {
    files(&["/proc/net/fib_trie", "/proc/net/if_inet6"])
}

pub(super) fn routes() -> String {
    files(&["/proc/net/route", "/proc/net/ipv6_route", "/proc/net/fib_trie"])
}

pub(super) fn neighbours() -> String {
    files(&["/proc/net/arp"])
}

/// Routing rules are shown by no file.
pub(super) fn rules() -> String {
    "the kernel shows routing rules by netlink only: install iproute2, and run `ip rule` and \
     `ip -6 rule`\n"
        .into()
}
