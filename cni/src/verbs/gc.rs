//! GC: undoes every ADD that the runtime does not name.

use std::collections::BTreeSet;

use weir_api::cni::{host_interface, is_host_interface};
use weir_api::v1::CollectGarbageRequest;

use super::{CHECK_PATIENCE, Task};
use crate::agent::ask;
use crate::error::{CniError, INVALID_CONFIG};
use crate::netlink::Netlink;

/// Frees addresses and removes veths, as many as it can.
///
/// # Errors
/// No list; else the first one, after everything has been tried.
pub async fn gc(task: &mut Task) -> Result<(), CniError> {
    let valid = task.config.valid_attachments.clone().ok_or_else(|| {
        let message = "GC without the list of valid attachments: everything would be removed";
        let details =
            "the runtime has to give cni.dev/valid-attachments, an empty list if it is so";
        CniError::new(INVALID_CONFIG, message, details)
    })?;
    let kept: BTreeSet<String> = valid.iter().map(host_interface).collect();
    let request = CollectGarbageRequest { valid };
    let collected = ask(&task.config.socket, "garbage collection", CHECK_PATIENCE, |mut client| {
        let request = request.clone();
        async move { client.collect_garbage(request).await }
    });
    let mut result = collected.await.map(drop);
    let netlink = Netlink::open()?;
    let links = netlink.links().await?.into_iter().map(|it| it.name);
    for name in links.filter(|it| is_host_interface(it) && !kept.contains(it)) {
        task.notes.push(format!("removed {name}, which no container has any more"));
        result = result.and(netlink.delete(&name).await.map(drop));
    }
    result
}
