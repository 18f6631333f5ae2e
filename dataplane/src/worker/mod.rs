//! One thread: a worker owns devices, frames and flows, and shares none of them.
//!
//! [`Worker::turn`] is one breath: read the clock and the snapshot once, receive, decide, send,
//! take over what other workers hand on, bring frames home, look after a few old flows.
//! [`Worker::run`] repeats it and sleeps when nothing comes. The same worker runs over AF_XDP, in
//! memory, over pcap, under injected faults and in a simulation of several nodes: only the device
//! differs.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Cache};
use weir_tables::{Link, NextHop, PortId, Snapshot, WorkerId};

use crate::batch::{Batch, Packet, Stage, Verdict};
use crate::clock::{Clock, Instant};
use crate::counters::Report;
pub use crate::counters::{CounterValues, Counters};
use crate::device::Device;
use crate::drops::Drop;
use crate::flow::FlowTable;
use crate::memory::{Frame, Pool};
use crate::pipeline::{self, Context, UNRESOLVED_MAX};
use crate::verdicts::VerdictLog;

mod handoff;
mod policer;
mod sleep;

pub use handoff::{HandoffPorts, connect};
pub use sleep::{Doorbell, FDS_MAX, Sleeper, Waker};

/// Packets that are answered by ourselves in a burst, and per millisecond after it; the rest are
/// dropped silently.
const ANSWERS_BURST: u32 = 32;
const ANSWERS_PER_MS: u32 = 10;
/// Batches of handed-over packets per turn, at most: devices wait meanwhile.
const HANDOFF_BATCHES: usize = 4;
/// A worker that did not run for longer than this was hung or stopped, and the kernel has gone by
/// the failure mode: what still waits in its rings is too old to send.
const STALE_NS: u64 = 1_000_000_000;
/// Flow entries looked at per turn, and once before a sleep, when nobody waits: a few microseconds.
const SWEEP_PER_TURN: u32 = 16;
const SWEEP_BEFORE_SLEEP: u32 = 1024;
/// How long a worker spins without packets before it sleeps.
const SPIN_MAX_NS: u64 = 50_000;
/// Longest sleep: the heartbeat must stay younger than its timeout of one second.
const SLEEP_MAX_MS: u32 = 100;

/// What a worker is made of.
pub struct Parts<D> {
    pub id: WorkerId,
    pub workers: u8,
    pub devices: Vec<D>,
    pub pool: Pool,
    pub flows: FlowTable,
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    pub handoff: HandoffPorts,
    pub counters: Arc<Counters>,
    /// What policy said.
    pub verdicts: Arc<VerdictLog>,
    /// Per uplink port: the workers that own a queue of it, in order.
    pub uplink_owners: Vec<(PortId, Vec<WorkerId>)>,
    /// Next hops to resolve, towards the control thread.
    pub unresolved: rtrb::Producer<NextHop>,
    /// Rung when there is news for the control thread: such a next hop, or a new snapshot in use.
    pub doorbell: Option<Doorbell>,
}

/// A worker over devices of one kind.
pub struct Worker<D> {
    parts: Parts<D>,
    newest: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    /// The snapshot of this turn.
    snapshot: Arc<Snapshot>,
    batch: Batch,
    policer: policer::Policer,
    unresolved: Vec<NextHop>,
    answers_left: u32,
    answers_at_ms: u32,
    last_heartbeat: Instant,
    last_turn: Instant,
}

impl<D: Device> Worker<D> {
    /// Puts the parts together.
    pub fn new(parts: Parts<D>) -> Worker<D> {
        Worker {
            snapshot: parts.snapshots.load_full(),
            newest: Cache::new(Arc::clone(&parts.snapshots)),
            batch: Batch::new(),
            policer: policer::Policer::default(),
            unresolved: Vec::with_capacity(UNRESOLVED_MAX),
            answers_left: ANSWERS_BURST,
            answers_at_ms: 0,
            last_heartbeat: Instant(0),
            last_turn: Instant(0),
            parts,
        }
    }

    /// The worker's flows, for tests and for showing.
    pub fn flows(&self) -> &FlowTable {
        &self.parts.flows
    }

