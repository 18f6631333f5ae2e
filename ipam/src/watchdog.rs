//! Tells in the cluster which objects weir refuses, and why: everything is read as agents read it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use weir_control::model::{Kind, Problem};
use weir_control::source::Batch;
use weir_control::source::kube::KubeSource;
use weir_control::source::kube::report::Reporter;

/// Before the next part of many objects is told of.
const NEXT: Duration = Duration::from_secs(1);
/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Works until it is dropped; `instance` is the name of this process. `server` is the API server's
/// URL, for messages; `seed` is that of the random part of waiting times.
pub async fn run_watchdog(
    client: kube::Client,
    server: String,
    instance: String,
    seed: u64,
) -> anyhow::Error {
    let (sender, batches) = mpsc::channel(1);
    let (state, _) = watch::channel(String::new());
    let source = KubeSource { client: client.clone(), server, kinds: Kind::ALL.into(), seed };
    tokio::select! {
        () = source.run(sender, state) => anyhow::anyhow!("the watches of all kinds have ended"),
        () = tell(Reporter::new(client, instance), batches) => {
            anyhow::anyhow!("the reporter has ended")
        }
    }
}

async fn tell(mut reporter: Reporter, mut batches: mpsc::Receiver<Batch>) {
    let mut problems: Vec<Problem> = Vec::new();
    let mut again_in: Option<Duration> = None;
    let mut last_error = String::new();
    loop {
        tokio::select! {
            batch = batches.recv() => match batch {
                Some(batch) if batch.problems == problems && again_in.is_none() => continue,
                Some(batch) => problems = batch.problems,
                None => return,
            },
            () = tokio::time::sleep(again_in.unwrap_or(RETRY)), if again_in.is_some() => {}
        }
        again_in = match reporter.update(&problems).await {
            Ok(true) => None,
            Ok(false) => Some(NEXT),
            Err(error) => {
                let error = error.to_string();
                match error == last_error {
                    true => debug!("{error}"),
                    false => warn!("{error}"),
                }
                last_error = error;
                Some(RETRY)
            }
        };
    }
}
