//! The stream to the dataplane: connects, connects again, carries updates and verdicts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use weir_api::socket::connect_dataplane;
use weir_api::v1::dataplane_client::DataplaneClient;
use weir_api::v1::{Update, Verdict};

/// What happens on the stream.
#[derive(Debug)]
pub enum LinkEvent {
    /// Open: updates go into it, the first one with the full state.
    Opened(OpenLink),
    /// The dataplane's answer to an update.
    Answered(Verdict),
    /// Closed, or not opened; why, for people. It will be tried again.
    Closed(String),
}

/// An open stream; dropping it closes the stream, and another is opened.
#[derive(Debug)]
pub struct OpenLink {
    updates: mpsc::UnboundedSender<Update>,
    _open: oneshot::Sender<()>,
}

impl OpenLink {
    /// Sends an update. On a stream that has just failed it is lost: `Closed` follows, and the next
    /// stream starts with the full state.
    pub fn send(&self, update: Update) {
        let _ = self.updates.send(update);
    }
}

const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Keeps a stream to the dataplane at `socket` until the receiver of the events is dropped.
pub async fn run_link(socket: PathBuf, events: mpsc::UnboundedSender<LinkEvent>) {
    let mut wait = RETRY_MIN;
    while !events.is_closed() {
        let (reason, was_answered) = run_stream(&socket, &events).await;
        if events.send(LinkEvent::Closed(reason)).is_err() {
            return;
        }
        if was_answered {
            wait = RETRY_MIN;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Why the stream ended, and whether the dataplane ever answered on it.
async fn run_stream(socket: &Path, events: &mpsc::UnboundedSender<LinkEvent>) -> (String, bool) {
    let client = match connect_dataplane(socket).await {
        Ok(client) => client,
        Err(error) => return (error.to_string(), false),
    };
    let (updates, outgoing) = mpsc::unbounded_channel();
    let (open, dropped) = oneshot::channel();
    // Before the call: a server may wait for the first update before it answers the call itself.
    if events.send(LinkEvent::Opened(OpenLink { updates, _open: open })).is_err() {
        return (String::new(), false);
    }
    tokio::select! {
        end = exchange(client, outgoing, events) => end,
        _ = dropped => ("its answer did not fit".into(), false),
    }
}

async fn exchange(
    mut client: DataplaneClient<Channel>,
    outgoing: mpsc::UnboundedReceiver<Update>,
    events: &mpsc::UnboundedSender<LinkEvent>,
) -> (String, bool) {
    let mut verdicts = match client.sync(UnboundedReceiverStream::new(outgoing)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (describe(&status), false),
    };
    let mut was_answered = false;
    loop {
        match verdicts.message().await {
            Ok(Some(verdict)) => {
                was_answered = true;
                if events.send(LinkEvent::Answered(verdict)).is_err() {
                    return (String::new(), was_answered);
                }
            }
            Ok(None) => return ("the dataplane closed the stream".into(), was_answered),
            Err(status) => return (describe(&status), was_answered),
        }
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("the dataplane ended the stream: {} ({:?})", status.message(), status.code())
}
