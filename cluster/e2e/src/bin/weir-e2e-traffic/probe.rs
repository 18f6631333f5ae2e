//! The prober: new connections, one after the other, to show that services are there.

use std::net::SocketAddr;

use anyhow::Result;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, MissedTickBehavior, interval, timeout},
};
use weir_lab::clock::Stopwatch;

use crate::{RECORD_BYTES_MIN, unix_seconds};

/// A connection with its answer takes longer: failed. A lost SYN is sent again after 1 and 3 s.
const PROBE_TIMEOUT: Duration = Duration::from_secs(8);
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// One line of output, each second: all since the start.
#[derive(Debug, Default, Serialize)]
struct Account {
    unix_seconds: u64,
    probes: u64,
    failed: u64,
    slowest_ms: u64,
    /// The slowest since the line before.
    second_slowest_ms: u64,
    /// Of the last failure.
    reason: String,
}

/// Probes the targets in turn until the time is over.
///
/// # Errors
/// The account cannot be written. A failed probe is no error here: the account counts it.
pub async fn run(targets: &[SocketAddr], seconds: u64) -> Result<()> {
    let watch = Stopwatch::start();
    let mut account = Account::default();
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut printed = 0;
    for target in targets.iter().cycle() {
        ticks.tick().await;
        let one = Stopwatch::start();
        let result = timeout(PROBE_TIMEOUT, probe(*target)).await;
        let took_ms = one.elapsed_ns() / 1_000_000;
        account.probes += 1;
        account.slowest_ms = account.slowest_ms.max(took_ms);
        account.second_slowest_ms = account.second_slowest_ms.max(took_ms);
        let reason = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".into()),
        };
        if let Some(reason) = reason {
            account.failed += 1;
            account.reason = format!("{target}: {reason}");
        }
        let elapsed = watch.elapsed().as_secs();
        if elapsed > printed {
            printed = elapsed;
            account.unix_seconds = unix_seconds()?;
            println!("{}", serde_json::to_string(&account)?);
            account.second_slowest_ms = 0;
        }
        if elapsed >= seconds {
            break;
        }
    }
    Ok(())
}

async fn probe(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    let mut record = [0x77; RECORD_BYTES_MIN];
    stream.write_all(&record).await?;
    stream.read_exact(&mut record).await.map(drop)
}
