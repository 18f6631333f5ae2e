//! What every node's weir says, looked at once a second.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use weir_lab::clock::pause;

use crate::cluster::{Cluster, output_of};

const INTERVAL: Duration = Duration::from_secs(1);

/// Seconds since 1970, to set beside what pods print.
#[allow(clippy::disallowed_methods, reason = "a tool: it compares with logs of other processes")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `weir COMMAND -o json` on a node, run there with the node's own sockets.
///
/// # Errors
/// It cannot be run or prints no JSON. A status that is not healthy is no error.
pub fn ask(cluster: &Cluster, node: &str, arguments: &[&str]) -> Result<Value> {
    let mut command = cluster.on_node(node, weir_lab::program("weir")?);
    let output = command.args(arguments).args(["-o", "json"]).output().context("cannot run it")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{node}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// What one node's agent and dataplane say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    pub services: u64,
    pub backends: u64,
    pub policies: u64,
    pub sent: u64,
    pub acknowledged: u64,
    pub synced: bool,
    /// What the workers use.
    pub snapshot: u64,
}

impl Sight {
    /// Looks at a node.
    ///
    /// # Errors
    /// Its agent or its dataplane does not answer.
    pub fn of(cluster: &Cluster, node: &str) -> Result<Self> {
        let status = ask(cluster, node, &["status"])?;
        Self::read(&status).ok_or_else(|| anyhow!("{node}: {}", status["errors"]))
    }

    fn read(status: &Value) -> Option<Self> {
        let (agent, dataplane) = (&status["agent"], &status["dataplane"]);
        Some(Self {
            services: agent["services"].as_u64()?,
            backends: agent["backends"].as_u64()?,
            policies: agent["policies"].as_u64()?,
            sent: agent["sent_revision"].as_u64()?,
            acknowledged: agent["acknowledged_revision"].as_u64()?,
            synced: agent["synced"].as_bool()?,
            snapshot: dataplane["snapshot_revision"].as_u64()?,
        })
    }

    /// Everything that was sent is in use.
    pub fn is_settled(&self) -> bool {
        self.synced && self.sent == self.acknowledged
    }
}

/// The least that a node showed while it was watched.
#[derive(Clone, Debug)]
pub struct Least {
    pub node: String,
    pub looks: u64,
    /// Looks at which the agent or the dataplane did not answer.
    pub silent: u64,
    /// Of looks at which the agent was synced with its source.
    pub services: u64,
    pub backends: u64,
}

/// Watches all nodes until it is asked for the result.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    least: Arc<Mutex<Vec<Least>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins, with a thread for each node.
    pub fn start(cluster: &Cluster, nodes: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let least = Arc::new(Mutex::new(Vec::new()));
        let threads = nodes.iter().map(|node| {
            let (cluster, node) = (cluster.clone(), node.clone());
            let (stop, least) = (stop.clone(), least.clone());
            thread::spawn(move || {
                let seen = watch_node(&cluster, node, &stop);
                least.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
            })
        });
        let threads = threads.collect();
        Self { stop, least, threads }
    }

    /// Ends, and gives the least of each node.
    ///
    /// # Errors
    /// A thread panicked.
    pub fn finish(self) -> Result<Vec<Least>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a watching thread panicked"))?;
        }
        let mut least = self.least.lock().unwrap_or_else(PoisonError::into_inner).clone();
        least.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(least)
    }
}

fn watch_node(cluster: &Cluster, node: String, stop: &AtomicBool) -> Least {
    let mut least = Least { node, looks: 0, silent: 0, services: u64::MAX, backends: u64::MAX };
    while !stop.load(Ordering::Relaxed) {
        least.looks += 1;
        match Sight::of(cluster, &least.node) {
            // An agent that has just started has nothing yet, and withdraws nothing either.
            Ok(sight) if sight.synced => {
                least.services = least.services.min(sight.services);
                least.backends = least.backends.min(sight.backends);
            }
            _ => least.silent += 1,
        }
        pause(INTERVAL);
    }
    least
}

/// A value of a command's output, for what has no JSON.
pub fn field(cluster: &Cluster, node: &str, command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    Ok(output_of(cluster.on_node(node, program).args(arguments))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_without_its_agent_is_no_sight() {
        let agent = json!({ "services": 3, "backends": 4, "policies": 0, "sent_revision": 9,
            "acknowledged_revision": 9, "synced": true });
        let status = json!({ "agent": agent, "dataplane": { "snapshot_revision": 8 } });
        let sight = Sight::read(&status).unwrap();
        assert!(sight.is_settled());
        assert_eq!((sight.services, sight.snapshot), (3, 8));
        assert_eq!(Sight::read(&json!({ "agent": null })), None);
    }
}
