//! A seeded life of one node: clients and servers inside and outside, wires that lose, double,
//! reorder and corrupt, backends and pods that come and go.
//!
//! `WEIR_SEEDS=100` runs as many seeds instead of 20. A failing seed is printed.

mod common;
#[path = "sim/peers.rs"]
mod peers;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use weir_dataplane::device::faulty::{FaultCounters, Faults, Faulty};
use weir_dataplane::device::memory::MemoryDevice;
use weir_dataplane::worker::CounterValues;
use weir_tables::BackendState::{Active, Maintenance, Terminating};
use weir_tables::{ObjectRef, PortId};

use common::node::{UPLINK_PORT, backend_sets, pod, pod_name, port_of, tables};
use common::world::{Layout, World};
use peers::{Asked, Peers};

const PODS: [&str; 4] = ["blue", "green", "red", "grey"];
const SERVICES: [&str; 4] = ["web", "pair", "lb", "own"];
const ROUNDS: usize = 400;

const BAD: Faults =
    Faults { loss: 0.03, duplicate: 0.03, reorder: 0.05, corrupt: 0.03, hold_max: 12 };

/// What a run comes to; the same seed gives the same twice.
#[derive(Debug, PartialEq, Eq)]
struct History {
    counters: CounterValues,
    faults: Vec<(FaultCounters, FaultCounters)>,
    answered: u64,
    refused: u64,
}

struct Simulation {
    world: World<Faulty<MemoryDevice>>,
    peers: Peers,
    rng: SmallRng,
    /// By pod: whether it is attached.
    attached: [bool; 4],
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut rng = SmallRng::seed_from_u64(seed);
        let workers = *[1, 2, 4].choose(&mut rng).expect("three");
        let salt = rng.random_range(0..100);
        let layout = Layout { salt, seed, frames: 512, flows: 4096, ..Layout::of(workers) };
        let mut device = seed << 8;
        let world = World::build(layout, tables(workers, salt), |inner| {
            device += 2;
            Faulty::new(inner, BAD, BAD, device)
        });
        Simulation { world, peers: Peers::default(), rng, attached: [true; 4] }
    }

    fn run(mut self) -> History {
        for _ in 0..ROUNDS {
            for _ in 0..self.rng.random_range(0..6) {
                self.ask();
            }
            if self.rng.random_bool(0.03) {
                self.change();
            }
            self.world.clock.advance_ns(20_000_000);
            self.world.round();
            self.deliver();
        }
        self.drain();
        let mut faults = Vec::new();
        for worker in &mut self.world.workers {
            faults.extend(worker.devices().iter().map(Faulty::fault_counters));
        }
        let Peers { answered, refused, .. } = self.peers;
        History { counters: self.world.counters(), faults, answered, refused }
    }

    /// Some client asks some service or pod, in a new connection or an old one.
    fn ask(&mut self) {
        let client = *["blue", "green", "red", "grey", "client", "client"]
            .choose(&mut self.rng)
            .expect("six");
        let family = if self.rng.random_bool(0.5) { 4 } else { 6 };
        let target = match self.rng.random_range(0..6) {
            0 => *PODS.choose(&mut self.rng).expect("four"),
            _ => *SERVICES.choose(&mut self.rng).expect("four"),
        };
        if target != client {
            let is_tcp = self.rng.random_bool(0.5);
            // Each target has client ports of its own: nobody can tell two flows with one reply
            // tuple apart.
            let targets = PODS.iter().chain(&SERVICES);
            let place = targets.take_while(|name| **name != target).count() as u16;
            let sport = self.rng.random_range(4000..4010) + 10 * place;
            let asked = Asked { client, target, family, is_tcp, sport };
            let frame = self.peers.ask(asked, &mut self.rng);
            self.inject(if client == "client" { "out" } else { client }, &frame);
        }
    }

    /// One change of the tables.
    fn change(&mut self) {
        if self.rng.random_bool(0.3) {
            let at = self.rng.random_range(0..PODS.len());
            let salt = self.world.layout.salt;
            self.attached[at] = !self.attached[at];
            if !self.attached[at] {
                self.world.delete(&ObjectRef::Endpoint(pod_name(PODS[at], salt)));
            } else {
                self.world.upsert([pod(PODS[at], salt, port_of(PODS[at]))]);
            }
            return;
        }
        let service = *SERVICES.choose(&mut self.rng).expect("four");
        let mut rows = Vec::new();
        for pod in PODS {
            let state = [Active, Active, Terminating, Maintenance].choose(&mut self.rng);
            if self.rng.random_bool(0.5) {
                rows.push((pod, *state.expect("four")));
            }
        }
        self.peers.serve(service, rows.iter().map(|row| row.0));
        self.world.upsert(backend_sets(service, &rows));
    }

    /// Hands what was sent to the peers, and lets their answers in.
    fn deliver(&mut self) {
        for (port, frame) in self.world.take_sent() {
            let host = match port {
                UPLINK_PORT => "client",
                port => PODS.iter().find(|pod| port_of(pod) == port).copied().unwrap_or("host"),
            };
            if let Some(answer) = self.peers.receive(host, &frame) {
                self.inject(if host == "client" { "out" } else { host }, &answer);
            }
        }
    }

    fn inject(&mut self, port: &str, frame: &[u8]) {
        self.world.inject(port_of(port), frame);
    }

    /// Lets the wires run dry; then every frame is at home.
    fn drain(&mut self) {
        for _ in 0..200 {
            self.world.round();
            self.deliver();
        }
        for worker in &mut self.world.workers {
            let mut held = 0;
            for device in worker.devices() {
                held += weir_dataplane::device::Device::frames_held(device);
            }
            assert_eq!(held, 0, "every packet has left the wire");
        }
        self.world.settle();
        assert_eq!(PortId::UPLINK, port_of("out"));
    }
}

fn seeds() -> u64 {
    std::env::var("WEIR_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Prints the seed of a run that panics.
struct Running(u64);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn every_seed_keeps_its_promises_and_repeats_itself() {
    let (mut answered, mut refused) = (0, 0);
    for seed in 1..=seeds() {
        let running = Running(seed);
        let history = Simulation::new(seed).run();
        assert_eq!(history, Simulation::new(seed).run(), "one seed, one history");
        answered += history.answered;
        refused += history.refused;
        drop(running);
    }
    println!("{} seeds: {answered} answers, {refused} refusals", seeds());
    assert!(answered > 200 * seeds(), "most questions are answered: {answered}");
    assert!(refused > 0);
}
