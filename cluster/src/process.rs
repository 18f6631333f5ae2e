//! Processes that outlive the command that started them: told from others by their start.

use std::{fs, path::Path, process, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use weir_lab::clock::wait_until;

/// A pid is used again; a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks since boot (field 22 of proc_pid_stat(5)).
    start_ticks: u64,
}

impl Identity {
    /// None when no such process lives.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_ticks) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start_ticks })
    }

    /// This process.
    pub fn own() -> Result<Self> {
        Self::of(process::id()).context("cannot read /proc/self/stat")
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// SIGTERM, and SIGKILL when that takes longer than `timeout`.
    pub fn stop(&self, timeout: Duration) {
        for (signal, timeout) in
            [(Signal::SIGTERM, timeout), (Signal::SIGKILL, Duration::from_secs(5))]
        {
            if !self.is_alive() {
                return;
            }
            let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
            let _ = wait_until("its end", timeout, || (!self.is_alive()).then_some(()));
        }
    }
}

/// State and start time; the name before them may contain anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?.chars().next()?;
    // The state is field 3.
    Some((state, words.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_start() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        assert!(!Identity { start_ticks: own.start_ticks + 1, ..own }.is_alive());
        let fields = (4..=21).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_stat(&format!("7 (a ) b) S {fields} 4711 23")), Some(('S', 4711)));
    }
}