    /// The worker's free frames.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.parts.pool
    }

    /// The worker's devices.
    pub fn devices(&mut self) -> &mut [D] {
        &mut self.parts.devices
    }

    /// What the worker counts.
    pub fn counters(&self) -> &Counters {
        &self.parts.counters
    }

    /// One breath at time `now`; how many packets it moved.
    pub fn turn(&mut self, now: Instant) -> usize {
        let newest = self.newest.load();
        if !Arc::ptr_eq(newest, &self.snapshot) {
            self.snapshot = Arc::clone(newest);
            self.policer.follow(&self.snapshot, now);
        }
        self.allow_answers(now.as_millis_wrapping());
        let mut moved = 0;
        for device in 0..self.parts.devices.len() {
            self.parts.devices[device].recv(&mut self.batch, &mut self.parts.pool);
            self.parts.counters.count_received(self.batch.len());
            self.police_sent(now);
            moved += self.process(now);
        }
        for _ in 0..HANDOFF_BATCHES {
            let taken = self.parts.handoff.take(&mut self.batch);
            self.parts.counters.count_handed_in(taken);
            if taken == 0 {
                break;
            }
            moved += self.process(now);
        }
        self.parts.pool.collect();
        for device in &mut self.parts.devices {
            device.flush(&mut self.parts.pool);
        }
        self.parts.handoff.wake_receivers();
        // In small bursts the sweep would cost more than the packets.
        let budget = if moved == 0 { SWEEP_PER_TURN } else { moved as u32 / 4 + 1 };
        let budget = budget.min(SWEEP_PER_TURN);
        let expired = self.parts.flows.sweep(budget, now.as_millis_wrapping());
        self.report(expired, now);
        moved
    }

    /// Repeats turns until `stop`. With nothing to do it spins for at most 50 us, then sleeps
    /// until a packet, a handed-over packet or the next heartbeat is due. `heartbeat` runs at
    /// least every 100 ms and at most every 10 ms.
    pub fn run<C: Clock>(
        &mut self,
        clock: &C,
        sleeper: &mut Sleeper,
        stop: &AtomicBool,
        mut heartbeat: impl FnMut(Instant, &[D]),
    ) {
        self.wait_for_state(clock, sleeper, stop, &mut heartbeat);
        let mut idle_since = clock.now();
        self.last_turn = idle_since;
        while !stop.load(Ordering::Relaxed) {
            let now = clock.now();
            if now.0.wrapping_sub(self.last_heartbeat.0) >= 10_000_000 {
                heartbeat(now, &self.parts.devices);
                self.last_heartbeat = now;
            }
            if now.0 - self.last_turn.0 > STALE_NS {
                self.discard_waiting();
            }
            self.last_turn = now;
            if self.turn(now) > 0 {
                idle_since = now;
            } else if now.0 - idle_since.0 >= SPIN_MAX_NS {
                self.parts.flows.sweep(SWEEP_BEFORE_SLEEP, now.as_millis_wrapping());
                self.sleep(sleeper);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Waits for the first snapshot. Packets wait in the rings meanwhile: judged by empty tables,
    /// those of adopted flows would be dropped and new ones refused.
    fn wait_for_state<C: Clock>(
        &mut self,
        clock: &C,
        sleeper: &mut Sleeper,
        stop: &AtomicBool,
        heartbeat: &mut impl FnMut(Instant, &[D]),
    ) {
        const NO_DEVICES: [Option<BorrowedFd<'_>>; sleep::FDS_MAX] = [None; sleep::FDS_MAX];
        while self.newest.load().revision() == 0 && !stop.load(Ordering::Relaxed) {
            heartbeat(clock.now(), &self.parts.devices);
            for device in &mut self.parts.devices {
                device.flush(&mut self.parts.pool);
            }
            sleeper.wait(&NO_DEVICES, 2);
        }
    }

    /// Drops and counts what waits in the devices' rings.
    pub fn discard_waiting(&mut self) {
        let parts = &mut self.parts;
        for device in &mut parts.devices {
            loop {
                device.recv(&mut self.batch, &mut parts.pool);
                parts.counters.count_received(self.batch.len());
                if self.batch.is_empty() {
                    break;
                }
                for packet in self.batch.drain() {
                    parts.counters.count_drop(Drop::Stale);
                    parts.pool.put(packet.frame);
                }
            }
        }
    }

    fn sleep(&mut self, sleeper: &mut Sleeper) {
        // Announced first, looked again second: what comes in between is not missed.
        sleeper.announce();
        if self.has_nothing_new() {
            let devices = &self.parts.devices;
            let fds: [Option<BorrowedFd<'_>>; sleep::FDS_MAX] =
                std::array::from_fn(|at| devices.get(at).and_then(|dev| dev.wait_fd()));
            sleeper.wait(&fds, SLEEP_MAX_MS);
        }
        sleeper.retract();
    }

    /// No packet was handed over and no snapshot published since the turn looked: of both, only a
    /// worker that has announced its sleep is told.
    fn has_nothing_new(&mut self) -> bool {
        self.parts.handoff.is_empty() && Arc::ptr_eq(self.newest.load(), &self.snapshot)
    }

    /// Runs the batch through the pipeline and carries out the verdicts.
    fn process(&mut self, now: Instant) -> usize {
        let count = self.batch.len();
        if count == 0 {
            return 0;
        }
        let parts = &mut self.parts;
        let snapshot: &Snapshot = &self.snapshot;
        pipeline::run(
            &mut self.batch,
            &mut Context {
                me: parts.id,
                workers: parts.workers,
                snapshot,
                flows: &mut parts.flows,
                now_ms: now.as_millis_wrapping(),
                counters: &parts.counters,
                verdicts: &parts.verdicts,
                unresolved: &mut self.unresolved,
                answers_left: &mut self.answers_left,
            },
        );
        // Taken apart at once: moving whole packets would cost more than sending their frames.
        for Packet { frame, port, verdict, .. } in self.batch.drain() {
            let verdict = self.policer.judge(verdict, &frame, snapshot, now);
            parts.carry_out(frame, port, verdict, snapshot);
        }
        if !self.unresolved.is_empty() {
            for hop in self.unresolved.drain(..) {
                // A full ring means that the control thread is busy: the next packet asks again.
                let _ = parts.unresolved.push(hop);
            }
            parts.ring_doorbell();
        }
        count
    }

    fn allow_answers(&mut self, now_ms: u32) {
        let passed_ms = now_ms.wrapping_sub(self.answers_at_ms).min(ANSWERS_BURST);
        self.answers_at_ms = now_ms;
        self.answers_left = (self.answers_left + passed_ms * ANSWERS_PER_MS).min(ANSWERS_BURST);
    }

    fn report(&mut self, expired: u32, now: Instant) {
        let revision = self.snapshot.revision();
        let parts = &self.parts;
        let is_new = parts.counters.revision() != revision;
        parts.counters.report(Report {
            revision,
            expired,
            flows: parts.flows.len(),
            frames_free: parts.pool.free() as u32,
            now,
        });
        if is_new {
            parts.ring_doorbell();
        }
    }
}

impl<D: Device> Parts<D> {
    fn ring_doorbell(&self) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
    }

    #[inline]
    fn carry_out(&mut self, frame: Frame, from: PortId, verdict: Verdict, snapshot: &Snapshot) {
        match verdict {
            Verdict::Transmit { adjacency } => self.transmit(frame, from, adjacency, snapshot),
            Verdict::Handoff { worker, stage } => self.hand_over(frame, from, worker, stage),
            Verdict::Reply => self.send(from, frame, Drop::EgressFull),
            Verdict::Punt => match snapshot.host_adjacency() {
                Some(adjacency) => self.punt(frame, from, adjacency, snapshot),
                None => self.drop_frame(frame, Drop::NoRoute),
            },
            Verdict::Drop(reason) => self.drop_frame(frame, reason),
            Verdict::Flow { .. } | Verdict::Undecided => {
                unreachable!("rewrite leaves no {verdict:?}")
            }
        }
    }

    #[inline]
    fn transmit(&mut self, frame: Frame, from: PortId, adjacency: u16, snapshot: &Snapshot) {
        let Some(row) = snapshot.adjacency(adjacency) else {
            return self.drop_frame(frame, Drop::NoRoute);
        };
        if row.link == Link::Uplink && !self.carries(row.port) {
            let Some(owner) = self.uplink_owner(row.port) else {
                return self.drop_frame(frame, Drop::UplinkDown);
            };
            return self.hand_over(frame, from, owner, Stage::Transmit { adjacency });
        }
        self.send(row.port, frame, Drop::EgressFull);
    }

    fn punt(&mut self, mut frame: Frame, from: PortId, adjacency: u16, snapshot: &Snapshot) {
        if let Some(row) = snapshot.adjacency(adjacency) {
            weir_packet::set_macs(frame.bytes_mut(), row.dst_mac, pipeline::GATEWAY_MAC);
        }
        self.counters.count_punted();
        self.transmit(frame, from, adjacency, snapshot);
    }

    #[inline]
    fn send(&mut self, port: PortId, frame: Frame, if_full: Drop) {
        let device = self.devices.iter_mut().find(|device| device.carries(port));
        let result = match device {
            Some(device) => device.send(port, frame),
            None => Err(frame),
        };
        match result {
            Ok(()) => self.counters.count_transmitted(),
            Err(frame) => {
                self.counters.count_drop(if_full);
                self.pool.put(frame);
            }
        }
    }

    fn hand_over(&mut self, frame: Frame, from: PortId, worker: WorkerId, stage: Stage) {
        match self.handoff.give(frame, from, worker, stage) {
            Ok(()) => self.counters.count_handed_out(),
            Err(frame) => {
                self.counters.count_drop(Drop::HandoffFull);
                self.pool.put(frame);
            }
        }
    }

    fn drop_frame(&mut self, frame: Frame, reason: Drop) {
        self.counters.count_drop(reason);
        self.pool.put(frame);
    }

    fn carries(&self, port: PortId) -> bool {
        self.devices.iter().any(|device| device.carries(port))
    }

    /// Spreads the workers without a queue over those that have one.
    fn uplink_owner(&self, port: PortId) -> Option<WorkerId> {
        let (_, owners) = self.uplink_owners.iter().find(|(uplink, _)| *uplink == port)?;
        owners.get(self.id.index() % owners.len().max(1)).copied()
    }
}

#[cfg(test)]
mod tests;
