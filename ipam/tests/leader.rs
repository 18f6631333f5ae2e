//! Elections between candidates that know nothing of each other but the Lease.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::time::Duration;

use proptest::prelude::*;
use weir_ipam::leader::{Candidate, Record, TIMING, Write};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The API server's half: one object with optimistic locking.
#[derive(Debug, Default)]
struct Store {
    record: Option<Record>,
    version: u64,
}

impl Store {
    /// Says whether the write was taken.
    fn write(&mut self, write: &Write) -> bool {
        let version = self.record.as_ref().map(|it| it.version.clone());
        if version != write.version {
            return false;
        }
        self.version += 1;
        self.record = Some(Record {
            holder: write.holder.clone(),
            duration: TIMING.lease,
            transitions: write.transitions,
            version: self.version.to_string(),
        });
        true
    }

    /// One attempt of a candidate with the whole exchange at one time.
    fn attempt(&mut self, candidate: &mut Candidate, now: Duration) {
        if let Some(write) = candidate.observe(self.record.clone(), now)
            && self.write(&write)
        {
            candidate.note_written(now);
        }
    }
}

fn pair() -> (Store, Candidate, Candidate) {
    let new = |name: &str| Candidate::new(name.into(), TIMING);
    (Store::default(), new("a"), new("b"))
}

#[test]
fn the_first_leads_while_it_renews() {
    let (mut store, mut a, mut b) = pair();
    for second in (0..600).step_by(2) {
        store.attempt(&mut a, s(second));
        store.attempt(&mut b, s(second + 1));
        assert!(a.is_leader(s(second)) && !b.is_leader(s(second + 1)), "at {second}");
    }
    let record = store.record.unwrap();
    assert_eq!((record.holder.as_str(), record.transitions), ("a", 0));
}

#[test]
fn a_leader_that_cannot_renew_has_stopped_before_another_starts() {
    let (mut store, mut a, mut b) = pair();
    store.attempt(&mut a, s(0));
    // b hears of it at once: the worst case.
    let mut second = 0;
    while !b.is_leader(s(second)) {
        store.attempt(&mut b, s(second));
        assert!(!(a.is_leader(s(second)) && b.is_leader(s(second))), "two at {second}");
        second += 1;
    }
    assert_eq!(second - 1, 15);
    assert!(a.is_leader(s(9)) && !a.is_leader(s(10)));
    // Back again, it sees that it is not alone.
    store.attempt(&mut a, s(16));
    assert!(!a.is_leader(s(16)));
    assert_eq!(store.record.unwrap().transitions, 1);
}

#[test]
fn time_counts_from_what_a_candidate_has_seen_itself() {
    let (mut store, mut a, mut b) = pair();
    store.attempt(&mut a, s(0));
    // b starts much later, or its clock is far ahead: that says nothing about the holder.
    for second in 100_000..100_015 {
        store.attempt(&mut b, s(second));
        assert!(!b.is_leader(s(second)));
    }
    store.attempt(&mut b, s(100_015));
    assert!(b.is_leader(s(100_015)));
}

#[test]
fn a_holder_with_a_longer_promise_is_waited_for() {
    let (mut store, _, mut b) = pair();
    let holder = "other".to_owned();
    let record = Record { holder, duration: s(60), transitions: 4, version: "0".into() };
    store.record = Some(record);
    for second in 0..60 {
        store.attempt(&mut b, s(second));
    }
    assert!(!b.is_leader(s(59)));
    store.attempt(&mut b, s(60));
    assert!(b.is_leader(s(60)));
}

#[test]
fn a_write_that_was_sent_long_ago_counts_from_then() {
    let (mut store, mut a, _) = pair();
    let write = a.observe(None, s(0)).unwrap();
    assert!(store.write(&write));
    a.note_written(s(0));
    assert!(!a.is_leader(s(10)), "the answer came after the deadline");
    // It is its own all the same, and may be had again at once.
    store.attempt(&mut a, s(11));
    assert!(a.is_leader(s(11)));
}

#[test]
fn who_releases_makes_room_at_once() {
    let (mut store, mut a, mut b) = pair();
    store.attempt(&mut a, s(0));
    store.attempt(&mut b, s(1));
    let write = a.release(store.record.clone()).unwrap();
    assert!(store.write(&write) && !a.is_leader(s(1)));
    store.attempt(&mut b, s(2));
    assert!(b.is_leader(s(2)));
    assert_eq!(a.release(store.record.clone()), None, "what is another's stays");
}

#[test]
fn whoever_was_slower_does_not_lead() {
    let (mut store, mut a, mut b) = pair();
    let (first, second) = (a.observe(None, s(0)).unwrap(), b.observe(None, s(0)).unwrap());
    assert!(store.write(&first) && !store.write(&second));
    a.note_written(s(0));
    assert!(a.is_leader(s(1)) && !b.is_leader(s(1)));
}

/// Who moves, after how long, what becomes of its request, and how long that takes.
fn steps() -> impl Strategy<Value = Vec<(usize, u64, u8, u64)>> {
    proptest::collection::vec((0_usize..3, 0_u64..3_000, 0_u8..8, 0_u64..4_000), 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Candidates with clocks of their own, which start anywhere; requests and answers that are
    /// lost or late; pauses. Never do two lead.
    #[test]
    fn never_do_two_lead(
        offsets in proptest::array::uniform3(0_u64..100_000),
        steps in steps(),
    ) {
        let mut store = Store::default();
        let mut candidates: Vec<Candidate> =
            ["a", "b", "c"].map(|it| Candidate::new(it.into(), TIMING)).into_iter().collect();
        let mut time_ms = 0;
        let at = |i: usize, time_ms: u64| Duration::from_millis(offsets[i] + time_ms);
        for (i, pause_ms, fate, delay_ms) in steps {
            time_ms += pause_ms;
            let sent_at = at(i, time_ms);
            let write = candidates[i].observe(store.record.clone(), sent_at);
            // The request takes its time, and so does the answer: nobody else moves meanwhile,
            // but time does.
            time_ms += delay_ms;
            if let Some(write) = write {
                let is_taken = fate != 0 && store.write(&write);
                if is_taken && fate != 1 {
                    candidates[i].note_written(sent_at);
                }
            }
            let leaders: Vec<usize> =
                (0..3).filter(|it| candidates[*it].is_leader(at(*it, time_ms))).collect();
            prop_assert!(leaders.len() <= 1, "{:?} lead at {} ms", leaders, time_ms);
        }
    }
}
