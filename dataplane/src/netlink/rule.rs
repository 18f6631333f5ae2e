//! Routing rules: the kernel's order of routing tables.
//!
//! weir's own rules bear the kernel's protocol mark: systemd-networkd deletes those of others when
//! it starts (networkd.conf(5), `ManageForeignRoutingPolicyRules`), and a machine must not be
//! without a rule for the `local` table. They are recognised by their table.

use std::collections::BTreeSet;
use std::fmt;

use futures::TryStreamExt;
use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};
use rtnetlink::{Handle, IpVersion};
use rustix::io::Errno;

use super::error::{Error, errno};

/// The table of the node's own addresses (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;
/// Where the rule for that table goes while other rules must be before it; the kernel makes it
/// at 0.
const LOCAL_PRIORITY: u32 = 100;

/// L4 ports of a protocol, to which packets of the host's own sockets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRule {
    /// IPv4, or else IPv6.
    pub is_ipv4: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// First L4 port.
    pub min: u16,
    /// Last L4 port.
    pub max: u16,
}

impl fmt::Display for PortRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.is_ipv4 { "IPv4" } else { "IPv6" };
        write!(f, "{family} rule for protocol {} ports {}-{}", self.protocol, self.min, self.max)
    }
}

/// A rule of a form that weir makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    is_ipv4: bool,
    priority: u32,
    table: u32,
    /// Locally made packets to these (protocol, first, last port); `None`: all packets.
    ports: Option<(u8, u16, u16)>,
}

impl Rule {
    fn local(is_ipv4: bool, priority: u32) -> Rule {
        Rule { is_ipv4, priority, table: LOCAL_TABLE, ports: None }
    }

    /// `None` for a rule of another form.
    fn from_message(message: &RuleMessage) -> Option<Rule> {
        let header = &message.header;
        if header.action != RuleAction::ToTable
            || header.tos != 0
            || header.src_len != 0
            || header.dst_len != 0
            || header.flags.contains(RuleFlags::Invert)
        {
            return None;
        }
        let is_ipv4 = header.family == AddressFamily::Inet;
        let (mut priority, mut table) = (0, u32::from(header.table));
        let (mut from_host, mut protocol, mut range) = (false, None, None);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::Priority(number) => priority = *number,
                RuleAttribute::Iifname(name) if name == "lo" => from_host = true,
                RuleAttribute::IpProtocol(number) => protocol = Some(u8::from(*number)),
                RuleAttribute::DestinationPortRange(ports) => range = Some(*ports),
                RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
                // Of one port: that all of its bits count (FRA_SPORT_MASK, FRA_DPORT_MASK).
                RuleAttribute::Other(other) if matches!(other.kind(), 28 | 29) => {}
                _ => return None,
            }
        }
        let ports = match (from_host, protocol, range) {
            (false, None, None) => None,
            (true, Some(protocol), Some(ports)) => Some((protocol, ports.start, ports.end)),
            _ => return None,
        };
        Some(Rule { is_ipv4, priority, table, ports })
    }

    fn to_message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family =
            if self.is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.action = RuleAction::ToTable;
        // Always named: without it the kernel takes any priority.
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Kernel));
        match u8::try_from(self.table) {
            Ok(table) => message.header.table = table,
            Err(_) => message.attributes.push(RuleAttribute::Table(self.table)),
        }
        if let Some((protocol, start, end)) = self.ports {
            message.attributes.extend([
                RuleAttribute::Iifname("lo".into()),
                RuleAttribute::IpProtocol(protocol.into()),
                RuleAttribute::DestinationPortRange(RulePortRange { start, end }),
            ]);
        }
        message
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.is_ipv4 { "IPv4" } else { "IPv6" };
        write!(f, "{family} rule {} for table {}", self.priority, self.table)?;
        match self.ports {
            Some((protocol, min, max)) => write!(f, " (protocol {protocol} ports {min}-{max})"),
            None => Ok(()),
        }
    }
}

