//! [`Process`]: a program running in a host, its output in files, killed when it is dropped.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{sys::signal, unistd::Pid};

use crate::{
    Error, Result, clock,
    command::describe,
    lab::{Inner, lock},
    namespace,
};

/// How much of each output a failing test prints.
const TAIL_BYTES_MAX: usize = 8 * 1024;

/// A program running in a host. Dropping it kills it (by pid, SIGKILL) and waits for it, unless
/// its lab is kept.
#[derive(Debug)]
pub struct Process {
    lab: Arc<Inner>,
    child: Arc<Child>,
}

impl Process {
    /// Its process id; the program's own, not a wrapper's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid
    }

    /// What it wrote to standard output until now.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.child.stdout)
    }

    /// What it wrote to standard error until now.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.child.stderr)
    }

    /// Waits until either output has a line that contains `text`, and gives that line.
    ///
    /// # Errors
    /// [`Error::Ended`] if it ends without, [`Error::Timeout`]; both carry its output.
    pub fn wait_for_output(&self, text: &str, timeout: Duration) -> Result<String> {
        let what = format!("{} to say {text:?}", self.child.label);
        let found = clock::wait_until(&what, timeout, || {
            // The status first: what it says just before its end counts.
            let ended = self.child.status();
            let line = self.child.find_line(text);
            match (line, ended) {
                (Some(line), _) => Some(Ok(line)),
                (None, Some(status)) => Some(Err(self.child.ended(status, &what))),
                (None, None) => None,
            }
        });
        found.unwrap_or_else(|error| Err(self.child.with_output(error)))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Timeout`] with its output; it goes on running.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.child.label);
        clock::wait_until(&what, timeout, || self.child.status())
            .map_err(|error| self.child.with_output(error))
    }

    /// Waits for its end and gives its standard output.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Ended`] when it fails; both carry its output.
    pub fn wait_for_success(&self, timeout: Duration) -> Result<String> {
        let status = self.wait(timeout)?;
        if status.success() { Ok(self.stdout()) } else { Err(self.child.ended(status, "success")) }
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.status().is_none()
    }

    /// Why it cannot do what is expected of it, once it has ended.
    pub(crate) fn ended(&self, before: &str) -> Option<Error> {
        self.child.status().map(|status| self.child.ended(status, before))
    }

    /// Where it writes standard error, for naming it.
    #[must_use]
    pub fn stderr_path(&self) -> &Path {
        &self.child.stderr
    }

    /// Kills it (SIGKILL) and waits until it is gone. Nothing happens if it already ended.
    pub fn kill(&self) {
        self.child.kill();
    }

    /// Sends a signal, for instance `"SIGSTOP"`. Nothing happens if it already ended.
    ///
    /// # Errors
    /// [`Error::Start`] naming an unknown signal.
    pub fn signal(&self, name: &str) -> Result<()> {
        let signal: signal::Signal = name.parse().map_err(|errno: nix::Error| Error::Start {
            command: format!("kill -{name} {}", self.pid()),
            source: errno.into(),
        })?;
        self.child.signal(signal);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.lab.keeps() {
            self.child.kill();
        }
    }
}

/// Starts `command` in `namespace`, both outputs going to files in the lab's folder.
pub(crate) fn spawn(
    lab: &Arc<Inner>,
    host: &str,
    namespace: &str,
    mut command: Command,
) -> Result<Process> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    let child = lab.with_made(|made| {
        let label = format!("{host}-{program}-{}", made.children.len());
        let stdout = lab.folder().join(format!("{label}.out"));
        let stderr = lab.folder().join(format!("{label}.err"));
        // A group of its own: Ctrl-C is for the lab, which then ends its processes in order.
        command.stdin(Stdio::null()).stdout(create(&stdout)?).stderr(create(&stderr)?);
        command.process_group(0);
        let started = namespace::enter(namespace, || command.spawn())?;
        let process =
            started.map_err(|source| Error::Start { command: describe(&command), source })?;
        let pid = process.id();
        let child = Arc::new(Child { label, pid, process: Mutex::new(process), stdout, stderr });
        made.children.push(child.clone());
        Ok(child)
    })?;
    Ok(Process { lab: lab.clone(), child })
}

/// The part of a process that its lab shares.
#[derive(Debug)]
pub(crate) struct Child {
    label: String,
    pid: u32,
    process: Mutex<process::Child>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Child {
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn kill(&self) {
        let mut process = lock(&self.process);
        let _ = process.kill();
        let _ = process.wait();
    }

    /// The last of both outputs.
    pub(crate) fn output_tail(&self) -> String {
        let mut text = String::new();
        for output in [read(&self.stdout), read(&self.stderr)] {
            let mut start = output.len().saturating_sub(TAIL_BYTES_MAX);
            while !output.is_char_boundary(start) {
                start += 1;
            }
            text.push_str(&output[start..]);
        }
        text
    }

    /// Sends a signal only while the pid is certainly still ours: not yet waited for.
    fn signal(&self, signal: signal::Signal) {
        let mut process = lock(&self.process);
        if let Ok(None) = process.try_wait() {
            let _ = signal::kill(Pid::from_raw(self.pid.cast_signed()), signal);
        }
    }

    fn status(&self) -> Option<ExitStatus> {
        lock(&self.process).try_wait().ok().flatten()
    }

    fn find_line(&self, text: &str) -> Option<String> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .find_map(|path| read(path).lines().find(|line| line.contains(text)).map(str::to_owned))
    }

    fn ended(&self, status: ExitStatus, before: &str) -> Error {
        let (process, output) = (self.label.clone(), self.output_tail());
        Error::Ended { process, status, before: before.into(), output }
    }

    fn with_output(&self, error: Error) -> Error {
        match error {
            Error::Timeout { what, waited_ms, .. } => {
                let output = format!("; its output:\n{}", self.output_tail());
                Error::Timeout { what, waited_ms, output }
            }
            other => other,
        }
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|source: io::Error| Error::File {
        action: "create",
        path: path.into(),
        source,
    })
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
