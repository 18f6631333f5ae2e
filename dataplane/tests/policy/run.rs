//! One node of the truth table's world, and what becomes of packets there.

use std::net::IpAddr;

use weir_control::offline::{Answer, Cluster as Judge, End, Half, Probe, Verdict, parse_l4};
use weir_dataplane::verdicts::VerdictKind;
use weir_packet::{Addr, Parsed, parse};
use weir_tables::{Egress, PortId, Tables, policy::Direction};

use crate::cases::{Case, Ends};
use crate::common::world::{Layout, World, difference};
use crate::scripts::cluster::Cluster;
use crate::scripts::names::{GATEWAY_MAC, HOST_MAC, Names, ROUTER_MAC, UPLINK_MAC};
use crate::scripts::{packet, placed_change};

/// What has been tried.
#[derive(Debug, Default)]
pub struct Tally {
    pub allowed: usize,
    pub denied: usize,
    pub redirected: usize,
    /// Rules that were compared.
    pub rules: usize,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.redirected += other.redirected;
        self.rules += other.rules;
    }

    /// Whether so much was tried that a mistake would have shown.
    pub fn is_telling(&self) -> bool {
        self.allowed > 1000 && self.denied > 1000 && self.redirected > 10 && self.rules > 1000
    }
}

/// A node in memory.
pub struct Node {
    world: World,
    cluster: Cluster,
    names: Names,
    pods: std::collections::BTreeMap<PortId, (String, weir_packet::Mac)>,
    place: String,
    next_sport: u16,
    pub tally: Tally,
}

impl Node {
    pub fn new(name: &str, layout: Layout, world: &str) -> Node {
        let place = format!("{name}, {} workers, seed {}", layout.workers, layout.seed);
        let mut cluster = Cluster::of(name, "", Vec::new()).unwrap();
        cluster.put_file("world.yaml", Some(world));
        let mut node = Node {
            world: World::build(layout.clone(), Tables::new(layout.workers), |device| device),
            cluster,
            names: Names::default(),
            pods: Default::default(),
            place,
            next_sport: 1024,
            tally: Tally::default(),
        };
        node.settle();
        node
    }

    fn settle(&mut self) {
        let change = self.cluster.settle().unwrap();
        placed_change(&mut self.world, &change);
        (self.names, self.pods) = (change.names, change.pods);
    }

    /// Puts the policies of a case in the place of those before; what went wrong, as text.
    pub fn run(&mut self, case: &Case, judge: &Judge) -> Vec<String> {
        self.cluster.put_file("case.yaml", Some(&case.manifests));
        self.settle();
        let mut failures = Vec::new();
        for probe in case.lines.iter().flat_map(|line| &line.probes) {
            for family in [4, 6] {
                if let Err(error) = self.probe(probe, family, judge) {
                    let Ends { from, to, port, protocol } = probe;
                    failures.push(format!(
                        "{}: {from} -> {to} {port}/{protocol} in IPv{family} at {}: {error}",
                        case.name, self.place
                    ));
                }
            }
        }
        failures
    }

    fn probe(&mut self, ends: &Ends, family: u8, judge: &Judge) -> Result<(), String> {
        let (Some(src), Some(dst)) = (self.addr(&ends.from, family), self.addr(&ends.to, family))
        else {
            return Ok(());
        };
        let is_of_family = match ends.protocol.as_str() {
            "ICMP" => family == 4,
            "ICMPv6" => family == 6,
            _ => true,
        };
        let (sender, receiver) = (self.is_here(&src), self.is_here(&dst));
        if !is_of_family || src == dst || !(sender || receiver) {
            return Ok(());
        }
        let probe = Probe {
            from: End::Address(src.into()),
            to: End::Address(dst.into()),
            l4: parse_l4(&format!("{}/{}", ends.port, ends.protocol)).unwrap(),
        };
        let Answer { egress, ingress } = judge.judge(&probe).map_err(|error| error.to_string())?;
        let said = [
            (Direction::Egress, egress.filter(|_| sender)),
            (Direction::Ingress, ingress.filter(|_| receiver)),
        ];
        let found = self.send(ends, &src, &dst, family)?;
        self.compare(&said, &found)
    }

    fn addr(&self, end: &str, family: u8) -> Option<Addr> {
        match end.parse::<IpAddr>() {
            Ok(address) => Some(Addr::from(address)).filter(|it| it.family() == family),
            Err(_) => self.names.addr(end, family).ok(),
        }
    }

    fn is_here(&self, addr: &Addr) -> bool {
        matches!(self.world.snapshot().resolve(addr), Egress::Pod { .. })
    }

