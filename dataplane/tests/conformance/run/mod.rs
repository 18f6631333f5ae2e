//! Runs conformance scripts.
//!
//! ```text
//!  script    text to steps
//!  cluster   YAML, by the agent's own code, to what a dataplane is told
//!  names     every address has the name of its pod, service or node
//!  packet    "tcp/S client:4000 > web:80" <-> bytes
//!  readme    the table that the scripts make
//! ```

pub mod cluster;
pub mod names;
pub mod packet;
pub mod readme;
pub mod script;

use std::collections::BTreeMap;

use weir_dataplane::worker::CounterValues;
use weir_packet::Mac;
use weir_tables::{Endpoint, Object, ObjectRef, PortId, Tables};

use crate::common::node::{HOST_PORT, UPLINK_PORT};
use crate::common::variants::layouts;
use crate::common::world::{Layout, World, difference};
use cluster::Change;
use names::Names;
use script::{Action, Exchange, Script, Step};

/// Runs a script in every arrangement; the first failure, as text.
pub fn run(script: &Script) -> Result<(), String> {
    for &family in &script.families {
        for layout in layouts() {
            let workers = layout.workers;
            let plural = if workers == 1 { "" } else { "s" };
            let place = format!(
                "IPv{family}, {workers} worker{plural}, queues at {:?}, seed {}",
                layout.queues, layout.seed
            );
            let layout = Layout { flows: script.flows, ..layout };
            let mut stage = Stage::new(script, layout, family);
            for step in &script.steps {
                stage.step(step).map_err(|error| {
                    format!("{}:{}: {}\n  in {place}\n{error}", script.file, step.line, step.text)
                })?;
            }
            stage.world.settle();
        }
    }
    Ok(())
}

/// A node in one arrangement, and what the script has found out so far.
struct Stage {
    world: World,
    family: u8,
    names: Names,
    /// Pods by port.
    pods: BTreeMap<PortId, (String, Mac)>,
    bound: BTreeMap<String, String>,
    /// All that the agent wants.
    all: Vec<Object>,
    counted: CounterValues,
}

impl Stage {
    fn new(script: &Script, layout: Layout, family: u8) -> Stage {
        let world = World::build(layout.clone(), Tables::new(layout.workers), |device| device);
        let counted = world.counters();
        let (names, pods, bound) = (Names::default(), BTreeMap::new(), BTreeMap::new());
        let mut stage = Stage { world, family, names, pods, bound, all: Vec::new(), counted };
        stage.change(&script.start);
        stage
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        if step.family.is_some_and(|family| family != self.family) {
            return Ok(());
        }
        match &step.action {
            Action::Change(change) => self.change(change),
            Action::Republish => self.world.publish(),
            Action::Resend => self.resend(),
            Action::Forget => self.bound.clear(),
            Action::Wait { ms } => self.wait(*ms),
            Action::Exchange(exchange) if exchange.spread.is_empty() => {
                for exchange in exchange.each_of_range() {
                    self.exchange(&exchange)?;
                }
            }
            Action::Exchange(exchange) => self.spread(exchange)?,
        }
        Ok(())
    }

    /// Tells the dataplane, as the agent would.
    fn change(&mut self, change: &Change) {
        self.all = change.all.clone();
        self.pods = change.pods.clone();
        self.names = change.names.clone();
        placed_change(&mut self.world, change);
    }

    /// Everything again, each object in a snapshot of its own and in another order.
    fn resend(&mut self) {
        for object in self.all.iter().rev() {
            let object = placed(object.clone(), self.world.layout.salt);
            self.world.tables.upsert(object).expect("it was accepted before");
            self.world.publish();
            self.world.settle();
        }
    }

    fn wait(&mut self, ms: u64) {
        self.world.clock.advance_ns(ms * 1_000_000);
        // Turns enough for a look at every flow.
        for _ in 0..self.world.layout.flows / 8 {
            self.world.round();
        }
        self.counted = self.world.counters();
    }

