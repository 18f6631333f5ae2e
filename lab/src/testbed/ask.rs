//! What a node's weir says, and waiting until it says what is expected.

use std::{collections::BTreeMap, time::Duration};

use serde::de::DeserializeOwned;

use super::{Drops, Frontend, Node, Status};
use crate::{Error, Result, clock, command::program};

/// For whatever should happen at once, on a machine that is busy.
const SOON: Duration = Duration::from_secs(30);

impl Node {
    /// Waits until the agent has read its manifests and every worker runs what it made of them.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last status; [`Error::Ended`] with what weir said.
    pub fn wait_until_settled(&self) -> Result<()> {
        self.wait_until("weir to run the present manifests", || Ok(self.status()?.is_settled()))
    }

    /// Waits until every address of a Service has `count` backends and the workers know them.
    ///
    /// # Errors
    /// Those of [`Node::wait_until_settled`].
    pub fn wait_for_backends(&self, service: &str, count: usize) -> Result<()> {
        let name = format!("default/{service}");
        let what = format!("service {name} to have {count} backends");
        self.wait_until(&what, || {
            let frontends: Vec<Frontend> = self.weir_json(&["service", "list"])?;
            let mut own = frontends.iter().filter(|it| it.service() == name).peekable();
            let is_known = own.peek().is_some() && own.all(|it| it.backends.len() == count);
            Ok(is_known && self.status()?.is_settled())
        })
    }

    /// Waits until a Service is known and the workers run the present manifests.
    ///
    /// # Errors
    /// Those of [`Node::wait_until_settled`].
    pub fn wait_for_service(&self, service: &str) -> Result<()> {
        let name = format!("default/{service}");
        self.wait_until(&format!("service {name}"), || {
            let frontends: Vec<Frontend> = self.weir_json(&["service", "list"])?;
            let is_known = frontends.iter().any(|it| it.service() == name);
            Ok(is_known && self.status()?.is_settled())
        })
    }

    fn wait_until(&self, what: &str, ready: impl Fn() -> Result<bool>) -> Result<()> {
        clock::wait_until(what, SOON, || match ready() {
            Ok(true) => Some(Ok(())),
            // While weir starts its commands fail; what counts is whether it still runs.
            Ok(false) | Err(_) => self.processes().find_map(|it| it.ended(what)).map(Err),
        })
        .map_err(|error| self.explain(error))?
    }

    /// Adds what weir says of itself to a timeout.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Timeout { what, waited_ms, .. } => {
                let status =
                    self.weir_output(&["status"]).unwrap_or_else(|error| error.to_string());
                Error::Timeout { what, waited_ms, output: format!("; its status:\n{status}") }
            }
            other => other,
        }
    }

    /// Runs `weir ARGUMENTS` on the node and gives what it prints.
    ///
    /// # Errors
    /// [`Error::Command`] with what it said when it fails.
    pub fn weir(&self, arguments: &[&str]) -> Result<String> {
        self.host.run(self.weir_words(arguments)?)
    }

    /// Runs `weir ARGUMENTS -o json`, whose exit status may say that something is wrong.
    ///
    /// # Errors
    /// [`Error::Answer`] when it prints something else.
    pub fn weir_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let printed = self.weir_output(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&printed).map_err(|source| {
            let command = format!("weir {} -o json", arguments.join(" "));
            Error::Answer { command, source }
        })
    }

    fn weir_output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.host.output(self.weir_words(arguments)?)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn weir_words(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let weir = program("weir")?.display().to_string();
        let run = format!("--run-dir={}", self.run_folder().display());
        let words = [weir, run].into_iter();
        Ok(words.chain(arguments.iter().map(|it| (*it).to_owned())).collect())
    }

    /// `weir status`, also when a part of weir does not answer.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn status(&self) -> Result<Status> {
        self.weir_json(&["status"])
    }

    /// Packets dropped so far by reason, those that occurred.
    ///
    /// # Errors
    /// [`Error::Answer`] when the dataplane does not answer.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let Drops { drops } = self.weir_json(&["drops"])?;
        let occurred = drops.into_iter().filter(|it| it.packets > 0);
        Ok(occurred.map(|it| (it.reason, it.packets)).collect())
    }
}
