//! One case in a process of its own: `e2e.test` needs about a second to start, and in return a
//! case that hangs or crashes takes no other with it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sha2::{Digest, Sha256};
use weir_lab::clock::{Stopwatch, pause};

use crate::{cases::Case, cluster::Cluster, report, results::Outcome};

/// Of one case; Ginkgo then ends it, with its own account.
const CASE_TIMEOUT: Duration = Duration::from_secs(600);
const SLOW_TIMEOUT: Duration = Duration::from_secs(1200);
/// What Ginkgo gets for cleaning up, before the process is killed.
const GRACE: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How a case ended.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    pub reason: String,
    pub seconds: f64,
}

/// Runs cases on one cluster.
#[derive(Debug)]
pub struct Runner {
    pub cluster: Cluster,
    /// Where each case's output goes.
    pub logs: PathBuf,
    /// Set by a signal: what runs is ended, nothing is begun.
    pub interrupted: Arc<AtomicBool>,
}

impl Runner {
    /// Where a case's output goes.
    pub fn log(&self, case: &Case) -> PathBuf {
        self.logs.join(format!("{}.log", file_name(case.short_name())))
    }

    /// Runs a case to its end.
    ///
    /// # Errors
    /// `e2e.test` cannot be started or its log not written. A case that fails is no error.
    pub fn run(&self, case: &Case) -> Result<Ended> {
        fs::create_dir_all(&self.logs).with_context(|| self.logs.display().to_string())?;
        let log = self.log(case);
        let scratch = log.with_extension("tmp");
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let report = log.with_extension("json");
        let timeout = if case.name.contains("[Slow]") { SLOW_TIMEOUT } else { CASE_TIMEOUT };
        let mut command = self.command(case, &report, timeout)?;
        command.env("TMPDIR", &scratch);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let watch = Stopwatch::start();
        let mut child = command.spawn().context("cannot start e2e.test")?;
        let status = self.wait(&mut child, timeout + GRACE)?;
        let seconds = watch.elapsed().as_secs_f64();
        let (outcome, reason) = match report::read(&report) {
            Ok(read) => read,
            Err(error) => (Outcome::Failed, format!("{error:#}; {status}")),
        };
        let _ = fs::remove_file(&report);
        let _ = fs::remove_dir_all(&scratch);
        Ok(Ended { outcome, reason, seconds })
    }

    fn command(&self, case: &Case, report: &Path, timeout: Duration) -> Result<Command> {
        // It ends when the thread that started it is gone, so also when this process is killed.
        let mut command = self.cluster.outside("setpriv");
        command.args(["--pdeathsig", "INT", "--"]).arg(Cluster::built("e2e.test")?);
        let focus = format!("^.*{}$", regex::escape(&case.name));
        let kubectl = Cluster::built("kubectl")?;
        command.arg(format!("--kubectl-path={}", kubectl.display()));
        command.arg(format!("--e2e-output-dir={}", self.logs.display()));
        command.arg(format!("--ginkgo.focus={focus}"));
        command.arg(format!("--ginkgo.json-report={}", report.display()));
        command.arg(format!("--ginkgo.timeout={}s", timeout.as_secs()));
        command.args([
            "--provider=skeleton",
            "--minStartupPods=0",
            "--allowed-not-ready-nodes=0",
            "--ginkgo.v",
            "--ginkgo.no-color",
            "--ginkgo.silence-skips",
        ]);
        Ok(command)
    }

    fn wait(&self, child: &mut Child, timeout: Duration) -> Result<ExitStatus> {
        let watch = Stopwatch::start();
        let mut signalled: Option<Stopwatch> = None;
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for e2e.test")? {
                return Ok(status);
            }
            let pid = Pid::from_raw(i32::try_from(child.id()).context("a pid")?);
            match signalled {
                None if self.interrupted.load(Ordering::Relaxed) || watch.elapsed() > timeout => {
                    let _ = kill(pid, Signal::SIGINT);
                    signalled = Some(Stopwatch::start());
                }
                Some(since) if since.elapsed() > GRACE => {
                    child.kill().context("cannot kill e2e.test")?;
                }
                _ => {}
            }
            pause(POLL_INTERVAL);
        }
    }
}

/// A name that is short, readable and distinct.
fn file_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let readable: String = text.chars().map(safe).take(170).collect();
    let hash = Sha256::digest(text.as_bytes());
    format!("{}-{:02x}{:02x}{:02x}", readable.trim_matches('-'), hash[0], hash[1], hash[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_distinct_and_safe() {
        let (one, other) = ("a/b [Slow] ".repeat(20), "a/b [Slow] ".repeat(21));
        assert_ne!(file_name(&one), file_name(&other));
        assert!(!file_name(&one).contains(['/', ' ', '[']));
        assert!(file_name(&one).len() < 200);
    }
}
