//! Running programs to their end, with errors that show the command and what it said.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use crate::{Error, Result};

/// Runs `command` and gives its output, whatever its exit status.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start { command: describe(command), source })
}

/// Runs `command` and gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(Error::Command {
        command: describe(command),
        status: output.status,
        stderr: String::from_utf8_lossy(said).trim().to_owned(),
    })
}

/// Runs `ip` with `arguments`, split at white space.
pub(crate) fn ip(arguments: &str) -> Result<String> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Feeds `lines` to one `ip -batch` in `namespace`, ignoring the ones that fail: for removing
/// things that may already be gone.
pub(crate) fn ip_batch_ignoring_errors(namespace: &str, lines: &str) {
    let child = Command::new("ip")
        .args(["-n", namespace, "-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return };
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(lines.as_bytes());
    }
    let _ = child.wait();
}

/// The command line, for messages.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Where a program of this workspace was built: beside the running program, or, for a test, one
/// folder up.
///
/// # Errors
/// [`Error::Program`] when it is not there; the message says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let exe = env::current_exe()
        .map_err(|source| Error::Start { command: "/proc/self/exe".into(), source })?;
    let folders = exe.ancestors().skip(1).take(2);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let looked_in = exe.parent().unwrap_or(&exe).display().to_string();
        Error::Program { program: name.into(), looked_in }
    })
}
