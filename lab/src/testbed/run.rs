//! A node runs weir: all of it under `weir up`, or each process by itself for tests that
//! kill it.

use std::{path::Path, process::Command, time::Duration};

use super::{Node, UPLINK};
use crate::{Process, Result, command::program};

/// For whatever should happen at once, on a machine that is busy.
const SOON: Duration = Duration::from_secs(30);

impl Node {
    /// Runs `weir up`, which runs the dataplane and the agent and starts them again when they
    /// fail, and waits until both work.
    ///
    /// # Errors
    /// [`Error::Program`]; [`Error::Ended`] with what it said; [`Error::Timeout`].
    pub fn start_up(&mut self) -> Result<()> {
        let mut command = self.program("weir")?;
        command.arg("up").args(self.agent_flags()).args(self.dataplane_flags());
        command.arg("--").args(&self.options.dataplane_flags);
        self.up = Some(self.host.spawn(command)?);
        self.wait_until_settled()
    }

    /// Ends `weir up` as an operator would, with SIGTERM.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Ended`] when it says that something failed.
    pub fn stop_up(&mut self) -> Result<()> {
        let Some(up) = self.up.take() else { return Ok(()) };
        up.signal("SIGTERM")?;
        up.wait_for_success(SOON).map(drop)
    }

    /// Runs `weir-dataplane` by itself, without anybody who would start it again, and waits until
    /// it answers. With an earlier one's state on disk it forwards without an agent.
    ///
    /// # Errors
    /// Those of [`Node::start_up`].
    pub fn start_dataplane(&mut self) -> Result<&Process> {
        let mut command = self.program("weir-dataplane")?;
        command.arg("--state-dir").arg(self.state_folder());
        command.args(self.dataplane_flags()).args(&self.options.dataplane_flags);
        self.dataplane = None;
        let process = self.dataplane.insert(self.host.spawn(command)?);
        process.wait_for_output(": ready", SOON)?;
        Ok(process)
    }

    /// Runs another `weir-dataplane`, which waits for the end of the one that runs, and waits until
    /// it is prepared. [`Node::take_over`] follows.
    ///
    /// # Errors
    /// Those of [`Node::start_up`].
    pub fn start_standby(&self, health_socket: &Path) -> Result<Process> {
        let mut command = self.program("weir-dataplane")?;
        command.arg("--state-dir").arg(self.state_folder()).arg("--standby");
        command.arg("--health-socket").arg(health_socket);
        command.args(self.dataplane_flags()).args(&self.options.dataplane_flags);
        let process = self.host.spawn(command)?;
        process.wait_for_output(": standby: waiting", SOON)?;
        Ok(process)
    }

    /// Ends the dataplane as a rolling update does, with SIGTERM, and waits until the one that
    /// stood by answers in its place.
    ///
    /// # Errors
    /// [`Error::Ended`](crate::Error::Ended) with what it said; [`Error::Timeout`](crate::Error).
    pub fn take_over(&mut self, standby: Process) -> Result<()> {
        if let Some(before) = self.dataplane.take() {
            before.signal("SIGTERM")?;
            before.wait_for_success(SOON)?;
        }
        self.dataplane.insert(standby).wait_for_output(": ready", SOON).map(drop)
    }

    /// Runs `weir-agent` by itself. It need not be connected yet: [`Node::wait_until_settled`].
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Start`].
    pub fn start_agent(&mut self) -> Result<&Process> {
        let mut command = self.program("weir-agent")?;
        command.args(self.agent_flags());
        self.agent = None;
        Ok(self.agent.insert(self.host.spawn(command)?))
    }

    /// The process of [`Node::start_dataplane`], for signals.
    #[must_use]
    pub fn dataplane(&self) -> Option<&Process> {
        self.dataplane.as_ref()
    }

    /// The process of [`Node::start_agent`], for signals.
    #[must_use]
    pub fn agent(&self) -> Option<&Process> {
        self.agent.as_ref()
    }

    /// The processes of weir itself, whatever way they were started.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        [&self.up, &self.dataplane, &self.agent].into_iter().flatten()
    }

    /// One of weir's binaries with its `--run-dir`, logging without colours.
    fn program(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(program(name)?);
        command.env("NO_COLOR", "1").arg("--run-dir").arg(self.run_folder());
        Ok(command)
    }

    fn agent_flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--manifests={}", self.manifests().display()),
            format!("--state-dir={}", self.state_folder().display()),
            format!("--node={}", self.options.name),
        ];
        flags.extend(self.options.agent_flags.iter().cloned());
        flags
    }

    fn dataplane_flags(&self) -> [String; 4] {
        [
            format!("--pin-dir={}", self.options.pins.display()),
            format!("--uplink={UPLINK}"),
            format!("--workers={}", self.options.workers),
            format!("--failure-mode={}", self.options.failure_mode),
        ]
    }
}
