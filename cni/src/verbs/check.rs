//! CHECK: is everything as ADD made it?

use weir_api::v1::CheckRequest;

use super::{CHECK_PATIENCE, Task, compare};
use crate::agent::ask;
use crate::error::{CniError, INVALID_CONFIG, INVALID_ENVIRONMENT, NOT_AS_MADE};
use crate::namespace::Namespace;
use crate::result::Interface;

/// Compares the agent's view, the result of ADD, and the kernel's state.
///
/// # Errors
/// [`NOT_AS_MADE`] with every difference; what cannot be looked at.
pub async fn check(task: &mut Task) -> Result<(), CniError> {
    let Some(prev) = &task.config.prev_result else {
        let details = "the runtime gives CHECK what ADD answered";
        return Err(CniError::new(INVALID_CONFIG, "prevResult is missing", details));
    };
    let path = task.call.netns.clone().unwrap_or_default();
    let namespace = Namespace::open(&path)?.ok_or_else(|| {
        let message = format!("CNI_NETNS={}: no such network namespace", path.display());
        CniError::new(INVALID_ENVIRONMENT, message, "the container has ended: delete it")
    })?;
    let request = CheckRequest { attachment: Some(task.call.attachment.clone()) };
    let reply = ask(&task.config.socket, "check", CHECK_PATIENCE, |mut client| {
        let request = request.clone();
        async move { client.check(request).await }
    });
    let reply = reply.await?.allocated.unwrap_or_default();
    let wanted = Interface::read(&task.call.attachment.ifname, &reply)?;
    let mut differences = wanted.compare(prev);
    match compare(&namespace, &wanted).await? {
        Some(found) => differences.extend(found.differences),
        None => differences.push(format!("the pod has no interface {}", wanted.name)),
    }
    if differences.is_empty() {
        return Ok(());
    }
    let details = "delete the pod: its controller makes a new one, with a network that works";
    Err(CniError::new(NOT_AS_MADE, differences.join("; "), details))
}
