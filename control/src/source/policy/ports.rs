//! Ports in policies.

use super::super::fields::{Findings, read_port};
use crate::model::PortChoice;

/// Checks the name of a container's port (`IsValidPortName`: an IANA service name in lower case).
pub(super) fn check_port_name(name: &str) -> Result<(), String> {
    let is_inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    let is_fine = (1..=15).contains(&name.len())
        && name.bytes().all(is_inner)
        && name.bytes().any(|it| it.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_fine {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not the name of a port: it has at most 15 lower-case letters, digits and \
         single '-', at least one letter among them"
    ))
}

/// Reads a port or, with an end, a range of ports.
pub(super) fn read_port_range(
    path: &str,
    first: i32,
    end_path: &str,
    end: Option<i32>,
    findings: &mut Findings,
) -> Option<PortChoice> {
    let first = read_port(path, first, findings);
    let Some(end) = end else { return first.map(|it| PortChoice::Range(it, it)) };
    let last = read_port(end_path, end, findings);
    let (first, last) = (first?, last?);
    if last < first {
        findings.refuse(end_path, format_args!("{last} is under the first port, {first}"));
        return None;
    }
    Some(PortChoice::Range(first, last))
}
