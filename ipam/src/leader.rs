//! Who leads, by a Lease (`coordination.k8s.io/v1`): a pure state machine. It is told what the
//! Lease says and what became of writes, and when; it says what to write and whether it leads.
//!
//! Safety rests on durations only, never on anybody's wall clock (as in client-go's
//! `leaderelection`): a candidate takes a Lease over when it has itself *seen* it unchanged for its
//! whole duration. A leader counts from the moment *before* it sent its last successful write, and
//! stops after the shorter renew deadline, so it has stopped before anybody can start.

use std::time::Duration;

/// How long things take. The order must be `retry < renew < lease`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Unchanged for this long, a Lease may be taken over. Whole seconds.
    pub lease: Duration,
    /// A leader that could not renew for this long stops.
    pub renew: Duration,
    /// Between two attempts.
    pub retry: Duration,
}

/// As of the controllers of Kubernetes.
pub const TIMING: Timing = Timing {
    lease: Duration::from_secs(15),
    renew: Duration::from_secs(10),
    retry: Duration::from_secs(2),
};

/// What a Lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who has it; empty: nobody.
    pub holder: String,
    /// How long the holder has it without renewing.
    pub duration: Duration,
    /// How often it went to another holder.
    pub transitions: i32,
    /// Differs with every write: the API server's version of the object.
    pub version: String,
}

/// What to write into the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Who has it from now on.
    pub holder: String,
    /// How often it went to another holder.
    pub transitions: i32,
    /// It changes hands, rather than being renewed.
    pub is_acquisition: bool,
    /// The version that it replaces; `None`: there must be no Lease.
    pub version: Option<String>,
}

/// One of those who want to lead. All times are of one monotonic clock of this process.
#[derive(Debug)]
pub struct Candidate {
    identity: String,
    timing: Timing,
    /// The Lease as last seen, and when it was first seen so.
    seen: Option<(Record, Duration)>,
    /// When the last successful write was sent, while leading.
    renewed_at: Option<Duration>,
}

impl Candidate {
    /// `identity` differs between processes, also between those before and after a restart.
    #[must_use]
    pub fn new(identity: String, timing: Timing) -> Self {
        assert!(timing.retry < timing.renew && timing.renew < timing.lease, "{timing:?}");
        Self { identity, timing, seen: None, renewed_at: None }
    }

    /// Its name in the Lease.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes what the Lease says (`None`: there is none) and answers with what to write, if
    /// anything. A leader who finds another holder stops leading.
    pub fn observe(&mut self, record: Option<Record>, now: Duration) -> Option<Write> {
        let Some(record) = record else {
            self.seen = None;
            // Somebody deleted it. Another may create it at any time.
            self.renewed_at = None;
            return Some(self.write(0, true, None));
        };
        let is_news = self.seen.as_ref().is_none_or(|(seen, _)| *seen != record);
        if is_news {
            self.seen = Some((record.clone(), now));
        }
        let seen_at = self.seen.as_ref().map_or(now, |(_, at)| *at);
        let is_own = record.holder == self.identity;
        if !is_own {
            self.renewed_at = None;
        }
        if is_own && self.is_leader(now) {
            return Some(self.write(record.transitions, false, Some(record.version)));
        }
        // The holder's own promise counts as well, should it be configured otherwise.
        let duration = record.duration.max(self.timing.lease);
        let is_free = record.holder.is_empty() || is_own || now >= seen_at + duration;
        is_free.then(|| {
            let transitions = record.transitions.saturating_add(1);
            self.write(transitions, true, Some(record.version))
        })
    }

    fn write(&self, transitions: i32, is_acquisition: bool, version: Option<String>) -> Write {
        Write { holder: self.identity.clone(), transitions, is_acquisition, version }
    }

    /// A write that was sent at `sent_at` succeeded.
    pub fn note_written(&mut self, sent_at: Duration) {
        self.renewed_at = self.renewed_at.max(Some(sent_at));
    }

    /// Whether it may act.
    #[must_use]
    pub fn is_leader(&self, now: Duration) -> bool {
        self.deadline().is_some_and(|it| now < it)
    }

    /// When it must have stopped acting, unless it renews.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.renewed_at.map(|it| it + self.timing.renew)
    }

    /// Gives up leading. Returns what to write, if the Lease is its own, so that the next one need
    /// not wait.
    pub fn release(&mut self, record: Option<Record>) -> Option<Write> {
        self.renewed_at = None;
        let record = record.filter(|it| it.holder == self.identity)?;
        let (holder, transitions) = (String::new(), record.transitions);
        Some(Write { holder, transitions, is_acquisition: false, version: Some(record.version) })
    }
}
