//! Random probes of a world.

use std::net::IpAddr;

use serde_json::Value;

use super::dice::Dice;
use crate::naive::{Probe, Protocol};

const WORLD: [&str; 8] = [
    "203.0.113.10",
    "203.0.113.200",
    "203.0.1.1",
    "198.51.100.7",
    "192.0.2.1",
    "2001:db8::1",
    "2001:db8:1::1",
    "2002::1",
];
const NODES: [&str; 6] =
    ["172.18.0.1", "172.18.0.2", "172.18.0.3", "fd00:18::1", "fd00:18::2", "fd00:18::3"];

/// Who an end is, and in which families it can be spoken to.
struct Choice {
    name: String,
    has: [bool; 2],
}

/// A probe that makes sense: one end at least is a pod, and both have addresses of one family.
pub fn draw(dice: &mut Dice, things: &[Value]) -> Probe {
    loop {
        let pods: Vec<&Value> = things.iter().filter(|it| it["kind"] == "Pod").collect();
        let pod = draw_pod(dice, &pods);
        let other = match dice.below(6) {
            0 => draw_address(dice, &WORLD),
            1 => draw_address(dice, &NODES),
            _ => draw_pod(dice, &pods),
        };
        let (port, protocol) = draw_port(dice);
        let is_possible = (0..2).any(|family| {
            let is_protocol = match protocol {
                Protocol::Icmp => family == 0,
                Protocol::Icmpv6 => family == 1,
                _ => true,
            };
            is_protocol && pod.has[family] && other.has[family]
        });
        // Without an address in it, a probe is IPv4.
        let has_address = [&pod, &other].iter().any(|it| !it.name.contains('/'));
        let is_clear = has_address || protocol == Protocol::Icmpv6 || (pod.has[0] && other.has[0]);
        if is_possible && is_clear {
            let (from, to) =
                if dice.one_in(2) { (pod.name, other.name) } else { (other.name, pod.name) };
            return Probe { from, to, port, protocol };
        }
    }
}

fn draw_address(dice: &mut Dice, among: &[&str]) -> Choice {
    let name = dice.choose(among).to_string();
    let is_ipv6 = name.contains(':');
    Choice { name, has: [!is_ipv6, is_ipv6] }
}

/// By its name, and now and then by one of its addresses.
fn draw_pod(dice: &mut Dice, pods: &[&Value]) -> Choice {
    let pod = dice.choose(pods);
    let addresses = pod["status"]["podIPs"].as_array().unwrap();
    let addresses = addresses.iter().map(|it| it["ip"].as_str().unwrap());
    let addresses: Vec<IpAddr> = addresses.map(|it| it.parse().unwrap()).collect();
    if dice.one_in(4) {
        let address = *dice.choose(&addresses);
        return Choice { name: address.to_string(), has: [address.is_ipv4(), address.is_ipv6()] };
    }
    let text = |field: &str| pod["metadata"][field].as_str().unwrap();
    let has = |is_ipv6| addresses.iter().any(|it| it.is_ipv6() == is_ipv6);
    let name = format!("{}/{}", text("namespace"), text("name"));
    Choice { name, has: [has(false), has(true)] }
}

fn draw_port(dice: &mut Dice) -> (u16, Protocol) {
    match dice.below(12) {
        0 => (*dice.choose(&[8, 0, 13]), Protocol::Icmp),
        1 => (*dice.choose(&[128, 129]), Protocol::Icmpv6),
        2 | 3 => (*dice.choose(&[80, 81, 53]), Protocol::Sctp),
        4 | 5 => (*dice.choose(&[53, 5353, 80]), Protocol::Udp),
        _ => (*dice.choose(&[53, 80, 81, 1000, 8080]), Protocol::Tcp),
    }
}
