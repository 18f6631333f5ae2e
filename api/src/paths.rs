//! Where sockets and files are. Every process takes `--run-dir` and `--state-dir` and asks here for
//! the rest.

use std::path::PathBuf;

/// Sockets, tmpfs.
pub const RUN_DIR: &str = "/run/weir";
/// What must survive a restart of the process, and (where a file says so) of the machine.
pub const STATE_DIR: &str = "/var/lib/weir";

/// The two directories of one weir instance on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// See [`RUN_DIR`].
    pub run_dir: PathBuf,
    /// See [`STATE_DIR`].
    pub state_dir: PathBuf,
}

impl Paths {
    /// The socket of the `Dataplane` and `Observe` services.
    #[must_use]
    pub fn dataplane_socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    /// The socket of the `Agent` and `Cni` services.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// Held by the agent that runs.
    #[must_use]
    pub fn agent_lock(&self) -> PathBuf {
        self.run_dir.join("agent.lock")
    }

    /// The dataplane's last accepted state.
    #[must_use]
    pub fn accepted_state(&self) -> PathBuf {
        self.state_dir.join("state.pb")
    }

    /// The agent's addresses of pods, and whom they belong to.
    #[must_use]
    pub fn leases(&self) -> PathBuf {
        self.state_dir.join("leases.json")
    }

    /// Held by the dataplane that works.
    #[must_use]
    pub fn dataplane_lock(&self) -> PathBuf {
        self.run_dir.join("dataplane.lock")
    }

    /// The agent's attached endpoints.
    #[must_use]
    pub fn endpoints(&self) -> PathBuf {
        self.state_dir.join("endpoints.json")
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self { run_dir: RUN_DIR.into(), state_dir: STATE_DIR.into() }
    }
}
