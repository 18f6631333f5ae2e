//! The account of a run: every packet sent was received, or some counter says where it was lost.
//!
//! Counters of the kernel and of weir count other traffic too, so they bound a loss from above:
//! what is counted beyond the loss is shown as `others`. A loss beyond what is counted is
//! *unexplained*, and the run has failed: either something loses packets in silence, or the
//! measurement is wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counters by name, as read at one moment.
pub type Counters = BTreeMap<String, u64>;

/// What rose between two readings, by how much. A counter that is new rose from zero; one that fell
/// belongs to a process that started anew, and counts from zero.
pub fn risen(before: &Counters, after: &Counters) -> Counters {
    let rise = |(name, now): (&String, &u64)| {
        let was = before.get(name).copied().unwrap_or(0);
        let by = now.checked_sub(was).unwrap_or(*now);
        (by > 0).then(|| (name.clone(), by))
    };
    after.iter().filter_map(rise).collect()
}

/// One run in numbers of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What the schedule asked for.
    pub offered: u64,
    /// What the interface took.
    pub sent: u64,
    /// Different packets that came whole.
    pub received: u64,
    /// What says that it lost packets meanwhile.
    pub losses: Counters,
}

/// Why a run failed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// No packet left.
    #[error("nothing was sent")]
    NothingSent,
    /// The generator was too slow, or the interface refused packets.
    #[error(
        "only {sent} of {offered} packets could be sent: the rate is beyond the generator or the \
         receiving end of its interface"
    )]
    Shortfall { offered: u64, sent: u64 },
    /// The account does not close.
    #[error(
        "{packets} packets ({percent:.3} % of what was sent) are missing and nothing says where \
         they were lost: sent {sent} = received {received} + counted losses {counted} + {packets}"
    )]
    Unexplained { packets: u64, percent: f64, sent: u64, received: u64, counted: u64 },
    /// The account does not close the other way.
    #[error("{packets} more packets were received than sent: sent {sent}, received {received}")]
    Excess { packets: u64, sent: u64, received: u64 },
    /// Every loss is counted, but there are too many.
    #[error("{missing} packets lost ({ratio:.6} of what was sent), more than {max}")]
    Loss { missing: u64, ratio: f64, max: f64 },
}

impl Account {
    /// Sent but not received.
    pub fn missing(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// All counted losses.
    pub fn counted(&self) -> u64 {
        self.losses.values().sum()
    }

    /// Missing beyond what is counted.
    pub fn unexplained(&self) -> u64 {
        self.missing().saturating_sub(self.counted())
    }

    /// Counted beyond what is missing: losses of other traffic, or counted in two places.
    pub fn others(&self) -> u64 {
        self.counted().saturating_sub(self.missing())
    }

    /// Missing as a part of sent, from 0 to 1.
    pub fn loss_ratio(&self) -> f64 {
        ratio(self.missing(), self.sent)
    }

    /// Everything that is wrong with the run, where at most `max_loss` (0 to 1) of what was offered
    /// may not be sent, and of what was sent may be lost.
    pub fn failures(&self, max_loss: f64) -> Vec<Failure> {
        let Account { offered, sent, received, .. } = *self;
        if sent == 0 {
            return vec![Failure::NothingSent];
        }
        let mut failures = Vec::new();
        if ratio(offered.saturating_sub(sent), offered) > max_loss {
            failures.push(Failure::Shortfall { offered, sent });
        }
        let (missing, packets) = (self.missing(), self.unexplained());
        if packets > 0 {
            let (percent, counted) = (ratio(packets, sent) * 100.0, self.counted());
            failures.push(Failure::Unexplained { packets, percent, sent, received, counted });
        }
        if received > sent {
            failures.push(Failure::Excess { packets: received - sent, sent, received });
        }
        if self.loss_ratio() > max_loss {
            failures.push(Failure::Loss { missing, ratio: self.loss_ratio(), max: max_loss });
        }
        failures
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(sent: u64, received: u64, losses: &[(&str, u64)]) -> Account {
        let losses = losses.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Account { offered: sent.max(100), sent, received, losses }
    }

    #[test]
    fn a_whole_run_closes() {
        assert_eq!(account(100, 100, &[]).failures(0.0), []);
    }

    #[test]
    fn a_counted_loss_closes_and_its_size_decides() {
        let account = account(100, 97, &[("rx_ring_full", 2), ("weir egress_full", 1)]);
        assert_eq!((account.missing(), account.unexplained(), account.others()), (3, 0, 0));
        assert_eq!(account.failures(0.03), []);
        assert_eq!(account.failures(0.02), [Failure::Loss { missing: 3, ratio: 0.03, max: 0.02 }]);
    }

    #[test]
    fn an_uncounted_loss_fails_whatever_is_allowed_and_names_the_gap() {
        let failures = account(100, 90, &[("rx_ring_full", 4)]).failures(1.0);
        let [failure] = failures[..] else { panic!("{failures:?}") };
        assert!(matches!(failure, Failure::Unexplained { packets: 6, counted: 4, .. }));
        let text = failure.to_string();
        assert!(text.starts_with("6 packets (6.000 % of what was sent) are missing"), "{text}");
    }

    #[test]
    fn losses_of_others_do_not_hurt_but_packets_from_nowhere_do() {
        let closed = account(100, 99, &[("node:eth0 rx_dropped", 5)]);
        assert_eq!((closed.others(), closed.failures(0.01)), (4, vec![]));
        let excess = Failure::Excess { packets: 1, sent: 100, received: 101 };
        assert_eq!(account(100, 101, &[]).failures(1.0), [excess]);
    }

    #[test]
    fn a_generator_that_did_not_send_fails() {
        assert_eq!(account(0, 0, &[]).failures(1.0), [Failure::NothingSent]);
        let short = account(80, 80, &[]);
        assert_eq!(short.failures(0.1), [Failure::Shortfall { offered: 100, sent: 80 }]);
        assert_eq!(short.failures(0.2), []);
    }

    #[test]
    fn counters_that_start_anew_count_from_zero() {
        let counters = |entries: &[(&str, u64)]| -> Counters {
            entries.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let before = counters(&[("same", 5), ("rose", 5), ("fell", 5), ("gone", 5)]);
        let after = counters(&[("same", 5), ("rose", 8), ("fell", 2), ("new", 1)]);
        assert_eq!(risen(&before, &after), counters(&[("rose", 3), ("fell", 2), ("new", 1)]));
    }
}
