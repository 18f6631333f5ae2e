//! Calls `kubectl`, within bounds: so many at one time, and each for so long.

use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::args::PluginFlags;

/// Calls at one time: each is a process here and a connection to the API server.
const CALLS_MAX: usize = 8;
/// What kubectl adds when the program that it runs has failed; that is told anyway.
const NOISE: &str = "command terminated with exit code";

/// A call that did not work.
#[derive(Debug, Error)]
pub(super) enum KubectlError {
    #[error("kubectl: no such program: install it, or add it to PATH; kubectl weir calls it")]
    Absent,
    #[error("kubectl {call}: cannot be started: {error}")]
    Start { call: String, error: std::io::Error },
    #[error("kubectl {call}: no answer within {seconds} s (--node-timeout)")]
    Timeout { call: String, seconds: u64 },
    #[error("kubectl {call}: {reason}")]
    Failed { call: String, reason: String },
    #[error("kubectl {call}: not the JSON that was expected: {error}")]
    Answer { call: String, error: serde_json::Error },
}

/// What a program said.
#[derive(Debug)]
pub(super) struct Said {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// Without kubectl's remark on the exit status.
    pub stderr: String,
}

/// kubectl, with the user's choice of cluster.
#[derive(Debug, Clone)]
pub(super) struct Kubectl {
    flags: Vec<String>,
    /// Of weir's pods.
    pub namespace: String,
    pub timeout: Duration,
    calls: Arc<Semaphore>,
}

impl Kubectl {
    pub(super) fn new(flags: &PluginFlags) -> Self {
        let mut passed = Vec::new();
        passed.extend(flags.context.iter().map(|it| format!("--context={it}")));
        passed.extend(flags.kubeconfig.iter().map(|it| format!("--kubeconfig={}", it.display())));
        Self {
            flags: passed,
            namespace: flags.namespace.clone(),
            timeout: Duration::from_secs(flags.node_timeout.max(1)),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    /// The same, with more time for each call.
    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(&self.flags).args(words).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it and takes what it prints, whatever its exit status.
    pub(super) async fn call(&self, words: &[&str]) -> Result<Said, KubectlError> {
        let _call = self.calls.acquire().await.expect("the semaphore is never closed");
        let output = timeout(self.timeout, self.command(words).output()).await;
        let output = match output {
            Err(_) => {
                let seconds = self.timeout.as_secs();
                return Err(KubectlError::Timeout { call: words.join(" "), seconds });
            }
            Ok(output) => output.map_err(|error| explain_start(words, error))?,
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        let told: Vec<&str> = stderr.lines().filter(|it| !it.contains(NOISE)).collect();
        Ok(Said { status: output.status, stdout: output.stdout, stderr: told.join("\n") })
    }

    /// Runs it, and fails where it does.
    pub(super) async fn ask(&self, words: &[&str]) -> Result<Vec<u8>, KubectlError> {
        let said = self.call(words).await?;
        match said.status.success() {
            true => Ok(said.stdout),
            false => Err(said.into_error(words)),
        }
    }

    /// Asks for an object as JSON.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        words: &[&str],
    ) -> Result<T, KubectlError> {
        let words = [words, &["-o", "json"]].concat();
        let text = self.ask(&words).await?;
        serde_json::from_slice(&text)
            .map_err(|error| KubectlError::Answer { call: words.join(" "), error })
    }

    /// Runs it on the user's terminal for as long as it takes, and gives its exit status.
    pub(super) async fn show(&self, words: &[&str]) -> Result<ExitStatus, KubectlError> {
        let mut command = self.command(words);
        let failed = |error| explain_start(words, error);
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if !line.contains(NOISE) {
                    eprintln!("{line}");
                }
            }
        }
        child.wait().await.map_err(failed)
    }
}

impl Said {
    /// What went wrong, in the words of the program.
    pub(super) fn into_error(self, words: &[&str]) -> KubectlError {
        let reason = match self.stderr.trim() {
            "" => self.status.to_string(),
            text => text.to_owned(),
        };
        KubectlError::Failed { call: words.join(" "), reason }
    }
}

fn explain_start(words: &[&str], error: std::io::Error) -> KubectlError {
    match error.kind() {
        ErrorKind::NotFound => KubectlError::Absent,
        _ => KubectlError::Start { call: words.join(" "), error },
    }
}