/// Makes exactly these rules lead to `tables`, at `priority`, ahead of the `local` table; without
/// any the `local` table is first again. The machine has a rule for `local` at every moment.
pub(super) async fn set_ports(
    handle: &Handle,
    priority: u32,
    is_ipv4: bool,
    tables: &[(u32, &BTreeSet<PortRule>)],
) -> Result<(), Error> {
    let present = list(handle, is_ipv4).await?;
    let mut wanted = Vec::new();
    for (table, rules) in tables {
        let of_family = rules.iter().filter(|rule| rule.is_ipv4 == is_ipv4);
        wanted.extend(of_family.map(|rule| {
            let ports = Some((rule.protocol, rule.min, rule.max));
            Rule { is_ipv4, priority, table: *table, ports }
        }));
    }
    if !wanted.is_empty() {
        move_local(handle, &present, is_ipv4, LOCAL_PRIORITY, 0).await?;
    }
    for rule in wanted.iter().filter(|rule| !present.contains(rule)) {
        add(handle, *rule).await?;
    }
    let own = present.iter().filter(|rule| tables.iter().any(|(table, _)| *table == rule.table));
    for rule in own.filter(|rule| !wanted.contains(rule)) {
        delete(handle, *rule).await?;
    }
    if wanted.is_empty() {
        move_local(handle, &present, is_ipv4, 0, LOCAL_PRIORITY).await?;
    }
    Ok(())
}

/// Moves the rule for the `local` table: the new one first. One that is elsewhere, at another
/// program's wish, stays there.
async fn move_local(
    handle: &Handle,
    present: &[Rule],
    is_ipv4: bool,
    to: u32,
    from: u32,
) -> Result<(), Error> {
    let is_at = |priority| present.contains(&Rule::local(is_ipv4, priority));
    let is_anywhere = present.iter().any(|rule| rule.table == LOCAL_TABLE && rule.ports.is_none());
    if !is_at(to) && (is_at(from) || !is_anywhere) {
        add(handle, Rule::local(is_ipv4, to)).await?;
    }
    if is_at(from) {
        delete(handle, Rule::local(is_ipv4, from)).await?;
    }
    Ok(())
}

/// The rules of a family that have a form of weir's; none on a kernel without the family.
async fn list(handle: &Handle, is_ipv4: bool) -> Result<Vec<Rule>, Error> {
    let version = if is_ipv4 { IpVersion::V4 } else { IpVersion::V6 };
    let messages: Vec<RuleMessage> = handle
        .rule()
        .get(version)
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list", "routing rules"))?;
    // A kernel without the family answers with the rules of all others.
    let family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let of_family = messages.iter().filter(|message| message.header.family == family);
    Ok(of_family.filter_map(Rule::from_message).collect())
}

async fn add(handle: &Handle, rule: Rule) -> Result<(), Error> {
    let mut request = handle.rule().add();
    *request.message_mut() = rule.to_message();
    match request.execute().await {
        Err(error) if errno(&error) == Errno::EXIST.raw_os_error() => Ok(()),
        done => done.map_err(Error::refused("add", rule.to_string())),
    }
}

async fn delete(handle: &Handle, rule: Rule) -> Result<(), Error> {
    let mut message = rule.to_message();
    // The mark of the one to delete may be another's.
    message.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
    match handle.rule().del(message).execute().await {
        Err(error) if errno(&error) == Errno::NOENT.raw_os_error() => Ok(()),
        done => done.map_err(Error::refused("delete", rule.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_the_message_and_others_are_left_alone() {
        let ports = Rule { is_ipv4: true, priority: 5, table: 700, ports: Some((6, 1, 9)) };
        for rule in [ports, Rule::local(false, 0), Rule::local(true, LOCAL_PRIORITY)] {
            assert_eq!(Rule::from_message(&rule.to_message()), Some(rule));
        }
        let mut marked = Rule::local(true, 0).to_message();
        marked.attributes.push(RuleAttribute::FwMark(7));
        assert_eq!(Rule::from_message(&marked), None, "only packets with a mark");
        let mut inverted = Rule::local(true, 0).to_message();
        inverted.header.flags = RuleFlags::Invert;
        assert_eq!(Rule::from_message(&inverted), None);
    }
}
