//! What a bad link does to frames: a pure state machine over an injected clock and a seeded RNG.
//!
//! Every frame takes the same number of random draws whatever is set, so the n-th frame of a
//! direction meets the same fate for the same seed, and changing one probability moves no other.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Frames that may wait in one direction; more are dropped and counted.
const QUEUE_FRAMES_MAX: usize = 65_536;

/// How long a frame held back for reordering waits for another to overtake it.
const HOLD_MAX: Duration = Duration::from_millis(20);

const DELAY_MAX: Duration = Duration::from_secs(60);

/// What is wrong with a link. The default is a perfect one. Probabilities are 0.0 to 1.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Impairment {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Probability that a frame is sent twice.
    pub duplicate: f64,
    /// Probability that a frame is held back until the next one has overtaken it (or 20 ms).
    pub reorder: f64,
    /// Added to every frame.
    pub delay: Duration,
    /// Up to so much more, evenly distributed, per frame: also reorders.
    pub jitter: Duration,
    /// Nothing gets through; what is already delayed still arrives.
    pub partitioned: bool,
}

impl Impairment {
    pub(crate) fn check(&self) -> Result<()> {
        let probabilities =
            [("loss", self.loss), ("duplicate", self.duplicate), ("reorder", self.reorder)];
        for (what, value) in probabilities {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Impairment { what, value, allowed: "use 0.0 to 1.0" });
            }
        }
        for (what, value) in [("delay", self.delay), ("jitter", self.jitter)] {
            if value > DELAY_MAX {
                let value = value.as_secs_f64();
                return Err(Error::Impairment { what, value, allowed: "use at most 60 s" });
            }
        }
        Ok(())
    }
}

/// What a link did, in frames. Once nothing is waiting,
/// `received + duplicated = forwarded + lost + partitioned + overflowed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub received: u64,
    pub forwarded: u64,
    /// By the probability `loss`.
    pub lost: u64,
    /// Dropped because the link was partitioned.
    pub partitioned: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Frames that got a delay.
    pub delayed: u64,
    /// Frames that left after a frame that came later.
    pub reordered: u64,
    /// Dropped because too many frames were waiting.
    pub overflowed: u64,
    /// Forwarded, but refused by the kernel (interface down).
    pub refused: u64,
    /// Lost by the kernel before the link saw them: the forwarder was too slow.
    pub missed: u64,
}

impl Counters {
    /// Both directions of a link together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            forwarded: self.forwarded + other.forwarded,
            lost: self.lost + other.lost,
            partitioned: self.partitioned + other.partitioned,
            duplicated: self.duplicated + other.duplicated,
            delayed: self.delayed + other.delayed,
            reordered: self.reordered + other.reordered,
            overflowed: self.overflowed + other.overflowed,
            refused: self.refused + other.refused,
            missed: self.missed + other.missed,
        }
    }
}

/// One direction of a bad link: frames go in, and come out late, twice, in another order or never.
#[derive(Debug)]
pub struct Channel<T> {
    impairment: Impairment,
    rng: SmallRng,
    counters: Counters,
    /// By (due time, order of queueing): frames due at one instant keep their order.
    waiting: BTreeMap<(u64, u64), Queued<T>>,
    queued: u64,
    /// A frame that waits to be overtaken, and until when.
    held: Option<(u64, Queued<T>)>,
    /// The latest arrival that has left.
    newest_left: u64,
}

#[derive(Clone, Debug)]
struct Queued<T> {
    arrival: u64,
    frame: T,
}

impl<T: Clone> Channel<T> {
    /// An empty channel.
    #[must_use]
    pub fn new(seed: u64, impairment: Impairment) -> Self {
        Self {
            impairment,
            rng: SmallRng::seed_from_u64(seed),
            counters: Counters::default(),
            waiting: BTreeMap::new(),
            queued: 0,
            held: None,
            newest_left: 0,
        }
    }

    /// From the next frame on.
    pub fn set(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    #[must_use]
    pub fn impairment(&self) -> Impairment {
        self.impairment
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// A frame arrives at `now_ns`.
    pub fn push(&mut self, now_ns: u64, frame: T) {
        let [lose, duplicate, reorder, jitter]: [f64; 4] = self.rng.random();
        let Impairment { loss, delay, .. } = self.impairment;
        self.counters.received += 1;
        if self.impairment.partitioned {
            self.counters.partitioned += 1;
            return;
        }
        if lose < loss {
            self.counters.lost += 1;
            return;
        }
        let delay_ns = nanoseconds(delay + self.impairment.jitter.mul_f64(jitter));
        self.counters.delayed += u64::from(delay_ns > 0);
        let queued = Queued { arrival: self.counters.received, frame };
        let due_ns = now_ns + delay_ns;
        if duplicate < self.impairment.duplicate {
            self.counters.duplicated += 1;
            self.enqueue(due_ns, queued.clone());
        }
        if reorder < self.impairment.reorder && self.held.is_none() {
            self.held = Some((due_ns + nanoseconds(HOLD_MAX), queued));
            return;
        }
        self.enqueue(due_ns, queued);
        if let Some((_, overtaken)) = self.held.take() {
            self.enqueue(due_ns, overtaken);
        }
    }

    /// The next frame that is due at `now_ns`, in the order in which they leave.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<T> {
        if let Some((until_ns, overdue)) = self.held.take_if(|(until_ns, _)| *until_ns <= now_ns) {
            self.enqueue(until_ns, overdue);
        }
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now_ns)?;
        let Queued { arrival, frame } = first.remove();
        self.counters.forwarded += 1;
        self.counters.reordered += u64::from(arrival < self.newest_left);
        self.newest_left = self.newest_left.max(arrival);
        Some(frame)
    }

    /// When `pop_due` will next have something, if nothing more arrives.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        let waiting = self.waiting.keys().next().map(|(due_ns, _)| *due_ns);
        let held = self.held.as_ref().map(|(until_ns, _)| *until_ns);
        waiting.into_iter().chain(held).min()
    }

    fn enqueue(&mut self, due_ns: u64, queued: Queued<T>) {
        if self.waiting.len() >= QUEUE_FRAMES_MAX {
            self.counters.overflowed += 1;
            return;
        }
        self.waiting.insert((due_ns, self.queued), queued);
        self.queued += 1;
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
