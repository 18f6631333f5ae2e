//! Whether this process does its work, for probes: `weir-dataplane --check-health PATH` asks.
//!
//! By a Unix socket, because a process that waits to take over and the one before it share the
//! node's network: a port would be the other's.

use std::sync::Arc;

use weir_api::health::Health;

use super::observe;
use super::shared::Shared;

/// What the process is about.
#[derive(Clone)]
pub enum Phase {
    Starting,
    /// Everything is prepared; the process with this id has the node.
    Standby {
        pid: String,
    },
    Running(Arc<Shared>),
    Stopping,
}

impl Phase {
    /// What probes are told. One that stands by is well: a rolling update waits for it before it
    /// ends the one before.
    pub fn health(&self) -> Health {
        match self {
            Phase::Starting => Health::NotReady("starting".into()),
            Phase::Standby { pid } => Health::Standby(format!("waiting for pid {pid}")),
            Phase::Running(shared) => match observe::hanging(shared).first() {
                None => Health::Ready,
                Some(problem) => Health::NotReady(problem.clone()),
            },
            Phase::Stopping => Health::NotReady("stopping".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;

    #[test]
    fn a_probe_is_told_what_the_process_is_about() {
        let folder = tempfile::tempdir().unwrap();
        let idle = Arc::new(Shared::idle(Instant(0), folder.path()));
        for (phase, is_well, said) in [
            (Phase::Starting, false, "not ready: starting"),
            (Phase::Standby { pid: "7".into() }, true, "standby: waiting for pid 7"),
            (Phase::Running(idle), true, "ready"),
            (Phase::Stopping, false, "not ready: stopping"),
        ] {
            let health = phase.health();
            assert_eq!((health.is_healthy(), health.to_string()), (is_well, said.to_owned()));
        }
    }
}
