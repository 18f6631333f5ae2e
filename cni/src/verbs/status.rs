//! STATUS: could ADD be served?

use tonic::Code;
use weir_api::socket::connect_cni;
use weir_api::v1::ReadyRequest;

use super::{STATUS_PATIENCE, Task};
use crate::error::{CniError, LIMITED_CONNECTIVITY, NOT_AVAILABLE};

/// Asks the agent once.
///
/// # Errors
/// [`NOT_AVAILABLE`], or [`LIMITED_CONNECTIVITY`] where pods that there are may be cut off.
pub async fn status(task: &mut Task) -> Result<(), CniError> {
    let socket = &task.config.socket;
    let question = async {
        let connected = connect_cni(socket).await;
        let mut client = connected.map_err(|error| {
            let details =
                "see whether the pod of weir on this node runs, and its container `agent`";
            CniError::new(NOT_AVAILABLE, format!("weir-agent: {error}"), details)
        })?;
        let answer = client.ready(ReadyRequest {}).await;
        answer.map(drop).map_err(|status| {
            let code = match status.code() {
                Code::FailedPrecondition => LIMITED_CONNECTIVITY,
                _ => NOT_AVAILABLE,
            };
            let details = "`weir status` on the node says more";
            CniError::new(code, format!("weir-agent: {}", status.message()), details)
        })
    };
    let in_time = tokio::time::timeout(STATUS_PATIENCE, question).await;
    in_time.unwrap_or_else(|_| {
        let message = format!("weir-agent does not answer within {STATUS_PATIENCE:?}");
        Err(CniError::new(NOT_AVAILABLE, message, "see the log of weir-agent on this node"))
    })
}
