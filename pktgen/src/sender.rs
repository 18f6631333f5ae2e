//! The sending half: keeps a schedule.

use std::sync::atomic::{AtomicBool, Ordering};

use weir_dataplane::batch::BURST;

use crate::clock::{now_ns, sleep_until};
use crate::latency::Latencies;
use crate::message::Message;
use crate::schedule::Schedule;
use crate::template::PacketTemplate;
use crate::wire::Wire;

/// How long after its schedule a sender still sends what it is late with.
const GRACE_NS: u64 = 1_000_000_000;

/// How long the wire may take to send what it has.
const DRAIN_NS: u64 = 1_000_000_000;

/// How long a sleeping sender does not see that it should stop.
const SLEEP_MAX_NS: u64 = 50_000_000;

/// Sends the packets of one run.
pub struct Sender<'a> {
    template: &'a PacketTemplate,
    schedule: Schedule,
    run: u32,
    /// Waits this long before a packet is due by looking at the clock, to be on time.
    spin_ns: u64,
    next: u64,
    ended_ns: Option<u64>,
    /// By how much packets left later than intended.
    pub lateness: Latencies,
}

impl<'a> Sender<'a> {
    /// Will send `schedule`'s packets as run number `run`.
    pub fn new(
        template: &'a PacketTemplate,
        schedule: Schedule,
        run: u32,
        spin_ns: u64,
    ) -> Sender<'a> {
        Sender {
            template,
            schedule,
            run,
            spin_ns,
            next: 0,
            ended_ns: None,
            lateness: Latencies::new(),
        }
    }

    /// Sends what is due, one burst at most. A packet that finds no room stays due.
    pub fn send_due(&mut self, wire: &mut Wire) {
        let flows = u64::from(self.template.spec().flows);
        let due = self.schedule.due_count(now_ns()).min(self.next + BURST as u64);
        while self.next < due {
            let (seq, intended_ns, sent_ns) =
                (self.next, self.schedule.due_ns(self.next), now_ns());
            let flow = (seq % flows) as u32;
            let message = Message { run: self.run, flow, seq, intended_ns, sent_ns };
            let template = self.template;
            if !wire.send(template.frame(), |frame| template.write(frame, &message)) {
                return;
            }
            self.lateness.record(sent_ns.saturating_sub(intended_ns));
            self.next += 1;
        }
    }

    /// Whether there is nothing more to send, or no time left for it.
    pub fn is_done(&self) -> bool {
        self.next >= self.schedule.packets() || now_ns() > self.schedule.end_ns() + GRACE_NS
    }

    /// When to wake for the next packet.
    pub fn wake_ns(&self) -> u64 {
        self.schedule.due_ns(self.next).saturating_sub(self.spin_ns)
    }

    /// Packets given to the wire.
    pub fn accepted(&self) -> u64 {
        self.next
    }

    /// Notes that nothing more will be sent.
    pub fn end(&mut self) {
        self.ended_ns.get_or_insert_with(now_ns);
    }

    /// Packets that were to leave: all, or, where the schedule was cut short, what had left by
    /// then.
    pub fn offered(&self) -> u64 {
        if self.was_cut_short() { self.next } else { self.schedule.packets() }
    }

    /// Whether it was ended before its schedule was over.
    pub fn was_cut_short(&self) -> bool {
        let ended = self.ended_ns.unwrap_or_else(now_ns);
        self.next < self.schedule.packets() && ended < self.schedule.end_ns()
    }

    /// From the first to the end of the last packet's turn, or to where it was cut short.
    pub fn elapsed_ns(&self) -> u64 {
        let ended = self.ended_ns.unwrap_or_else(now_ns);
        let is_complete = self.next >= self.schedule.packets();
        let end = if is_complete { ended.max(self.schedule.end_ns()) } else { ended };
        end.saturating_sub(self.schedule.due_ns(0))
    }

    /// Sends everything, then waits until the wire has taken it. Ends early when `stop` is set.
    pub fn run(&mut self, wire: &mut Wire, stop: &AtomicBool) {
        while !self.is_done() && !stop.load(Ordering::Relaxed) {
            self.send_due(wire);
            wire.flush();
            let (now, wake) = (now_ns(), self.wake_ns());
            if now < wake {
                sleep_until(wake.min(now + SLEEP_MAX_NS));
            }
        }
        self.end();
        let end = now_ns() + DRAIN_NS;
        while !wire.is_idle(wire.lent_for_receiving()) && now_ns() < end {
            wire.flush();
        }
    }
}
