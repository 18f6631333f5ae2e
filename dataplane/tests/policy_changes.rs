//! Policies, identities and addresses change at random while packets flow through workers that run
//! on threads of their own. Every verdict says which revision it was made by: it must be what the
//! rules of exactly that revision say, and no older than what its worker had acknowledged when the
//! packet came in. And what becomes of every packet, known flows and answers included, must follow
//! from a revision between that and the newest one.
//!
//! `WEIR_SEED=n` repeats a run as far as threads let it.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;
#[path = "policy_changes/naive.rs"]
mod naive;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use weir_dataplane::clock::Clock;
use weir_dataplane::verdicts::{VerdictEvent, VerdictKind};
use weir_dataplane::worker::Worker;
use weir_packet::protocol;
use weir_tables::policy::{Direction, L4};
use weir_tables::{Object, PortId, Snapshot, Tables};

use common::node::{PODS, name_of, pod, port_of};
use common::packet::arriving;
use common::world::{Layout, Observed, World};
use naive::{Change, PEERS, PORTS, State};

const PACKETS: u32 = 20_000;
/// Flows that packets are sent on; the oldest goes when there are more.
const FLOWS: usize = 64;

/// What control said, by revision.
type History = Mutex<BTreeMap<u32, State>>;

#[derive(Clone, Copy, Debug)]
struct Flow {
    from: &'static str,
    to: &'static str,
    sport: u16,
    dport: u16,
    /// One packet of it arrived: there may be answers.
    is_known: bool,
}

#[test]
fn verdicts_follow_the_rules_of_their_revision() {
    let seed = std::env::var("WEIR_SEED").map_or_else(|_| rand::random(), |it| it.parse().unwrap());
    println!("seed {seed}");
    for workers in [1, 2] {
        let report = run(workers, seed);
        println!("{workers} workers: {report:?}");
        assert!(report.allowed > 1000 && report.denied > 1000 && report.revisions > 100);
        assert!(report.verdicts > 1000 && report.answers > 500);
    }
}

#[derive(Debug, Default)]
struct Report {
    allowed: u32,
    denied: u32,
    answers: u32,
    verdicts: u32,
    revisions: usize,
}

fn run(workers: u8, seed: u64) -> Report {
    let layout = Layout { flows: 1 << 16, seed, ..Layout::of(workers) };
    let mut world = World::new(layout);
    let history = History::default();
    history.lock().unwrap().insert(world.snapshot().revision(), State::default());
    let mut threads: Vec<Worker<_>> = std::mem::take(&mut world.workers);
    let mut tables = std::mem::take(&mut world.tables);
    let (snapshots, stop) = (world.snapshots(), AtomicBool::new(false));
    let clock = world.clock.clone();
    let observed = world.observed.clone();
    let mut report = std::thread::scope(|scope| {
        // Stops the others also where an assertion fails.
        let _guard = StopAtEnd(&stop);
        for worker in &mut threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if worker.turn(clock.now()) == 0 {
                        std::thread::yield_now();
                    }
                }
            });
        }
        scope.spawn(|| publish(&mut tables, &snapshots, &history, &stop, seed));
        let mut injector = Injector {
            world: &mut world,
            observed,
            history: &history,
            rng: SmallRng::seed_from_u64(seed),
            flows: Vec::new(),
            next_sport: 1024,
            report: Report::default(),
        };
        for _ in 0..PACKETS {
            injector.step();
        }
        injector.report
    });
    world.workers = threads;
    world.settle();
    report.revisions = history.lock().unwrap().len();
    report
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Changes what control says, over and over.
fn publish(
    tables: &mut Tables,
    snapshots: &ArcSwap<Snapshot>,
    history: &History,
    stop: &AtomicBool,
    seed: u64,
) {
    let mut rng = SmallRng::seed_from_u64(!seed);
    let mut state = State::default();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..rng.random_range(1..3) {
            match state.change(&mut rng) {
                Change::Upsert(object) => tables.upsert(object).unwrap(),
                Change::Delete(name) => tables.delete(&name),
                Change::Assign(name, table) => tables.upsert(assigned(name, table)).unwrap(),
            }
        }
        let snapshot = tables.snapshot();
        history.lock().unwrap().insert(snapshot.revision(), state.clone());
        snapshots.store(Arc::new(snapshot));
        for _ in 0..rng.random_range(0..200) {
            std::thread::yield_now();
        }
    }
}

fn assigned(name: &str, table: Option<&str>) -> Object {
    let Object::Endpoint(mut endpoint) = pod(name, 0, port_of(name)) else { unreachable!() };
    endpoint.policy = table.map(str::to_owned);
    Object::Endpoint(endpoint)
}

struct Injector<'a> {
    world: &'a mut World,
    observed: Vec<Observed>,
    history: &'a History,
    rng: SmallRng,
    flows: Vec<Flow>,
    next_sport: u16,
    report: Report,
}