    /// Lets the first packet of a connection in.
    fn send(&mut self, ends: &Ends, src: &Addr, dst: &Addr, family: u8) -> Result<Found, String> {
        let sport = self.next_sport;
        self.next_sport = self.next_sport.checked_add(1).unwrap_or(1024);
        let (name, dport) = match ends.protocol.as_str() {
            "TCP" => ("tcp/S", ends.port),
            "UDP" => ("udp", ends.port),
            "SCTP" => ("sctp", ends.port),
            _ => ("ping", 0),
        };
        let text = match name {
            "ping" => format!("ping {} > {} id {sport}", end(src, None), end(dst, None)),
            _ => format!("{name} {} > {}", end(src, Some(sport)), end(dst, Some(dport))),
        };
        let (port, macs) = match self.world.snapshot().resolve(src) {
            Egress::Pod { port, .. } => (port, (self.pods[&port].1, GATEWAY_MAC)),
            Egress::Host { .. } => (PortId::HOST, (HOST_MAC, GATEWAY_MAC)),
            _ => (PortId::UPLINK, (ROUTER_MAC, UPLINK_MAC)),
        };
        let mut frame = packet::build(&text, &self.names, family, macs)?;
        if name == "ping" {
            set_icmp_type(&mut frame, ends.port as u8);
        }
        let before = self.world.counters();
        self.world.inject(port, &frame);
        self.world.settle();
        let sent = self.world.take_sent().len();
        let counters = difference(&before, &self.world.counters());
        let events = self.world.observed.iter().flat_map(|it| it.verdicts.drain_recent());
        let snapshot = self.world.snapshot();
        let verdicts = events.map(|event| {
            let rule = snapshot.policy().rule(event.rule);
            let origin = rule.map(|it| it.origin.clone()).unwrap_or_default();
            (event.direction, event.kind, origin)
        });
        Ok(Found { sent, verdicts: verdicts.collect(), counters })
    }

    fn compare(
        &mut self,
        said: &[(Direction, Option<Half>); 2],
        found: &Found,
    ) -> Result<(), String> {
        let verdict = |half: &Option<Half>| half.as_ref().map_or(Verdict::Allowed, |it| it.verdict);
        let worst = said.iter().map(|row| verdict(&row.1)).max().unwrap();
        let is_sent = found.sent == 1;
        if is_sent != (worst == Verdict::Allowed) {
            return Err(format!("the check says {said:?}, but {found:?}"));
        }
        match worst {
            Verdict::Allowed => self.tally.allowed += 1,
            Verdict::Denied => self.tally.denied += 1,
            Verdict::Redirect => self.tally.redirected += 1,
        }
        for (direction, half) in said {
            let Some(rule) = half.as_ref().and_then(|half| half.rules.first()) else { continue };
            let events = found.verdicts.iter().filter(|row| row.0 == *direction);
            for (_, kind, origin) in events {
                let is_kind = match kind {
                    VerdictKind::Allowed => Verdict::Allowed,
                    VerdictKind::Denied => Verdict::Denied,
                    VerdictKind::Redirected => Verdict::Redirect,
                    VerdictKind::Audited => return Err("nobody is audited".into()),
                };
                if is_kind != verdict(half) || origin != rule {
                    return Err(format!("the check says {half:?}, but {found:?}"));
                }
                self.tally.rules += 1;
            }
        }
        Ok(())
    }
}

/// What became of a packet.
#[derive(Debug)]
struct Found {
    sent: usize,
    verdicts: Vec<(Direction, VerdictKind, String)>,
    #[allow(dead_code, reason = "printed where a probe fails")]
    counters: String,
}

fn end(addr: &Addr, l4_port: Option<u16>) -> String {
    match l4_port {
        Some(l4_port) if addr.is_v4() => format!("{addr}:{l4_port}"),
        Some(l4_port) => format!("[{addr}]:{l4_port}"),
        None => addr.to_string(),
    }
}

/// Makes an ICMP message one of another type, with a right checksum (RFC 1624 equation 3).
fn set_icmp_type(frame: &mut [u8], kind: u8) {
    let Ok(Parsed::Ip(parsed)) = parse(frame) else { panic!("no packet") };
    let at = usize::from(parsed.headers.l4);
    let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let old = word(&frame[at..]);
    frame[at] = kind;
    let new = word(&frame[at..]);
    let mut sum = (!word(&frame[at + 2..]) & 0xffff) + (!old & 0xffff) + new;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    frame[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
}
