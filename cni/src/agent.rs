//! Calls of the agent. Its restarts are normal, so a call waits for it.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use weir_api::socket::connect_cni;
use weir_api::v1::cni_client::CniClient;

use crate::error::{CniError, TRY_AGAIN_LATER};

/// How soon a call is tried again that found nobody, or an agent that is not ready.
pub const RETRY: Duration = Duration::from_millis(100);

/// Makes a call. Nobody at the socket, and an agent that says `UNAVAILABLE`, is tried again for
/// `patience`.
///
/// # Errors
/// What the agent answers; [`TRY_AGAIN_LATER`] with the last reason where patience ends.
pub async fn ask<T, F>(
    socket: &Path,
    step: &str,
    patience: Duration,
    call: impl Fn(CniClient<Channel>) -> F,
) -> Result<T, CniError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut reason = None;
    let attempts = async {
        loop {
            match ask_once(socket, step, &call).await {
                Err(error) if error.code == TRY_AGAIN_LATER => reason = Some(error),
                result => return result,
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    match tokio::time::timeout(patience, attempts).await {
        Ok(result) => result,
        Err(_) => Err(reason.unwrap_or_else(|| {
            let message = format!("weir-agent: {step}: no answer within {patience:?}");
            CniError::new(TRY_AGAIN_LATER, message, "see whether weir-agent runs on this node")
        })),
    }
}

/// Makes a call once.
///
/// # Errors
/// As [`ask`], without patience.
pub async fn ask_once<T, F>(
    socket: &Path,
    step: &str,
    call: impl Fn(CniClient<Channel>) -> F,
) -> Result<T, CniError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let client = connect_cni(socket).await.map_err(|error| {
        let details = "see whether the pod of weir on this node runs, and its container `agent`";
        CniError::new(TRY_AGAIN_LATER, format!("weir-agent: {step}: {error}"), details)
    })?;
    match call(client).await {
        Ok(response) => Ok(response.into_inner()),
        // Its own limit is over: trying again would only wait once more.
        Err(status) if status.code() == Code::DeadlineExceeded => {
            let message = format!("weir-agent: {step}: {}", status.message());
            Err(CniError::new(TIMED_OUT, message, "`weir status` on the node says why"))
        }
        Err(status) => Err(CniError::from_agent(step, &status)),
    }
}

/// Told apart from [`TRY_AGAIN_LATER`] here only.
const TIMED_OUT: u32 = u32::MAX;

impl CniError {
    /// As runtimes know it.
    #[must_use]
    pub fn for_runtime(mut self) -> Self {
        if self.code == TIMED_OUT {
            self.code = TRY_AGAIN_LATER;
        }
        self
    }
}