impl Injector<'_> {
    /// One packet of a new or known flow, or an answer, and everything that must hold of it.
    fn step(&mut self) {
        let at = self.choose();
        let flow = self.flows[at];
        let is_answer = flow.is_known && self.rng.random_bool(0.4);
        let Flow { from, to, sport, dport, .. } = flow;
        let text = match is_answer {
            false => format!("udp {from}:{sport} > {to}:{dport}"),
            true => format!("udp {to}:{dport} > {from}:{sport}"),
        };
        let place = if is_answer { to } else { from };
        let port = if is_pod(place) { port_of(place) } else { PortId::UPLINK };
        let before = self.count();
        let acknowledged = self.observed.iter().map(|it| it.counters.revision()).min().unwrap();
        self.world.inject(port, &arriving(port, &text, 4));
        let after = self.wait(before);
        let newest = self.world.snapshot().revision();
        self.world.take_sent();
        let is_delivered = after.0 > before.0;
        self.check_outcome(&flow, is_delivered, acknowledged, newest, &text);
        self.check_verdicts(acknowledged, newest, &text);
        self.flows[at].is_known |= is_delivered;
        let counter = if is_delivered { &mut self.report.allowed } else { &mut self.report.denied };
        *counter += 1;
        self.report.answers += u32::from(is_answer);
    }

    fn choose(&mut self) -> usize {
        if !self.flows.is_empty() && self.rng.random_bool(0.7) {
            return self.rng.random_range(0..self.flows.len());
        }
        let (from, to) = loop {
            let from = *PEERS.choose(&mut self.rng).unwrap();
            let to = *PEERS.choose(&mut self.rng).unwrap();
            if from != to && (is_pod(from) || is_pod(to)) {
                break (from, to);
            }
        };
        let dport = *PORTS.choose(&mut self.rng).unwrap();
        self.next_sport = self.next_sport.checked_add(1).unwrap();
        let flow = Flow { from, to, sport: self.next_sport, dport, is_known: false };
        if self.flows.len() == FLOWS {
            self.flows.remove(0);
        }
        self.flows.push(flow);
        self.flows.len() - 1
    }

    /// Packets sent, and packets dropped.
    fn count(&self) -> (u64, u64) {
        self.observed.iter().fold((0, 0), |sum, it| {
            let values = it.counters.read();
            (sum.0 + values.transmitted, sum.1 + values.drops.iter().sum::<u64>())
        })
    }

    fn wait(&self, before: (u64, u64)) -> (u64, u64) {
        for _ in 0..10_000_000 {
            let now = self.count();
            if now != before {
                return now;
            }
            std::thread::yield_now();
        }
        panic!("a packet is gone");
    }

    /// The packet went on or not as some revision says that a worker may have gone by.
    fn check_outcome(&self, flow: &Flow, is_delivered: bool, from: u32, to: u32, text: &str) {
        let l4 = L4::new(protocol::UDP, flow.dport);
        let history = self.history.lock().unwrap();
        let halves =
            [(flow.from, Direction::Egress, flow.to), (flow.to, Direction::Ingress, flow.from)];
        let says = |wanted: bool, (pod, direction, peer)| {
            history.range(from..=to).any(|(_, state)| {
                let verdict = state.judge(pod, direction, peer, l4).map(|it| it.0);
                is_pod(pod) && verdict == Some(wanted)
                    || wanted && (!is_pod(pod) || verdict.is_none())
            })
        };
        let is_right = match is_delivered {
            true => halves.into_iter().all(|half| says(true, half)),
            false => halves.into_iter().any(|half| says(false, half)),
        };
        assert!(is_right, "{text}: delivered {is_delivered} by none of revisions {from} to {to}");
    }

    fn check_verdicts(&mut self, acknowledged: u32, newest: u32, text: &str) {
        let events: Vec<VerdictEvent> =
            self.observed.iter().flat_map(|it| it.verdicts.drain_recent()).collect();
        for event in events {
            self.report.verdicts += 1;
            let revision = event.revision;
            assert!(
                (acknowledged..=newest).contains(&revision),
                "{text}: judged by {revision}, not by one of {acknowledged} to {newest}"
            );
            let pod = PODS.iter().find(|pod| pod.1 == event.endpoint.0).unwrap().0;
            let peer = match event.direction {
                Direction::Egress => name_of(&event.key.dst),
                Direction::Ingress => name_of(&event.key.src),
            };
            let snapshot = self.world.snapshot();
            let rule = snapshot.policy().rule(event.rule);
            let origin = rule.map(|rule| rule.origin.clone()).unwrap_or_default();
            let is_allowed = match event.kind {
                VerdictKind::Allowed => true,
                VerdictKind::Denied => false,
                kind => panic!("{text}: {kind:?}"),
            };
            let history = self.history.lock().unwrap();
            let said = history[&revision].judge(pod, event.direction, &peer, event.l4);
            let (said_allowed, said_origin) = said.expect("a policy is about it");
            assert_eq!(is_allowed, said_allowed, "{text}: {event:?}: {origin:?} {said_origin:?}");
            if !said_origin.is_empty() {
                assert_eq!(origin, said_origin, "{text}: {event:?}");
            }
        }
    }
}

fn is_pod(name: &str) -> bool {
    PODS.iter().any(|pod| pod.0 == name)
}
