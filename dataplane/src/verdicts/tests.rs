//! Counts are right while they are read and forgotten, and the last verdicts are the last ones.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use weir_tables::policy::L4Protocol;

use super::*;

fn event(port: u32, rule: u32, kind: VerdictKind) -> VerdictEvent {
    VerdictEvent {
        at_ms: 0,
        revision: 1,
        endpoint: PortId(port),
        direction: Direction::Ingress,
        kind,
        rule: RuleId(rule),
        key: FlowKey::default(),
        peer: IdentityId(256),
        l4: L4 { protocol: L4Protocol::Tcp, port: 80 },
    }
}

fn count_of(log: &VerdictLog, event: &VerdictEvent) -> u64 {
    let counts = log.counts().into_iter();
    let same = |it: &VerdictCount| {
        (it.endpoint, it.direction, it.kind, it.rule)
            == (event.endpoint, event.direction, event.kind, event.rule)
    };
    counts.filter(same).map(|it| it.count).sum()
}

#[test]
fn verdicts_are_counted_by_endpoint_direction_kind_and_rule() {
    let log = VerdictLog::new();
    let allowed = event(3, 7, VerdictKind::Allowed);
    let denied = VerdictEvent { direction: Direction::Egress, ..event(3, 0, VerdictKind::Denied) };
    let widest = event(i32::MAX as u32, u32::MAX, VerdictKind::Redirected);
    for (event, times) in [(allowed, 3), (denied, 2), (widest, 1)] {
        (0..times).for_each(|_| log.record(&event));
        assert_eq!(count_of(&log, &event), times);
    }
    assert_eq!((log.counts().len(), log.rows_used(), log.uncounted()), (3, 3, 0));
    let totals: Vec<_> = log.totals().filter(|total| total.2 > 0).collect();
    let expected = [
        (Direction::Ingress, VerdictKind::Allowed, 3),
        (Direction::Ingress, VerdictKind::Redirected, 1),
        (Direction::Egress, VerdictKind::Denied, 2),
    ];
    assert_eq!(totals, expected);
}

#[test]
fn what_is_forgotten_makes_room_and_starts_again_from_zero() {
    let log = VerdictLog::new();
    for round in 0..40 {
        let (old, new) = (100 + round, 101 + round);
        for rule in 0..1000 {
            log.record(&event(new, rule, VerdictKind::Denied));
        }
        log.forget(PortId(old));
        assert!(log.counts().iter().all(|it| it.endpoint == PortId(new) && it.count == 1));
        assert_eq!(log.rows_used(), 1000);
    }
    assert_eq!(log.uncounted(), 0, "rows are used again");
    let again = event(140, 5, VerdictKind::Denied);
    log.forget(PortId(140));
    log.record(&again);
    assert_eq!(count_of(&log, &again), 1);
}

#[test]
fn a_full_table_counts_what_it_cannot_hold() {
    let log = VerdictLog::new();
    let events = 2 * ROWS as u32;
    for rule in 0..events {
        log.record(&event(9, rule, VerdictKind::Allowed));
    }
    assert!(log.rows_used() > ROWS * 9 / 10, "{}", log.rows_used());
    assert_eq!(log.rows_used() as u64 + log.uncounted(), u64::from(events));
    let total: u64 = log.totals().map(|total| total.2).sum();
    assert_eq!(total, u64::from(events));
}

#[test]
fn the_last_verdicts_come_in_order_and_denials_are_not_pushed_out() {
    let log = VerdictLog::new();
    // The clock wraps in between.
    let start = u32::MAX - 1000;
    let denied = VerdictEvent { at_ms: start, ..event(1, 2, VerdictKind::Denied) };
    log.record(&denied);
    for number in 1..=2 * RECENT as u32 {
        let at_ms = start.wrapping_add(number);
        log.record(&VerdictEvent { at_ms, ..event(1, 3, VerdictKind::Allowed) });
    }
    let recent = log.drain_recent();
    assert_eq!((recent.len(), recent[0]), (RECENT + 1, denied));
    let since = |event: &VerdictEvent| event.at_ms.wrapping_sub(start);
    assert!(recent.is_sorted_by_key(since));
    assert_eq!(since(&recent[RECENT]), 2 * RECENT as u32);
    assert!(log.drain_recent().is_empty(), "they are taken once");
}

#[test]
fn one_thread_writes_while_another_reads_and_forgets() {
    const VERDICTS: u64 = 200_000;
    let log = VerdictLog::new();
    let is_done = AtomicBool::new(false);
    let stays = event(1, 1, VerdictKind::Allowed);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for number in 0..VERDICTS {
                log.record(&stays);
                log.record(&event(2, (number % 5000) as u32, VerdictKind::Denied));
            }
            is_done.store(true, Ordering::Release);
        });
        let (mut last, mut rounds) = (0, 0_u64);
        while !is_done.load(Ordering::Acquire) {
            log.forget(PortId(2));
            let counts = log.counts();
            let mut seen = BTreeMap::new();
            for it in &counts {
                let id = (it.endpoint, it.direction, it.kind, it.rule);
                assert!(seen.insert(id, it.count).is_none(), "{it:?} has one row");
            }
            let now = count_of(&log, &stays);
            assert!(now >= last, "counts only rise");
            for recent in log.drain_recent() {
                assert!(recent == stays || recent.endpoint == PortId(2), "{recent:?}");
            }
            (last, rounds) = (now, rounds + 1);
        }
        println!("{rounds} rounds");
    });
    assert_eq!(count_of(&log, &stays), VERDICTS);
    assert_eq!(log.uncounted(), 0);
    log.forget(PortId(2));
    assert_eq!(log.counts().len(), 1);
}
