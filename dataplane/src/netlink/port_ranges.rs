//! Keeps the host's own sockets off the L4 ports that weir uses on the node's addresses: the range
//! of source translation, and the range of NodePorts.
//!
//! Ports that the kernel chooses end below the first (`net.ipv4.ip_local_port_range`, which IPv6
//! obeys too) and leave out the second (`net.ipv4.ip_local_reserved_ports`). What the sysctls were
//! before is kept in a file, so that it can be restored. A process may still bind any port: such
//! sockets are found and named.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

pub use super::saved_sysctl::restore;
use super::{SysctlChange, saved_sysctl::adjust};

const LOCAL_RANGE: &str = "net/ipv4/ip_local_port_range";
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// Sockets named in a warning.
const NAMED_MAX: usize = 8;
/// `TCP_TIME_WAIT` of `include/net/tcp_states.h`: nobody's any more.
const TIME_WAIT: &str = "06";
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// L4 ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// First.
    pub min: u16,
    /// Last.
    pub max: u16,
}

impl PortRange {
    /// Whether a port is in the range.
    pub fn contains(&self, l4_port: u16) -> bool {
        (self.min..=self.max).contains(&l4_port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            return write!(f, "{}", self.min);
        }
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// Sets both sysctls and returns what changed, and what could not be done: nothing here is worth
/// ending for. `saved` is the file that [`restore`] reads.
pub fn keep_clear(
    snat: PortRange,
    node_ports: PortRange,
    saved: &Path,
) -> (Vec<SysctlChange>, Vec<String>) {
    let (mut changes, mut warnings) = (Vec::new(), Vec::new());
    let lower = |old: &str| lower_local_range(old, snat);
    let reserve = |old: &str| Ok(reserve(old, node_ports));
    for result in [adjust(LOCAL_RANGE, saved, lower), adjust(RESERVED, saved, reserve)] {
        match result {
            Ok(change) => changes.extend(change),
            Err(warning) => warnings.push(format!(
                "{warning}: sockets of the host may be given L4 ports that weir uses; packets to \
                 such a socket pass through weir, and are lost where a translated flow has the port"
            )),
        }
    }
    (changes, warnings)
}

/// Says which sockets of the host hold ports of the range; `None` if none does.
pub fn warn_of_held_ports(snat: PortRange) -> Option<String> {
    let held = held_ports(snat);
    let named: Vec<String> = held
        .iter()
        .take(NAMED_MAX)
        .map(|(protocol, port)| {
            format!("{} {port}", if *protocol == PROTOCOL_TCP { "tcp" } else { "udp" })
        })
        .collect();
    let more = if held.len() > NAMED_MAX { ", ..." } else { "" };
    (!held.is_empty()).then(|| {
        format!(
            "sockets of the host hold {} ports of weir's range for source translation, {snat} \
             ({}{more}): their packets pass through weir, and a translated flow may be given the \
             same port; move those sockets, or the range (--snat-ports of the agent)",
            held.len(),
            named.join(", "),
        )
    })
}

/// Ports of the range that TCP and UDP sockets of this namespace hold on other addresses than
/// loopback: (protocol, port).
pub fn held_ports(range: PortRange) -> BTreeSet<(u8, u16)> {
    let mut held = BTreeSet::new();
    for (file, protocol) in [
        ("tcp", PROTOCOL_TCP),
        ("tcp6", PROTOCOL_TCP),
        ("udp", PROTOCOL_UDP),
        ("udp6", PROTOCOL_UDP),
    ] {
        // Without IPv6 two of them are missing.
        let Ok(text) = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) else {
            continue;
        };
        let sockets = text.lines().skip(1).filter_map(local_address);
        let concerned = sockets.filter(|(ip, port)| !ip.is_loopback() && range.contains(*port));
        held.extend(concerned.map(|(_, port)| (protocol, port)));
    }
    held
}

/// The local address of a line of `/proc/net/tcp` or its kin
/// (`Documentation/networking/proc_net_tcp.rst`): `0: 0100007F:1F90 00000000:0000 0A ...`.
fn local_address(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Groups of four bytes, each printed as a number of this machine.
    let group = |at: usize| {
        let number = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(number.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => Ipv4Addr::from(group(0)?).into(),
        32 => {
            let groups = [group(0)?, group(1)?, group(2)?, group(3)?];
            Ipv6Addr::from(<[u8; 16]>::try_from(groups.as_flattened()).ok()?).to_canonical()
        }
        _ => return None,
    };
    (state != TIME_WAIT).then_some((ip, port))
}

/// The range of ports that the kernel chooses, ending below `snat`; only ever shortened.
fn lower_local_range(old: &str, snat: PortRange) -> Result<String, String> {
    let parsed: Vec<u16> = old.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [min, max] = parsed[..] else {
        return Err(format!("sysctl {LOCAL_RANGE} has the value {old:?}"));
    };
    if max < snat.min || min > snat.max {
        return Ok(old.into());
    }
    if min >= snat.min {
        return Err(format!(
            "sysctl {LOCAL_RANGE} is {min}-{max}, which has no port below weir's range for source \
             translation, {snat}; move one of the two"
        ));
    }
    Ok(format!("{min}\t{}", snat.min - 1))
}

/// A list of ports and ranges with one more range, in the kernel's spelling.
fn reserve(old: &str, range: PortRange) -> String {
    let parse = |item: &str| {
        let (min, max) = item.split_once('-').unwrap_or((item, item));
        Some(PortRange { min: min.trim().parse().ok()?, max: max.trim().parse().ok()? })
    };
    let mut ranges: Vec<PortRange> = old.split(',').filter_map(parse).collect();
    ranges.push(range);
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.min <= last.max.saturating_add(1) => {
                last.max = last.max.max(range.max);
            }
            _ => merged.push(range),
        }
    }
    merged.iter().map(PortRange::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAT: PortRange = PortRange { min: 49_152, max: 65_535 };
    const NODE_PORTS: PortRange = PortRange { min: 30_000, max: 32_767 };

    #[test]
    fn the_kernels_range_is_only_shortened_and_never_emptied() {
        assert_eq!(lower_local_range("32768\t60999", SNAT).as_deref(), Ok("32768\t49151"));
        assert_eq!(lower_local_range("32768\t40000", SNAT).as_deref(), Ok("32768\t40000"));
        let error = lower_local_range("50000\t60999", SNAT).unwrap_err();
        assert!(error.contains("50000-60999") && error.contains("49152-65535"), "{error}");
        let low = PortRange { min: 20_000, max: 30_000 };
        assert_eq!(lower_local_range("32768\t60999", low).as_deref(), Ok("32768\t60999"));
    }

    #[test]
    fn reserved_ports_are_merged_as_the_kernel_spells_them() {
        assert_eq!(reserve("", NODE_PORTS), "30000-32767");
        assert_eq!(reserve("8080,9148", NODE_PORTS), "8080,9148,30000-32767");
        assert_eq!(reserve("29999,31000-33000,40000", NODE_PORTS), "29999-33000,40000");
        assert_eq!(reserve("30000-32767", NODE_PORTS), "30000-32767");
    }

    #[test]
    fn sockets_are_read_from_the_kernels_tables() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let expected = Some((IpAddr::from([127, 0, 0, 1]), 8080));
        assert_eq!(
            local_address(line),
            cfg!(target_endian = "little").then_some(expected).flatten()
        );
        let line = "  11: 00000000000000000000000001000000:C350 \
                    00000000000000000000000000000000:0000 0A 0";
        assert_eq!(local_address(line), Some((Ipv6Addr::LOCALHOST.into(), 50_000)));
        let closed = "   1: 0A0200C0:C350 010200C0:0050 06 00000000:00000000";
        assert_eq!(local_address(closed), None, "TIME_WAIT is nobody's");
        assert_eq!(local_address("garbage"), None);
    }
}
