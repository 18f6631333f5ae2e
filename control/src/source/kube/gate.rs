//! Whether the API server is there, as all watches of this agent know it together.
//!
//! While it answers, requests pass. While it does not, one watch at a time tries, a second or two
//! after the one before; the first answer lets all of them go on at once. So a cluster of thousands
//! of agents asks a server that is away no more than once in a second or two each, at random times,
//! and no agent misses its return for longer.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// An attempt that is silent for longer goes on beside the next one: it may be a long list.
const TURN_MAX: Duration = Duration::from_secs(5);

/// Before the server.
pub(super) struct Gate {
    /// Attempts in a row that brought no answer; 0: the server is there.
    failures: AtomicU32,
    /// Held by the watch whose turn it is; those that wait for it are served in their order.
    turn: Mutex<SmallRng>,
}

impl Gate {
    pub(super) fn new(seed: u64) -> Self {
        Self { failures: AtomicU32::new(0), turn: Mutex::new(SmallRng::seed_from_u64(seed)) }
    }

    /// Makes a request when it is time for it. An error means that nothing came back: an answer
    /// that the server gives is one, whatever it says.
    pub(super) async fn pass<T, E>(
        &self,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if self.is_open() {
            let result = request.await;
            self.learn(result.is_ok(), 0);
            return result;
        }
        let mut turn = Some(self.turn.lock().await);
        let before = self.failures.load(Ordering::Relaxed);
        match turn.as_mut().filter(|_| before > 0) {
            Some(random) => sleep(pause(before, random)).await,
            // Who had the turn before was answered.
            None => turn = None,
        }
        tokio::pin!(request);
        let result = match timeout(TURN_MAX, &mut request).await {
            Ok(result) => result,
            Err(_) => {
                drop(turn.take());
                request.await
            }
        };
        self.learn(result.is_ok(), before);
        result
    }

    fn is_open(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
    }

    /// One more failure counts only if nobody has learned anything since there were `before`: many
    /// that fail together are one.
    fn learn(&self, is_answered: bool, before: u32) {
        match is_answered {
            true => self.failures.store(0, Ordering::Relaxed),
            false => {
                let next = before.saturating_add(1);
                let order = Ordering::Relaxed;
                _ = self.failures.compare_exchange(before, next, order, order);
            }
        }
    }
}

/// Before the next attempt: between half of it and all, as agents must not come together.
fn pause(failures: u32, random: &mut SmallRng) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let pause = (PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX);
    pause.mul_f64(random.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;

    use futures::future::{join_all, select};
    use tokio::time::Instant;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// Streams that ask again until they are answered, of a server that is away until `back`; gives
    /// when anyone asked.
    async fn outage(seed: u64, streams: usize, back: Duration) -> Vec<Duration> {
        let (gate, start, asked) = (Gate::new(seed), Instant::now(), RefCell::new(Vec::new()));
        let stream = async |_| {
            let request = async || {
                asked.borrow_mut().push(start.elapsed());
                sleep(MOMENT).await;
                if start.elapsed() < back { Err(()) } else { Ok(()) }
            };
            while gate.pass(request()).await.is_err() {}
        };
        join_all((0..streams).map(stream)).await;
        asked.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn one_tries_at_a_time_and_all_go_on_together() {
        for seed in 1..200 {
            let back = Duration::from_millis(seed * 97);
            let asked = outage(seed, 10, back).await;
            let (first, rest) = asked.split_at(10);
            assert!(first.iter().all(Duration::is_zero), "who knows nothing tries at once");
            let (tries, others) = rest.split_at(rest.len() - 9);
            for (i, pair) in asked[9..10 + tries.len()].windows(2).enumerate() {
                let (gap, longest) = (pair[1] - pair[0], (PAUSE_MIN * (1 << i)).min(PAUSE_MAX));
                assert!(gap >= longest / 2 && gap <= longest + 3 * MOMENT, "{seed}: {gap:?}");
            }
            let answered = tries[tries.len() - 1] + 2 * MOMENT;
            assert!(answered <= back + PAUSE_MAX + 4 * MOMENT, "{seed}: {answered:?}");
            assert!(others.iter().all(|it| *it <= answered), "{seed}: {others:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_keeps_the_others_for_a_while_only() {
        let gate = Gate::new(1);
        gate.pass(async { Err::<(), ()>(()) }).await.unwrap_err();
        let start = Instant::now();
        let hangs = pin!(gate.pass(std::future::pending::<Result<(), ()>>()));
        let answered = pin!(gate.pass(async { Ok::<(), ()>(()) }));
        select(hangs, answered).await;
        assert!(start.elapsed() <= TURN_MAX + 2 * PAUSE_MIN, "{:?}", start.elapsed());
        assert!(gate.is_open());
    }
}