    /// One packet, and what must come of it.
    fn exchange(&mut self, exchange: &Exchange) -> Result<(), String> {
        let (found, counters) = self.send(&exchange.port, &exchange.packet)?;
        let mut bound = self.bound.clone();
        let is_as_said = match_all(&exchange.expected, &found, &mut bound);
        let mut said = vec!["received 1".to_owned()];
        if !exchange.expected.is_empty() {
            said.push(format!("transmitted {}", exchange.expected.len()));
        }
        said.extend(exchange.counters.iter().cloned());
        let mut rose: Vec<&str> = counters.split(", ").collect();
        let mut said: Vec<&str> = said.iter().map(String::as_str).collect();
        rose.sort_unstable();
        said.sort_unstable();
        if is_as_said && rose == said {
            self.bound = bound;
            return Ok(());
        }
        let list = |texts: &[String], said: &[&str]| {
            let usual =
                |row: &&&str| !row.starts_with("received ") && !row.starts_with("transmitted ");
            let rows: Vec<&str> = said.iter().filter(usual).copied().collect();
            let mut lines = texts.to_vec();
            if !rows.is_empty() {
                lines.push(format!("counters {}", rows.join(", ")));
            }
            if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n            ") }
        };
        let bound = self.bound.iter().map(|(name, value)| format!("  ${name} is {value}\n"));
        let (said, rose) = (list(&exchange.expected, &said), list(&found, &rose));
        Err(format!("  expected  {said}\n  found     {rose}\n{}", bound.collect::<String>()))
    }

    /// Packets of many clients, and how many must come out where.
    fn spread(&mut self, exchange: &Exchange) -> Result<(), String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for exchange in exchange.each_of_range() {
            let (found, counters) = self.send(&exchange.port, &exchange.packet)?;
            *counts.entry(outcome(&found, &counters)).or_default() += 1;
        }
        let is_as_said = exchange.spread.iter().all(|(name, min, max)| {
            (*min..=*max).contains(&counts.get(name).copied().unwrap_or_default())
        });
        let named = |name: &String| exchange.spread.iter().any(|row| row.0 == *name);
        if is_as_said && counts.keys().all(named) {
            return Ok(());
        }
        Err(format!("  expected  {:?}\n  found     {counts:?}\n", exchange.spread))
    }

    /// Lets a packet in: what came out, and what was counted.
    fn send(&mut self, port: &str, packet: &str) -> Result<(Vec<String>, String), String> {
        let (port, packet) = (self.substitute(port)?, self.substitute(packet)?);
        let (port, macs) = self.arrival(&port)?;
        let frame = packet::build(&packet, &self.names, self.family, macs)?;
        self.world.inject(port, &frame);
        self.world.settle();
        let sent = self.world.take_sent();
        let mut found: Vec<String> =
            sent.iter().map(|(port, frame)| self.show(*port, frame)).collect();
        found.sort();
        let counters = self.world.counters();
        let rose = difference(&self.counted, &counters);
        self.counted = counters;
        Ok((found, rose))
    }

    /// Puts in what variables stand for.
    fn substitute(&self, text: &str) -> Result<String, String> {
        let mut parts = text.split('$');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
            let value = self.bound.get(&part[..end]);
            out += value.ok_or_else(|| format!("  ${} stands for nothing yet", &part[..end]))?;
            out += &part[end..];
        }
        Ok(out)
    }

    /// The port where packets of a place come in, and their MACs: source and destination.
    fn arrival(&self, place: &str) -> Result<(PortId, (Mac, Mac)), String> {
        match place {
            "outside" => Ok((PortId::UPLINK, (names::ROUTER_MAC, names::UPLINK_MAC))),
            "host" => Ok((PortId::HOST, (names::HOST_MAC, names::GATEWAY_MAC))),
            pod => {
                let row = self.pods.iter().find(|row| row.1.0 == pod);
                let (port, (_, mac)) = row.ok_or_else(|| {
                    format!("  {pod} is no pod of this node, nor host, nor outside")
                })?;
                Ok((*port, (*mac, names::GATEWAY_MAC)))
            }
        }
    }

    fn show(&self, port: PortId, frame: &[u8]) -> String {
        let (place, macs) = match port {
            UPLINK_PORT => ("outside", (names::UPLINK_MAC, self.names.next_hop_mac(frame))),
            HOST_PORT => ("host", (names::GATEWAY_MAC, names::HOST_MAC)),
            _ => match self.pods.get(&port) {
                Some((name, mac)) => (name.as_str(), (names::GATEWAY_MAC, *mac)),
                None => ("nobody", (names::GATEWAY_MAC, Mac::ZERO)),
            },
        };
        format!("{place}: {}", packet::show(frame, &self.names, macs))
    }
}

