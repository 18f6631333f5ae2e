//! IP protocol numbers (IANA registry "Assigned Internet Protocol Numbers") and their names.
//!
//! A protocol is a plain `u8` everywhere: a dataplane forwards numbers that it has no name for.

use core::fmt;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

/// Whether the protocol's header starts with a source and a destination port.
#[inline]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// The usual name, for protocols that weir treats specially.
pub const fn name(protocol: u8) -> Option<&'static str> {
    Some(match protocol {
        ICMP => "ICMP",
        TCP => "TCP",
        UDP => "UDP",
        ICMPV6 => "ICMPv6",
        SCTP => "SCTP",
        _ => return None,
    })
}

/// Displays a protocol number by name, or as `IP-47` where it has none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub u8);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.0) {
            Some(name) => f.pad(name),
            None => write!(f, "IP-{}", self.0),
        }
    }
}
