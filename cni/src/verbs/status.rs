//! STATUS: could ADD be served?

use std::path::Path;

use tonic::Code;
use weir_api::socket::connect_cni;
use weir_api::v1::ReadyRequest;

use super::{STATUS_PATIENCE, Task};
use crate::agent::RETRY;
use crate::error::{CniError, LIMITED_CONNECTIVITY, NOT_AVAILABLE};

/// Asks the agent until it is ready, for a while: runtimes pass one refusal on as the node's being
/// not ready, and its restarts are normal.
///
/// # Errors
/// [`NOT_AVAILABLE`], or [`LIMITED_CONNECTIVITY`] where pods that there are may be cut off.
pub async fn status(task: &mut Task) -> Result<(), CniError> {
    let message = format!("weir-agent does not answer within {STATUS_PATIENCE:?}");
    let details = "see the log of weir-agent on this node";
    let mut last = CniError::new(NOT_AVAILABLE, message, details);
    let attempts = async {
        loop {
            match ask_whether_ready(&task.config.socket).await {
                Ok(()) => return,
                Err(error) => last = error,
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    let in_time = tokio::time::timeout(STATUS_PATIENCE, attempts).await;
    in_time.map_err(|_| last)
}

async fn ask_whether_ready(socket: &Path) -> Result<(), CniError> {
    let mut client = connect_cni(socket).await.map_err(|error| {
        let details = "see whether the pod of weir on this node runs, and its container `agent`";
        CniError::new(NOT_AVAILABLE, format!("weir-agent: {error}"), details)
    })?;
    client.ready(ReadyRequest {}).await.map(drop).map_err(|status| {
        let code = match status.code() {
            Code::FailedPrecondition => LIMITED_CONNECTIVITY,
            _ => NOT_AVAILABLE,
        };
        let details = "`weir status` on the node says more";
        CniError::new(code, format!("weir-agent: {}", status.message()), details)
    })
}