/// Tells a world of a change, with pods at the workers that its layout wants.
pub fn placed_change(world: &mut World, change: &Change) {
    let salt = world.layout.salt;
    world.tables.set_network(change.network.clone());
    for name in &change.deletes {
        match name {
            ObjectRef::Endpoint(pod) => {
                world.tables.delete(&ObjectRef::Endpoint(salted(pod, salt)));
            }
            name => world.tables.delete(name),
        }
    }
    for object in change.upserts.iter().cloned() {
        world.tables.upsert(placed(object, salt)).expect("an object that the agent made");
    }
    world.publish();
}

/// Where a packet went: to a pod here, to one on another node, or why nowhere.
fn outcome(found: &[String], counters: &str) -> String {
    let [found] = found else {
        let reason = counters.split(", ").find(|it| !it.starts_with("received"));
        return reason.unwrap_or("nothing").trim_end_matches(" 1").to_owned();
    };
    let place = found.split(": ").next().unwrap_or_default();
    let target = found.split(" > ").last().unwrap_or_default();
    let target = target.split(':').next().unwrap_or_default();
    if place == "outside" { target.to_owned() } else { place.to_owned() }
}

/// The worker of a pod follows from its name.
fn salted(name: &str, salt: u32) -> String {
    format!("{name}-{salt}")
}

/// The object, with its pod at another worker.
fn placed(object: Object, salt: u32) -> Object {
    match object {
        Object::Endpoint(pod) => {
            Object::Endpoint(Endpoint { name: salted(&pod.name, salt), ..pod })
        }
        object => object,
    }
}

/// Whether every expected text is found, each once and nothing else; binds variables.
fn match_all(expected: &[String], found: &[String], bound: &mut BTreeMap<String, String>) -> bool {
    let Some((first, rest)) = expected.split_first() else { return found.is_empty() };
    (0..found.len()).any(|at| {
        let mut trial = bound.clone();
        let mut others = found.to_vec();
        let text = others.remove(at);
        let matches = match_one(first, &text, &mut trial) && match_all(rest, &others, &mut trial);
        if matches {
            *bound = trial;
        }
        matches
    })
}

/// `*` is any number; `$name` is a word, the same wherever the name occurs and another one than
/// under any other name.
fn match_one(expected: &str, found: &str, bound: &mut BTreeMap<String, String>) -> bool {
    let Some(at) = expected.find(['*', '$']) else { return expected == found };
    let Some(found) = found.strip_prefix(&expected[..at]) else { return false };
    let is_star = expected[at..].starts_with('*');
    let behind = &expected[at + 1..];
    let is_word =
        |c: char| if is_star { c.is_ascii_digit() } else { c.is_alphanumeric() || c == '-' };
    let word = &found[..found.find(|c| !is_word(c)).unwrap_or(found.len())];
    let rest = &found[word.len()..];
    if is_star {
        return !word.is_empty() && match_one(behind, rest, bound);
    }
    let end = behind.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(behind.len());
    let (name, behind) = behind.split_at(end);
    match bound.get(name) {
        Some(value) if value != word => return false,
        None if bound.values().any(|value| value == word) => return false,
        _ => drop(bound.insert(name.to_owned(), word.to_owned())),
    }
    !word.is_empty() && match_one(behind, rest, bound)
}
