//! What the dataplane has been told, what it answered, and what to tell it next. No I/O.
//!
//! One update is under way at a time; what changes meanwhile gathers and goes with the next one, so
//! a slow dataplane sees fewer and larger updates instead of a longer queue.

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;
use weir_api::v1::{Object, Update, Verdict};

use crate::desired::{Changes, DesiredKey};

/// An answer that does not fit what was sent; the stream must be closed and opened again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError {
    /// Not the revision under way.
    #[error("the dataplane answered revision {got}, but {expected} was sent")]
    Gap {
        /// In the answer.
        got: u64,
        /// Under way.
        expected: u64,
    },
    /// Nothing was under way.
    #[error("the dataplane answered revision {0}, but nothing was sent")]
    Unasked(u64),
}

/// An accepted answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The revision that all workers run.
    pub revision: u64,
    /// It carried the full state.
    pub is_resync: bool,
    /// Objects in it, deletes included.
    pub objects: usize,
    /// From sending to the answer.
    pub took: Duration,
    /// Newly refused, for the log.
    pub refused: Vec<(String, String)>,
}

/// The agent's side of the state protocol.
#[derive(Debug)]
pub struct Publisher {
    stream: Stream,
    pending: Changes,
    in_flight: Option<InFlight>,
    sent_revision: u64,
    acknowledged_revision: u64,
    refused: BTreeMap<DesiredKey, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Closed,
    /// Open, and nothing sent on it yet.
    Fresh,
    Synced,
}

#[derive(Debug)]
struct InFlight {
    revision: u64,
    is_resync: bool,
    keys: Vec<DesiredKey>,
    sent_at: Duration,
}

impl Publisher {
    /// Nothing sent, not connected.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stream: Stream::Closed,
            pending: Changes::new(),
            in_flight: None,
            sent_revision: 0,
            acknowledged_revision: 0,
            refused: BTreeMap::new(),
        }
    }

    /// A stream is open: the next update on it carries everything.
    pub fn open(&mut self) {
        self.stream = Stream::Fresh;
        self.in_flight = None;
    }

    /// The stream is gone, with whatever was under way.
    pub fn close(&mut self) {
        self.stream = Stream::Closed;
        self.in_flight = None;
    }

    /// Takes changes that the dataplane has to know. A refused object is tried again because it is
    /// part of them, or with the next full state.
    pub fn record(&mut self, changes: Changes) {
        self.pending.extend(changes);
    }

    /// The update to send now, if any; `all` is the whole desired state.
    pub fn take_update(
        &mut self,
        all: &BTreeMap<DesiredKey, Object>,
        now: Duration,
    ) -> Option<Update> {
        if self.in_flight.is_some() {
            return None;
        }
        let is_resync = match self.stream {
            Stream::Closed => return None,
            Stream::Fresh => true,
            Stream::Synced if self.pending.is_empty() => return None,
            Stream::Synced => false,
        };
        let changes = std::mem::take(&mut self.pending);
        self.sent_revision += 1;
        let mut update =
            Update { revision: self.sent_revision, resync: is_resync, ..Update::default() };
        let keys: Vec<DesiredKey> = if is_resync {
            update.upserts = all.values().cloned().collect();
            all.keys().cloned().collect()
        } else {
            let keys = changes.keys().cloned().collect();
            for (key, object) in changes {
                match object {
                    Some(object) => update.upserts.push(object),
                    None => update.deletes.push(key.reference()),
                }
            }
            keys
        };
        self.stream = Stream::Synced;
        let revision = self.sent_revision;
        self.in_flight = Some(InFlight { revision, is_resync, keys, sent_at: now });
        Some(update)
    }

    /// Takes the dataplane's answer.
    ///
    /// # Errors
    /// It does not answer what was sent.
    pub fn accept(&mut self, verdict: &Verdict, now: Duration) -> Result<Accepted, PublishError> {
        let Some(sent) = self.in_flight.take() else {
            return Err(PublishError::Unasked(verdict.revision));
        };
        if sent.revision != verdict.revision {
            let (got, expected) = (verdict.revision, sent.revision);
            return Err(PublishError::Gap { got, expected });
        }
        self.acknowledged_revision = sent.revision;
        if sent.is_resync {
            self.refused.clear();
        }
        for key in &sent.keys {
            self.refused.remove(key);
        }
        let mut refused = Vec::new();
        for rejection in &verdict.rejected {
            let reference = rejection.object.clone().unwrap_or_default();
            refused.push((reference.to_string(), rejection.reason.clone()));
            if let Some(key) = DesiredKey::parse(&reference) {
                self.refused.insert(key, rejection.reason.clone());
            }
        }
        Ok(Accepted {
            revision: sent.revision,
            is_resync: sent.is_resync,
            objects: sent.keys.len(),
            took: now.saturating_sub(sent.sent_at),
            refused,
        })
    }

    /// The revision whose acknowledgement covers everything recorded so far.
    #[must_use]
    pub fn covering_revision(&self) -> u64 {
        let is_all_sent = self.stream == Stream::Synced && self.pending.is_empty();
        if is_all_sent { self.sent_revision } else { self.sent_revision + 1 }
    }

    /// Revision of the last update sent.
    #[must_use]
    pub fn sent_revision(&self) -> u64 {
        self.sent_revision
    }

    /// Revision of the last update acknowledged.
    #[must_use]
    pub fn acknowledged_revision(&self) -> u64 {
        self.acknowledged_revision
    }

    /// A stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.stream != Stream::Closed
    }

    /// Objects that the dataplane refuses, with its reasons.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<DesiredKey, String> {
        &self.refused
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}
