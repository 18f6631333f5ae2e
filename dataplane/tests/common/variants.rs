//! The same test in every arrangement that must not matter: 1, 2 and 4 workers, pods on any of
//! them, uplink queues at all or at one, any queue of arrival, both families.

use weir_dataplane::worker::CounterValues;
use weir_tables::{Object, PortId};

use super::node::{self, port_name, port_of};
use super::packet;
use super::world::{Layout, World, difference};

/// What a plainly forwarded packet counts.
pub const FORWARDED: &str = "received 1, transmitted 1";

/// A world in one family, and what was last counted.
pub struct Stage {
    pub world: World,
    pub family: u8,
    counted: CounterValues,
}

/// Runs a test in every arrangement. The one that fails is printed.
pub fn in_every_world(test: impl Fn(&mut Stage)) {
    for family in [4, 6] {
        for layout in layouts() {
            let on_failure = Printed(format!("IPv{family} {layout:?}"));
            let world = World::new(layout);
            let counted = world.counters();
            let mut stage = Stage { world, family, counted };
            test(&mut stage);
            stage.world.settle();
            drop(on_failure);
        }
    }
}

/// Every arrangement of workers, pods and queues.
pub fn layouts() -> Vec<Layout> {
    let mut all = vec![Layout::of(1)];
    for workers in [2, 4] {
        for salt in 0..4 {
            let seed = u64::from(salt);
            all.push(Layout { salt, seed, ..Layout::of(workers) });
            let queues = vec![salt as u8 % workers];
            all.push(Layout { salt, seed, queues, ..Layout::of(workers) });
        }
    }
    all
}

/// Says what was being tested, if that fails.
struct Printed(String);

impl Drop for Printed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in {}", self.0);
        }
    }
}

impl Stage {
    /// One packet, as `port: packet`; what is sent must be `expected`, in any order, and the
    /// counters must rise by exactly `counts`.
    #[track_caller]
    pub fn case(&mut self, text: &str, expected: &[&str], counts: &str) {
        let (from, packet) = text.split_once(": ").expect("port: packet");
        let port = port_of(from);
        let frame = packet::arriving(port, packet, self.family);
        assert_eq!(self.run(port, &frame), (expected_of(expected), counts.into()), "{text}");
    }

    /// A packet that is forwarded, and nothing else.
    #[track_caller]
    pub fn forwards(&mut self, text: &str, expected: &str) {
        self.case(text, &[expected], FORWARDED);
    }

    /// A packet that is forwarded with a source port of weir's choice, `*` in `expected`, which is
    /// returned.
    #[track_caller]
    pub fn forwards_from(&mut self, text: &str, expected: &str) -> u16 {
        let (from, packet) = text.split_once(": ").expect("port: packet");
        let (before, behind) = expected.split_once('*').expect("one star");
        let frame = packet::arriving(port_of(from), packet, self.family);
        let (sent, counts) = self.run(port_of(from), &frame);
        let [found] = &sent[..] else { panic!("{text}: {sent:?} {counts}") };
        let chosen = found.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        let chosen = chosen.unwrap_or_else(|| panic!("{text}: {found}, expected {expected}"));
        assert_eq!(counts, FORWARDED, "{text}");
        chosen.parse().unwrap_or_else(|_| panic!("{text}: {found}, expected {expected}"))
    }

    /// A packet that ends here, silently.
    #[track_caller]
    pub fn drops(&mut self, text: &str, reason: &str) {
        self.case(text, &[], &format!("received 1, {reason} 1"));
    }

    /// The same for a frame that no text can say.
    #[track_caller]
    pub fn raw(&mut self, port: &str, frame: &[u8], expected: &[&str], counts: &str) {
        let found = self.run(port_of(port), frame);
        assert_eq!(found, (expected_of(expected), counts.into()));
    }

    /// Lets a frame in; what was sent, sorted, and what was counted.
    pub fn run(&mut self, port: PortId, frame: &[u8]) -> (Vec<String>, String) {
        self.world.inject(port, frame);
        self.world.settle();
        let sent = self.world.take_sent();
        let show = |(port, frame): &(PortId, Vec<u8>)| {
            format!("{}: {}", port_name(*port), packet::show(*port, frame))
        };
        let mut sent: Vec<String> = sent.iter().map(show).collect();
        sent.sort();
        let counters = self.world.counters();
        let counts = difference(&self.counted, &counters);
        self.counted = counters;
        (sent, counts)
    }

    /// The frame of a text as it comes in by a port.
    pub fn frame(&self, port: &str, text: &str) -> Vec<u8> {
        packet::arriving(port_of(port), text, self.family)
    }

    /// Replaces the backends of a service.
    pub fn set_backends(&mut self, service: &str, rows: &[(&str, weir_tables::BackendState)]) {
        self.world.upsert(node::backend_sets(service, rows));
    }

    /// Changes what concerns the node.
    pub fn configure(&mut self, change: impl FnOnce(&mut weir_tables::NodeConfig)) {
        let mut node = self.world.tables.node().clone();
        change(&mut node);
        self.world.upsert([Object::Node(node)]);
    }

    /// Adds or replaces the frontends of a service, changed.
    pub fn set_frontends(&mut self, service: &str, change: impl Fn(&mut weir_tables::Frontend)) {
        let mut rows = node::frontends(service);
        rows.iter_mut().for_each(change);
        self.world.upsert(rows.into_iter().map(Object::Frontend));
    }

    /// Removes a service's backend sets or frontends.
    pub fn delete_service(&mut self, service: &str) {
        for frontend in node::frontends(service) {
            self.world.tables.delete(&Object::Frontend(frontend).name());
        }
        self.world.publish();
    }

    /// Removes a pod.
    pub fn delete_pod(&mut self, name: &str) {
        let name = node::pod_name(name, self.world.layout.salt);
        self.world.delete(&weir_tables::ObjectRef::Endpoint(name));
    }

    /// Leaves out what was counted so far.
    pub fn recount(&mut self) {
        self.counted = self.world.counters();
    }

    /// Lets time pass, and turns enough for a look at every flow. What expires is not counted.
    pub fn advance_ms(&mut self, by_ms: u64) {
        self.world.clock.advance_ns(by_ms * 1_000_000);
        for _ in 0..self.world.layout.flows / 8 {
            self.world.round();
        }
        self.recount();
    }
}

fn expected_of(expected: &[&str]) -> Vec<String> {
    let mut expected: Vec<String> = expected.iter().map(|text| (*text).into()).collect();
    expected.sort();
    expected
}
