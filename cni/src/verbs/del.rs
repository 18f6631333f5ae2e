//! DEL: undoes ADD, as far as there is something, and never holds up the end of a pod.

use weir_api::cni::host_interface;
use weir_api::v1::ReleaseRequest;

use super::{DEL_PATIENCE, Task};
use crate::agent::ask;
use crate::error::CniError;
use crate::netlink::Netlink;

/// Frees the address and removes the veth. A namespace that is gone, and a call for what is not
/// there, are no errors; without an agent the address is left to its garbage collector.
///
/// # Errors
/// The kernel refuses to remove the veth.
pub async fn del(task: &mut Task) -> Result<(), CniError> {
    let attachment = task.call.attachment.clone();
    let request = ReleaseRequest { attachment: Some(attachment.clone()) };
    let released = ask(&task.config.socket, "release", DEL_PATIENCE, |mut client| {
        let request = request.clone();
        async move { client.release(request).await }
    });
    if let Err(error) = released.await {
        let error = error.for_runtime();
        task.notes.push(format!("the address is freed by the agent's garbage collector: {error}"));
    }
    // The pod's end goes with it, also where its namespace cannot be entered any more.
    Netlink::open()?.delete(&host_interface(&attachment)).await.map(drop)
}
