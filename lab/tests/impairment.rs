//! The impairment state machine: deterministic by seed, true to its probabilities, losing count of
//! nothing. Pure: a simulated clock, no network.

use std::time::Duration;

use weir_lab::{Channel, Counters, Impairment};

const STEP_NS: u64 = 1_000;

/// Sends frames 0..count, one each microsecond, until all have left: (when, which), and the counts.
fn run(seed: u64, impairment: Impairment, count: u64) -> (Vec<(u64, u64)>, Counters) {
    let mut channel = Channel::new(seed, impairment);
    let mut left = Vec::new();
    for frame in 0..count {
        let now_ns = frame * STEP_NS;
        channel.push(now_ns, frame);
        drain(&mut channel, now_ns, &mut left);
    }
    while let Some(due_ns) = channel.next_due_ns() {
        drain(&mut channel, due_ns, &mut left);
    }
    (left, channel.counters())
}

fn drain(channel: &mut Channel<u64>, now_ns: u64, left: &mut Vec<(u64, u64)>) {
    while let Some(frame) = channel.pop_due(now_ns) {
        left.push((now_ns, frame));
    }
}

fn everything_wrong() -> Impairment {
    Impairment {
        loss: 0.1,
        duplicate: 0.05,
        reorder: 0.02,
        delay: Duration::from_micros(300),
        jitter: Duration::from_micros(50),
        partitioned: false,
    }
}

fn assert_whole(counters: Counters) {
    let Counters { received, forwarded, lost, partitioned, duplicated, overflowed, .. } = counters;
    assert_eq!(received + duplicated, forwarded + lost + partitioned + overflowed, "{counters:?}");
}

#[test]
fn a_perfect_channel_changes_nothing() {
    let (left, counters) = run(1, Impairment::default(), 10_000);
    let expected: Vec<_> = (0..10_000).map(|frame| (frame * STEP_NS, frame)).collect();
    assert_eq!(left, expected);
    let wanted = Counters { received: 10_000, forwarded: 10_000, ..Default::default() };
    assert_eq!(counters, wanted);
}

#[test]
fn one_seed_gives_one_history() {
    let first = run(42, everything_wrong(), 20_000);
    assert_eq!(first, run(42, everything_wrong(), 20_000));
    assert_ne!(first, run(43, everything_wrong(), 20_000));
    assert_whole(first.1);
}

#[test]
fn loss_and_duplication_come_at_the_rates_asked_for() {
    let count = 100_000;
    for rate in [0.001, 0.1, 0.5] {
        let impairment = Impairment { loss: rate, duplicate: rate, ..Default::default() };
        let (left, counters) = run(7, impairment, count);
        assert_whole(counters);
        assert_eq!(left.len() as u64, counters.forwarded);
        // Five standard deviations of a binomial count: fails by chance once in a million seeds.
        let near = |observed: u64, of: u64| {
            let (of, observed) = (of as f64, observed as f64);
            (observed - of * rate).abs() < 5.0 * (of * rate * (1.0 - rate)).sqrt()
        };
        assert!(near(counters.lost, count), "loss {rate}: {counters:?}");
        let survived = count - counters.lost;
        assert!(near(counters.duplicated, survived), "duplicate {rate}: {counters:?}");
    }
}

#[test]
fn which_frames_are_lost_does_not_depend_on_the_rest() {
    let only_loss = Impairment { loss: 0.1, ..Default::default() };
    let survivors = |impairment| {
        let mut frames: Vec<_> =
            run(5, impairment, 5_000).0.into_iter().map(|(_, frame)| frame).collect();
        frames.sort_unstable();
        frames.dedup();
        frames
    };
    assert_eq!(survivors(only_loss), survivors(everything_wrong()));
}

#[test]
fn reordering_reorders_and_says_how_often() {
    let impairment = Impairment { reorder: 0.1, ..Default::default() };
    let (left, counters) = run(3, impairment, 10_000);
    assert_whole(counters);
    let mut newest = 0;
    let mut late = 0;
    for (_, frame) in &left {
        late += u64::from(*frame < newest);
        newest = newest.max(*frame);
    }
    assert!((800..1200).contains(&late), "{late} of 10000 overtaken");
    assert_eq!(counters.reordered, late);
    let mut frames: Vec<_> = left.into_iter().map(|(_, frame)| frame).collect();
    frames.sort_unstable();
    assert!(frames.into_iter().eq(0..10_000), "nothing else happened to them");
}

#[test]
fn a_held_frame_leaves_alone_when_nothing_overtakes_it() {
    let mut channel = Channel::new(1, Impairment { reorder: 1.0, ..Default::default() });
    channel.push(0, "last words");
    assert_eq!(channel.pop_due(0), None);
    let due_ns = channel.next_due_ns().unwrap();
    assert_eq!(due_ns, 20_000_000);
    assert_eq!(channel.pop_due(due_ns), Some("last words"));
    assert_eq!(channel.next_due_ns(), None);
    assert_eq!(channel.counters().reordered, 0);
}

#[test]
fn delay_and_jitter_stay_within_their_bounds() {
    let delay = Duration::from_micros(300);
    let jitter = Duration::from_micros(50);
    let (left, counters) = run(9, Impairment { delay, jitter, ..Default::default() }, 10_000);
    assert_eq!(counters.delayed, 10_000);
    let mut waited = left.iter().map(|(when_ns, frame)| when_ns - frame * STEP_NS);
    // A frame leaves when it is looked for: up to one step late.
    assert!(waited.all(|ns| (300_000..=350_000 + STEP_NS).contains(&ns)));
    assert!(counters.reordered > 1000, "50 us of jitter on frames 1 us apart: {counters:?}");
}

#[test]
fn a_partition_stops_everything_until_it_heals() {
    let mut channel = Channel::new(1, Impairment::default());
    channel.set(Impairment { partitioned: true, ..Default::default() });
    (0..100).for_each(|frame| channel.push(0, frame));
    assert_eq!((channel.pop_due(u64::MAX), channel.counters().partitioned), (None, 100));
    channel.set(Impairment::default());
    channel.push(1, 100);
    assert_eq!(channel.pop_due(1), Some(100));
    assert_whole(channel.counters());
}

#[test]
fn a_full_channel_drops_and_counts() {
    let delay = Duration::from_secs(1);
    let mut channel = Channel::new(1, Impairment { delay, ..Default::default() });
    (0..65_536 + 10).for_each(|frame| channel.push(0, frame));
    assert_eq!(channel.counters().overflowed, 10);
    let mut left = Vec::new();
    drain(&mut channel, 1_000_000_000, &mut left);
    assert_eq!(left.len(), 65_536);
    assert_whole(channel.counters());
}
