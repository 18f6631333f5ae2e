//! `weir policy diff`: which connections between workloads a change opens or closes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use weir_tables::policy::{L4Protocol, PortRange};

use super::Output;
use super::policy_check::{ReadingArgs, print_text, read_cluster, to_json};
use crate::offline::{Change, Comparison, compare};

/// There are differences.
const DIFFERENT: u8 = 1;
/// The two could not be compared.
const ERROR: u8 = 2;
/// As many names are printed.
const NAMES_MAX: usize = 5;

/// `weir policy diff`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit status: 0 no difference, 1 there are differences, 2 error.")]
pub struct DiffArgs {
    /// Files or folders of manifests: the old version, then the new one.
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Manifests that belong to both versions, as pods and namespaces may. Repeatable.
    #[arg(long, value_name = "PATH")]
    pub with: Vec<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[arg(from_global)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct ComparisonJson<'a> {
    changes: Vec<ChangeJson<'a>>,
    /// Not compared.
    pods_only_in_old: &'a [String],
    pods_only_in_new: &'a [String],
}

#[derive(Debug, Serialize)]
struct ChangeJson<'a> {
    effect: &'static str,
    from: &'a [String],
    to: &'a [String],
    ports: Vec<PortsJson>,
    by: &'a [String],
    was: &'a [String],
    pairs: u64,
}

/// Both ends included.
#[derive(Debug, Serialize)]
struct PortsJson {
    protocol: &'static str,
    first: u16,
    last: u16,
}

impl DiffArgs {
    /// Compares and prints; whether there are differences is its exit status.
    ///
    /// # Errors
    /// None: an error is printed, and is a status of its own.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Ok(ExitCode::from(self.compare().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ERROR
        })))
    }

    fn compare(&self) -> anyhow::Result<u8> {
        let [old, new] = self.files.as_slice() else {
            anyhow::bail!("give two versions: -f OLD -f NEW, and --with what belongs to both");
        };
        let read = |path: &PathBuf, which| {
            let paths: Vec<PathBuf> = self.with.iter().chain([path]).cloned().collect();
            read_cluster(&paths, &self.reading, which)
        };
        let (old, new) = (read(old, "old version: ")?, read(new, "new version: ")?);
        let (Some(old), Some(new)) = (old, new) else { return Ok(ERROR) };
        let comparison = compare(&old, &new);
        if self.output == Output::Json {
            print_text(&to_json(&ComparisonJson::from(&comparison))?)?;
        } else {
            print_text(&format_comparison(&comparison))?;
        }
        Ok(if comparison.changes.is_empty() { 0 } else { DIFFERENT })
    }
}

impl<'a> From<&'a Comparison> for ComparisonJson<'a> {
    fn from(comparison: &'a Comparison) -> Self {
        let change = |it: &'a Change| ChangeJson {
            effect: it.effect.as_str(),
            from: &it.from.members,
            to: &it.to.members,
            ports: it.ports.iter().map(PortsJson::from).collect(),
            by: &it.by,
            was: &it.was,
            pairs: it.pairs,
        };
        Self {
            changes: comparison.changes.iter().map(change).collect(),
            pods_only_in_old: &comparison.only_old,
            pods_only_in_new: &comparison.only_new,
        }
    }
}

impl From<&PortRange> for PortsJson {
    fn from(ports: &PortRange) -> Self {
        let PortRange { protocol, first, last } = *ports;
        Self { protocol: name_protocol(protocol), first, last }
    }
}

fn name_protocol(protocol: L4Protocol) -> &'static str {
    match protocol {
        L4Protocol::Tcp => "TCP",
        L4Protocol::Udp => "UDP",
        L4Protocol::Sctp => "SCTP",
        L4Protocol::Icmp => "ICMP",
        L4Protocol::Icmpv6 => "ICMPv6",
        L4Protocol::Other => "other",
    }
}

fn format_comparison(comparison: &Comparison) -> String {
    let mut text = String::new();
    for change in &comparison.changes {
        let effect = change.effect.as_str();
        let ports = format_ports(&change.ports);
        text += &format!("{effect:7} {} -> {}   {ports}", change.from.text, change.to.text);
        text += &match (change.by.join(" and "), change.was.join(" and ")) {
            (by, _) if !by.is_empty() => format!("   by {by}\n"),
            (_, was) if !was.is_empty() => format!("   no more: {was}\n"),
            _ => "\n".into(),
        };
    }
    for (pods, which) in [(&comparison.only_old, "old"), (&comparison.only_new, "new")] {
        if pods.is_empty() {
            continue;
        }
        let more = pods.len().saturating_sub(NAMES_MAX);
        let names = pods[..pods.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text += &format!("not compared, only in the {which} version: {names}{more}\n");
    }
    if comparison.changes.is_empty() {
        text += "no difference\n";
    }
    text
}

/// `80/TCP, 8000-8080/TCP, UDP`, or what is left out, if that is shorter.
fn format_ports(ports: &[PortRange]) -> String {
    let others = invert(ports);
    match others.as_slice() {
        [] => "all ports".into(),
        others if others.len() < ports.len() => format!("all ports but {}", list_ports(others)),
        _ => list_ports(ports),
    }
}

/// All other ports, of the ICMP version that they are about.
fn invert(ports: &[PortRange]) -> Vec<PortRange> {
    let mut others = Vec::new();
    let has = |protocol| ports.iter().any(|it| it.protocol == protocol);
    let twin = |protocol| match protocol {
        L4Protocol::Icmp => Some(L4Protocol::Icmpv6),
        L4Protocol::Icmpv6 => Some(L4Protocol::Icmp),
        _ => None,
    };
    for protocol in L4Protocol::ALL {
        if !has(protocol) && twin(protocol).is_some_and(has) {
            continue;
        }
        let (first, end) = full_range(protocol);
        let mut next = u32::from(first);
        for range in ports.iter().filter(|it| it.protocol == protocol) {
            if let (Ok(first), Some(last)) = (u16::try_from(next), range.first.checked_sub(1))
                && first <= last
            {
                others.push(PortRange { protocol, first, last });
            }
            next = next.max(u32::from(range.last) + 1);
        }
        if let Ok(first) = u16::try_from(next)
            && first <= end
        {
            others.push(PortRange { protocol, first, last: end });
        }
    }
    others
}

fn list_ports(ports: &[PortRange]) -> String {
    let texts = ports.iter().map(|it| {
        let (min, max) = full_range(it.protocol);
        let (first, last) = (it.first.max(min), it.last);
        let is_full = first == min && last >= max;
        let name = name_protocol(it.protocol);
        match it.protocol {
            L4Protocol::Other if is_full => "other protocols".into(),
            L4Protocol::Other if first == last => format!("protocol {first}"),
            L4Protocol::Other => format!("protocols {first}-{last}"),
            _ if is_full => name.into(),
            _ if first == last => format!("{first}/{name}"),
            _ => format!("{first}-{last}/{name}"),
        }
    });
    let texts: Vec<String> = texts.collect();
    texts.join(", ")
}

/// Ports that packets have.
fn full_range(protocol: L4Protocol) -> (u16, u16) {
    match protocol {
        L4Protocol::Tcp | L4Protocol::Udp | L4Protocol::Sctp => (1, u16::MAX),
        L4Protocol::Icmp | L4Protocol::Icmpv6 | L4Protocol::Other => (0, 255),
    }
}
