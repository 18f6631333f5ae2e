//! The plugin `loopback`, which containerd and others run for every pod beside that of its network:
//! `lo` goes up. The agent has no part in it.

use std::path::Path;

use serde_json::Value;

use super::Task;
use crate::environment::Verb;
use crate::error::{CniError, INVALID_ENVIRONMENT, KERNEL, NOT_AS_MADE};
use crate::namespace::Namespace;
use crate::netlink::{Link, Netlink};
use crate::result::loopback_result;

/// Whatever CNI_IFNAME says.
const NAME: &str = "lo";

/// Does what is asked.
///
/// # Errors
/// The namespace cannot be entered; what the kernel refuses; CHECK: [`NOT_AS_MADE`].
pub fn loopback(task: &mut Task) -> Result<Option<Value>, CniError> {
    match task.call.verb {
        Verb::Add => add(task).map(Some),
        Verb::Check => check(task).map(|()| None),
        Verb::Del => {
            del(task);
            Ok(None)
        }
        // Nothing is kept anywhere, and ADD needs nobody.
        Verb::Gc | Verb::Status | Verb::Version => Ok(None),
    }
}

fn add(task: &Task) -> Result<Value, CniError> {
    let (namespace, shown) = open(task)?;
    let addresses = namespace.run(|| async {
        let netlink = Netlink::open()?;
        let lo = find(&netlink).await?;
        netlink.set_up(&lo).await?;
        // The kernel gave them with this.
        netlink.addresses(&lo).await
    })?;
    let prev = task.config.prev_result.as_ref();
    Ok(loopback_result(NAME, &addresses, &shown, prev, task.config.version))
}

fn check(task: &Task) -> Result<(), CniError> {
    let (namespace, _) = open(task)?;
    let lo = namespace.run(|| async { find(&Netlink::open()?).await })?;
    if lo.is_up {
        return Ok(());
    }
    let details = "somebody took it down: delete the pod, or `ip link set lo up` in it";
    Err(CniError::new(NOT_AS_MADE, format!("{NAME} in the pod is down"), details))
}

/// Never holds up the end of a pod: what is no namespace (any more) has no `lo` either.
fn del(task: &mut Task) {
    let Some(path) = &task.call.netns else { return };
    let take_down = |path: &Path| match Namespace::open(path)? {
        None => Ok(()),
        Some(namespace) => namespace.run(|| async {
            let netlink = Netlink::open()?;
            let lo = find(&netlink).await?;
            netlink.set_down(&lo).await
        }),
    };
    if let Err(error) = take_down(path) {
        task.notes.push(format!("{NAME} is left as it is: {error}"));
    }
}

/// The container's namespace, and its file as given.
fn open(task: &Task) -> Result<(Namespace, String), CniError> {
    let path = task.call.netns.clone().unwrap_or_default();
    let shown = path.display().to_string();
    let namespace = Namespace::open(&path)?.ok_or_else(|| {
        let message = format!("CNI_NETNS={shown}: no such network namespace");
        CniError::new(INVALID_ENVIRONMENT, message, "the container has ended: make a new one")
    })?;
    Ok((namespace, shown))
}

async fn find(netlink: &Netlink) -> Result<Link, CniError> {
    let lo = netlink.find(NAME).await?;
    let message = format!("there is no interface {NAME} in the pod");
    lo.ok_or_else(|| CniError::new(KERNEL, message, "every network namespace has one: try again"))
}
