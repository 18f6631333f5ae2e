//! The table of packets that the uplink program is tested with, through the userspace parser: both
//! must see the same packet, and call the same ones ours.

use std::collections::HashMap;
use std::net::IpAddr;

use weir_packet::{Fragment, IcmpKind, Packet, Parsed, parse, protocol};
use weir_xdp_redirect::{
    AddressClass, L4Port,
    fixtures::{self, Action, Fixture, ParseClass, Worker, world},
};

#[test]
fn the_parser_says_of_every_row_what_the_table_says() {
    check(|row| {
        let parsed = parse(&row.packet);
        let class = match parsed {
            Ok(Parsed::Ip(_)) => ParseClass::Parses,
            Ok(Parsed::Arp | Parsed::Vlan | Parsed::Other(_)) => ParseClass::NotIp,
            Err(_) => ParseClass::Malformed,
        };
        let agrees = class == row.class;
        agrees.then_some(()).ok_or_else(|| format!("{:?}, not {parsed:?}", row.class))
    });
}

#[test]
fn what_is_ours_by_the_parsed_key_is_what_the_program_redirects() {
    let addresses: HashMap<_, _> = world::addresses().into_iter().collect();
    check(|row| {
        let ours = match parse(&row.packet) {
            Ok(Parsed::Ip(packet)) => is_ours(&addresses, &row.packet, &packet),
            Ok(_) => false,
            // The program does not look for every fault: a malformed packet it may leave to the
            // kernel or give to a worker, and both drop it.
            Err(_) => return Ok(()),
        };
        let agrees = match row.worker {
            Worker::Running => ours == (row.action == Action::ToWorker),
            // Without a worker nothing is redirected, and only what is ours is dropped.
            Worker::Restarting | Worker::Hung | Worker::Gone => ours || row.action == Action::Pass,
        };
        agrees.then_some(()).ok_or_else(|| format!("{:?}, but ours: {ours}", row.action))
    });
}

/// Runs a check over the table and names all rows that fail it.
fn check(judge: impl Fn(&Fixture) -> Result<(), String>) {
    let rows = fixtures::all();
    let wrong: Vec<_> = rows
        .iter()
        .filter_map(|row| judge(row).err().map(|error| format!("{}: {error}", row.description)))
        .collect();
    println!("{} rows", rows.len());
    assert!(wrong.is_empty(), "{} rows fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// The uplink's rule, from what the parser found: services and pods wholly, of the node only
/// NodePorts, the SNAT range, fragments, and errors that may quote a flow of ours.
fn is_ours(addresses: &HashMap<IpAddr, AddressClass>, frame: &[u8], packet: &Packet) -> bool {
    let Packet { headers, key } = packet;
    let Some(class) = addresses.get(&key.dst.into()) else { return false };
    if class.class() != AddressClass::NODE {
        return !is_neighbour_discovery(frame, packet);
    }
    let has_l4_ports = matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    let is_echo_reply = headers.icmp == IcmpKind::EchoReply;
    let is_error = headers.icmp == IcmpKind::Error
        || (headers.icmp == IcmpKind::Redirect && headers.family == 4);
    headers.fragment != Fragment::None
        || is_error
        || world::NODE_L4_PORTS.contains(&L4Port::new(key.protocol, key.dport))
        || ((has_l4_ports || is_echo_reply) && world::SETTINGS.is_snat_port(key.dport))
}

/// RFC 4861: types 133 to 137, which carry no extension headers.
fn is_neighbour_discovery(frame: &[u8], packet: &Packet) -> bool {
    let headers = &packet.headers;
    headers.protocol == protocol::ICMPV6
        && headers.family == 6
        && !headers.has_extensions
        && matches!(frame[usize::from(headers.l4)], 133..=137)
}
