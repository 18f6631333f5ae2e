//! What can go wrong in a lab; every message names the object.

use std::{io, path::PathBuf, process::ExitStatus};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that does not fit into a namespace name.
    #[error("{name:?} cannot name a {what}: use 1 to 40 of a-z, 0-9{extra}")]
    Name { what: &'static str, name: String, extra: &'static str },
    /// The lab already has a host of that name.
    #[error("lab {lab} already has a host {host}: choose another name")]
    HostExists { lab: String, host: String },
    /// A testbed has no such pod.
    #[error("the testbed has no pod {pod}: add it first")]
    NoPod { pod: String },
    /// The lab was torn down (dropped, or by a signal).
    #[error("lab {lab} is already torn down: keep it alive for as long as its hosts are used")]
    TornDown { lab: String },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command { command: String, status: ExitStatus, stderr: String },
    /// A program printed something else than what was asked for.
    #[error("`{command}` did not print what it should: {source}")]
    Answer { command: String, source: serde_json::Error },
    /// A program could not be started.
    #[error("cannot start `{command}`: {source}; is it installed?")]
    Start { command: String, source: io::Error },
    /// A program of this workspace was not found beside the running one.
    #[error("cannot find {program} in {looked_in}: run `cargo build --workspace --bins`")]
    Program { program: String, looked_in: String },
    /// A spawned process ended while something was expected of it.
    #[error("{process} ended ({status}) before {before}; its output:\n{output}")]
    Ended { process: String, status: ExitStatus, before: String, output: String },
    /// A file could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// A network namespace could not be entered.
    #[error("cannot enter the network namespace {namespace}: {source}")]
    Enter { namespace: String, source: io::Error },
    /// A host has no interface of that name.
    #[error("{namespace} has no interface {interface}: lab.link() makes one")]
    NoInterface { namespace: String, interface: String },
    /// A packet socket of an impaired link failed.
    #[error("cannot forward for link {link}: {source}")]
    Forward { link: String, source: io::Error },
    /// A probability outside 0 to 1, or a delay over a minute.
    #[error("impairment {what} is {value}: {allowed}")]
    Impairment { what: &'static str, value: f64, allowed: &'static str },
    /// Something did not happen in time.
    #[error("{what}: not within {waited_ms} ms{output}")]
    Timeout { what: String, waited_ms: u128, output: String },
    /// Signal handlers could not be installed.
    #[error("cannot handle SIGINT and SIGTERM: {0}")]
    Signals(io::Error),
}
