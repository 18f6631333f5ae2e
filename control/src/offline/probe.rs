//! Questions: who wants to talk to whom, on which port.

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;
use weir_tables::policy::{L4, L4Protocol};

use crate::model::Name;

/// A question that has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OfflineError {
    /// Neither a pod nor an address.
    #[error("{0:?} is no end of a connection: write a pod as namespace/name, or an address")]
    End(String),
    /// Several addresses.
    #[error("{0} is a range: give one address of it")]
    Range(String),
    /// Not in the manifests.
    #[error("there is no pod {0} in the manifests")]
    NoPod(Name),
    /// It is translated before any policy is asked.
    #[error("{address} is Service {service}: name a pod{}", list_backends(.backends))]
    Service {
        /// What was asked about.
        address: IpAddr,
        /// Whose it is.
        service: Name,
        /// Some of its backends.
        backends: Vec<IpAddr>,
    },
    /// ICMP of one family, addresses of the other.
    #[error("{address} never sees {l4}: {hint}")]
    Family {
        /// One end.
        address: IpAddr,
        /// What was asked about.
        l4: L4,
        /// What to write.
        hint: &'static str,
    },
    /// Two families.
    #[error("{0} and {1} are of different families: nothing passes between them")]
    TwoFamilies(IpAddr, IpAddr),
    /// Not a port.
    #[error("{0}")]
    Port(String),
}

fn list_backends(backends: &[IpAddr]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = backends.iter().take(SHOWN).map(ToString::to_string).collect();
    match (backends.len(), shown.join(", ")) {
        (0, _) => ", for policies are about these".into(),
        (1, shown) => format!(", or its backend {shown}"),
        (2..=SHOWN, shown) => format!(", or one of its backends {shown}"),
        (more, shown) => format!(", or one of its backends {shown} and {} more", more - SHOWN),
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By name.
    Pod(Name),
    /// An address that is a pod's means the pod.
    Address(IpAddr),
}

impl FromStr for End {
    type Err = OfflineError;

    fn from_str(text: &str) -> Result<Self, OfflineError> {
        Ok(match EndRef::parse(text)? {
            EndRef::Pod(namespace, name) => Self::Pod(Name::new(namespace, name)),
            EndRef::Address(address) => Self::Address(address),
        })
    }
}

/// An [`End`] in somebody else's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndRef<'a> {
    Pod(&'a str, &'a str),
    Address(IpAddr),
}

impl<'a> EndRef<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, OfflineError> {
        // No namespace begins with a digit or a colon that an address would not have, too.
        let may_be_address = text.contains([':', '.']);
        if may_be_address && let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        match text.split_once('/') {
            Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
                Err(OfflineError::Range(text.to_owned()))
            }
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self::Pod(namespace, name))
            }
            _ => Err(OfflineError::End(text.to_owned())),
        }
    }
}

impl<'a> From<&'a End> for EndRef<'a> {
    fn from(end: &'a End) -> Self {
        match end {
            End::Pod(name) => Self::Pod(&name.namespace, &name.name),
            End::Address(address) => Self::Address(address.to_canonical()),
        }
    }
}

/// A question: may a connection be opened?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Who opens it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// On which port.
    pub l4: L4,
}

/// `80/TCP`, `53/UDP`, `8/ICMP` or `128/ICMPv6` with the type in place of the port.
///
/// # Errors
/// For people: what it must be.
pub fn parse_l4(text: &str) -> Result<L4, OfflineError> {
    let example = "write the port as 80/TCP, or the ICMP type as 8/ICMP";
    let (port, protocol) = text
        .split_once('/')
        .ok_or_else(|| OfflineError::Port(format!("{text:?} has no protocol: {example}")))?;
    let is_number = !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit());
    if !is_number {
        return Err(OfflineError::Port(format!(
            "{port:?} is not a port number; a name means another port on each pod: {example}"
        )));
    }
    check_l4(port.parse().unwrap_or(u64::MAX), protocol)
}

/// A port or ICMP type, and a protocol in any case.
pub(super) fn check_l4(port: u64, protocol: &str) -> Result<L4, OfflineError> {
    const NAMES: [(&str, L4Protocol, u64, u16); 5] = [
        ("TCP", L4Protocol::Tcp, 1, u16::MAX),
        ("UDP", L4Protocol::Udp, 1, u16::MAX),
        ("SCTP", L4Protocol::Sctp, 1, u16::MAX),
        ("ICMP", L4Protocol::Icmp, 0, 255),
        ("ICMPv6", L4Protocol::Icmpv6, 0, 255),
    ];
    let found = NAMES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(protocol));
    let Some((name, protocol, min, max)) = found else {
        let reason = format!("{protocol:?} is not one of TCP, UDP, SCTP, ICMP and ICMPv6");
        return Err(OfflineError::Port(reason));
    };
    match u16::try_from(port) {
        Ok(port) if u64::from(port) >= *min && port <= *max => Ok(L4 { protocol: *protocol, port }),
        _ => {
            let what = if *min == 0 { "type" } else { "port" };
            Err(OfflineError::Port(format!("{name} {what} {port} is outside {min}..{max}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_pods_or_addresses() {
        let end = |text: &str| text.parse::<End>();
        assert_eq!(end("x/a.b"), Ok(End::Pod(Name::new("x", "a.b"))));
        assert_eq!(end("10.0.0.1"), Ok(End::Address([10, 0, 0, 1].into())));
        assert_eq!(end("::ffff:10.0.0.1"), Ok(End::Address([10, 0, 0, 1].into())));
        assert!(matches!(end("fd00::1"), Ok(End::Address(IpAddr::V6(_)))));
        assert_eq!(end("10.0.0.0/8"), Err(OfflineError::Range("10.0.0.0/8".into())));
        for text in ["", "web", "/web", "x/", "x/a/b", "10.0.0.300"] {
            assert_eq!(end(text), Err(OfflineError::End(text.into())));
        }
    }

    #[test]
    fn ports_are_numbers_of_a_protocol() {
        let l4 = |protocol, port| Ok(L4 { protocol, port });
        assert_eq!(parse_l4("80/TCP"), l4(L4Protocol::Tcp, 80));
        assert_eq!(parse_l4("65535/udp"), l4(L4Protocol::Udp, 65535));
        assert_eq!(parse_l4("0/ICMP"), l4(L4Protocol::Icmp, 0));
        assert_eq!(parse_l4("128/ICMPv6"), l4(L4Protocol::Icmpv6, 128));
        let wrong = [
            ("80", "has no protocol"),
            ("http/TCP", "a name means another port on each pod"),
            ("+80/TCP", "not a port number"),
            ("0/TCP", "TCP port 0 is outside 1..65535"),
            ("65536/SCTP", "SCTP port 65536 is outside 1..65535"),
            ("99999999999999999999999/SCTP", "is outside 1..65535"),
            ("256/ICMP", "ICMP type 256 is outside 0..255"),
            ("80/GRE", "is not one of TCP, UDP"),
        ];
        for (text, reason) in wrong {
            let error = parse_l4(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
