//! What the client knows about its connections, and how it says so.

use std::{cell::RefCell, collections::BTreeMap};

use serde::Serialize;

/// Of different reasons for broken connections that are told apart.
const REASONS_MAX: usize = 8;

/// One line of output: everything is since the start, but for `second_gap_ms`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Milliseconds since the client started.
    pub elapsed_ms: u64,
    /// Seconds since 1970, to set beside what happened elsewhere.
    pub unix_seconds: u64,
    /// Connections that were made.
    pub opened: u32,
    /// Connections that ended: reset, silent for too long, or with wrong data.
    pub broken: u32,
    /// Records that came back.
    pub records: u64,
    /// The longest time between two records of one connection.
    pub longest_gap_ms: u64,
    /// The longest gap of any connection that ended within the last second or still lasts.
    pub second_gap_ms: u64,
    /// Why connections broke, and how many.
    pub reasons: BTreeMap<String, u32>,
}

/// The state that all connections of the one thread share.
#[derive(Debug, Default)]
pub struct Shared {
    status: RefCell<Status>,
    /// When each open connection heard last, in milliseconds since the start.
    heard_ms: RefCell<BTreeMap<u32, u64>>,
}

impl Shared {
    /// A connection is there.
    pub fn open(&self, connection: u32, now_ms: u64) {
        self.status.borrow_mut().opened += 1;
        self.heard_ms.borrow_mut().insert(connection, now_ms);
    }

    /// A record came back.
    pub fn hear(&self, connection: u32, now_ms: u64) {
        let before = self.heard_ms.borrow_mut().insert(connection, now_ms).unwrap_or(now_ms);
        let gap = now_ms.saturating_sub(before);
        let mut status = self.status.borrow_mut();
        status.records += 1;
        status.longest_gap_ms = status.longest_gap_ms.max(gap);
        status.second_gap_ms = status.second_gap_ms.max(gap);
    }

    /// When a connection heard last.
    pub fn heard_ms(&self, connection: u32) -> u64 {
        self.heard_ms.borrow().get(&connection).copied().unwrap_or_default()
    }

    /// A connection ended, which it never should.
    pub fn break_off(&self, connection: u32, reason: String) {
        self.heard_ms.borrow_mut().remove(&connection);
        let mut status = self.status.borrow_mut();
        status.broken += 1;
        let is_known = status.reasons.contains_key(&reason);
        let is_full = !is_known && status.reasons.len() >= REASONS_MAX;
        let reason = if is_full { "others".to_owned() } else { reason };
        *status.reasons.entry(reason).or_default() += 1;
    }

    /// Gives the status of now, and begins the next second.
    pub fn take(&self, now_ms: u64, unix_seconds: u64) -> Status {
        let lasting = self.heard_ms.borrow().values().min().map_or(0, |heard| now_ms - heard);
        let mut status = self.status.borrow_mut();
        status.elapsed_ms = now_ms;
        status.unix_seconds = unix_seconds;
        status.longest_gap_ms = status.longest_gap_ms.max(lasting);
        status.second_gap_ms = status.second_gap_ms.max(lasting);
        let taken = status.clone();
        status.second_gap_ms = 0;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_count_while_they_last_and_when_they_end() {
        let shared = Shared::default();
        shared.open(1, 0);
        shared.open(2, 0);
        shared.hear(1, 20);
        shared.hear(2, 20);
        shared.hear(1, 990);
        let lasting = shared.take(1000, 7);
        assert_eq!((lasting.second_gap_ms, lasting.longest_gap_ms), (980, 980));
        shared.hear(2, 1220);
        shared.hear(1, 1230);
        let over = shared.take(1300, 8);
        assert_eq!((over.second_gap_ms, over.longest_gap_ms), (1200, 1200));
        shared.hear(1, 1310);
        shared.hear(2, 1310);
        assert_eq!(shared.take(1320, 9).second_gap_ms, 90);
        assert_eq!(shared.take(1320, 9).longest_gap_ms, 1200);
    }

    #[test]
    fn broken_connections_are_counted_by_reason_and_no_longer_waited_for() {
        let shared = Shared::default();
        for connection in 0..20 {
            shared.open(connection, 0);
            shared.break_off(connection, format!("reason {}", connection.min(10)));
        }
        let status = shared.take(50_000, 1);
        assert_eq!((status.opened, status.broken, status.second_gap_ms), (20, 20, 0));
        assert_eq!(status.reasons.len(), REASONS_MAX + 1);
        assert_eq!(status.reasons.values().sum::<u32>(), 20);
    }
}
