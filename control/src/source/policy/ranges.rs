//! Ranges of addresses in policies: exactly as meant, with no bit behind the prefix length.

use std::net::IpAddr;

use super::super::fields::Findings;
use crate::model::Cidr;

/// Reads a range whose host bits are zero.
pub(super) fn read_range(path: &str, text: &str, findings: &mut Findings) -> Option<Cidr> {
    match parse_range(text) {
        Ok(range) => Some(range),
        Err(reason) => {
            findings.refuse(path, reason);
            None
        }
    }
}

fn parse_range(text: &str) -> Result<Cidr, String> {
    let range: Cidr = text.parse()?;
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    if length != range.length().to_string() {
        return Err(format!("{text:?} is not a range: write {range}"));
    }
    if address.parse::<IpAddr>() != Ok(range.address()) {
        return Err(format!("{text:?} has bits set behind its prefix length: write {range}"));
    }
    Ok(range)
}

/// Reads what is left out of a range. Kubernetes wants it to be smaller than the range,
/// `cilium.io` to be in it.
pub(super) fn read_exceptions(
    path: &str,
    texts: &[String],
    range: Option<Cidr>,
    is_strict: bool,
    findings: &mut Findings,
) -> Vec<Cidr> {
    let mut exceptions = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(exception) = read_range(&path, text, findings) else { continue };
        match range {
            Some(range) if !range.covers(exception) => {
                findings.refuse(path, format_args!("{exception} is not within {range}"));
            }
            Some(range) if is_strict && range == exception => {
                let reason = format_args!("{exception} leaves nothing of {range}");
                findings.refuse(path, reason);
            }
            _ => exceptions.push(exception),
        }
    }
    exceptions
}
