//! weir's CNI plugin: started by a container runtime for every pod that comes or goes.
//!
//! It makes the veth and configures the pod's side of it; addresses, and everything that the
//! dataplane must know, are the agent's. It keeps no state. The call is in the environment
//! ([`environment`]), the configuration on standard input ([`config`]), the answer on standard
//! output ([`result`], [`error`]); then read [`verbs`]. It is the plugin `loopback` too, for
//! runtimes that want one.
#![forbid(unsafe_code)]

mod agent;
mod config;
mod environment;
mod error;
mod install;
mod namespace;
mod netlink;
mod pod;
mod result;
mod verbs;
mod version;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use config::{Config, peek_version};
use environment::{Call, Verb};
use error::{CniError, IO_FAILURE};
use verbs::Task;
use version::Version;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => serve(),
        ["--install", folder] => list("install", install::install(Path::new(folder))),
        ["--uninstall", folder] => list("remove", install::remove(Path::new(folder))),
        ["--version"] => {
            println!("weir-cni {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "weir-cni is a CNI plugin: container runtimes start it, with CNI_COMMAND in the \
                 environment.\nBy hand: weir-cni --install DIR copies it, and makes it the plugin \
                 `loopback` if there is none; --uninstall DIR undoes that; --version"
            );
            ExitCode::FAILURE
        }
    }
}

/// What was done to files, a line for each.
fn list(verb: &str, done: std::io::Result<Vec<PathBuf>>) -> ExitCode {
    match done {
        Ok(paths) => {
            for path in paths {
                println!("{verb}: {}", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot {verb} {error}: is the folder there, and writable?");
            ExitCode::FAILURE
        }
    }
}

/// One call of a runtime.
fn serve() -> ExitCode {
    let mut text = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut text);
    let answer = match read {
        Ok(_) => answer(&text),
        Err(error) => {
            let message = format!("cannot read standard input: {error}");
            Err(CniError::new(IO_FAILURE, message, "the runtime writes the configuration there"))
        }
    };
    let newest = || Version::V110.as_str().to_owned();
    let (printed, code) = match answer {
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            let error = error.for_runtime();
            eprintln!("weir-cni: {error}");
            (error.to_json(&peek_version(&text).unwrap_or_else(newest)), ExitCode::FAILURE)
        }
    };
    // A runtime that has closed the pipe has given up.
    let _ = writeln!(std::io::stdout(), "{printed}");
    code
}

fn answer(text: &[u8]) -> Result<Option<Value>, CniError> {
    let call = Call::read(|name| std::env::var(name).ok())?;
    if call.verb == Verb::Version {
        let asked = peek_version(text).unwrap_or_else(|| Version::V110.as_str().to_owned());
        let all = version::ALL.map(Version::as_str);
        return Ok(Some(json!({"cniVersion": asked, "supportedVersions": all})));
    }
    let mut task = Task { call, config: Config::parse(text)?, notes: Vec::new() };
    let result = match task.config.is_loopback {
        true => verbs::loopback(&mut task),
        false => serve_pod(&mut task),
    };
    log(&task, result.as_ref().err());
    result
}

/// The plugin of a pod's network.
fn serve_pod(task: &mut Task) -> Result<Option<Value>, CniError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        CniError::new(IO_FAILURE, format!("cannot start: {error}"), "is the host out of memory?")
    })?;
    runtime.block_on(async {
        match task.call.verb {
            Verb::Add => verbs::add(task).await.map(Some),
            Verb::Del => verbs::del(task).await.map(|()| None),
            Verb::Check => verbs::check(task).await.map(|()| None),
            Verb::Gc => verbs::gc(task).await.map(|()| None),
            Verb::Status => verbs::status(task).await.map(|()| None),
            Verb::Version => Ok(None),
        }
    })
}

/// Notes go to standard error, and with errors into the log file where the configuration has one.
fn log(task: &Task, error: Option<&CniError>) {
    for note in &task.notes {
        eprintln!("weir-cni: {note}");
    }
    let Some(path) = &task.config.log_file else { return };
    let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) else {
        eprintln!("weir-cni: cannot write logFile {}", path.display());
        return;
    };
    let (verb, container) = (task.call.verb, &task.call.attachment.container_id);
    let seconds = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    for line in task.notes.iter().cloned().chain(error.map(ToString::to_string)) {
        let _ = writeln!(file, "{seconds} {verb:?} {container}: {line}");
    }
}
