//! `download`: C downloads at once, every byte verified, and for how long nothing moved.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{task::JoinSet, time::timeout};
use weir_lab::{
    clock::Stopwatch,
    pattern,
    report::{self, DownloadReport},
};

use crate::client::{Target, fetch};

#[derive(clap::Args)]
pub struct Arguments {
    /// `http://ADDRESS:PORT/bytes/N?pace_ms=P`
    #[arg(long)]
    url: String,
    /// How many downloads at once.
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// For each download.
    #[arg(long, default_value_t = 120.0)]
    timeout_s: f64,
    /// Exit with success even if downloads failed.
    #[arg(long)]
    allow_failures: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Notes progress and keeps the longest time between two notes.
#[derive(Clone, Copy)]
struct Gap {
    last: Duration,
    longest: Duration,
}

impl Gap {
    fn starting_at(now: Duration) -> Self {
        Self { last: now, longest: Duration::ZERO }
    }

    fn progress(&mut self, now: Duration) {
        self.longest = self.longest.max(now.saturating_sub(self.last));
        self.last = now;
    }
}

pub async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let target = Arc::new(Target::parse(&arguments.url)?);
    let length: u64 = target
        .path()
        .strip_prefix("/bytes/")
        .and_then(|length| length.parse().ok())
        .with_context(|| format!("the path of {} is not /bytes/NUMBER", arguments.url))?;
    let limit = Duration::try_from_secs_f64(arguments.timeout_s)?;
    let watch = Stopwatch::start();
    let overall = Arc::new(Mutex::new(Gap::starting_at(Duration::ZERO)));
    let mut downloads = JoinSet::new();
    for _ in 0..arguments.connections {
        downloads.spawn(download(target.clone(), length, limit, watch, overall.clone()));
    }
    let mut report = DownloadReport { connections: arguments.connections, ..Default::default() };
    let mut longest = Duration::ZERO;
    while let Some(ended) = downloads.join_next().await {
        let (outcome, bytes, gap) = ended?;
        match outcome {
            Ok(name) => *report.backends.entry(name).or_default() += 1,
            Err(kind) => *report.failures.entry(kind).or_default() += 1,
        }
        report.bytes += bytes;
        longest = longest.max(gap);
    }
    let overall = overall.lock().unwrap_or_else(PoisonError::into_inner).longest;
    report.finished = report.backends.values().sum();
    report.failed = report.failures.values().sum();
    report.elapsed_ms = u64::try_from(watch.elapsed().as_millis())?;
    report.longest_gap_ms = u64::try_from(longest.as_millis())?;
    report.longest_gap_overall_ms = u64::try_from(overall.as_millis())?;
    report::print(&report, arguments.json)?;
    Ok(report.failed == 0 || arguments.allow_failures)
}

/// One download: its outcome, how many good bytes came, and its longest gap.
async fn download(
    target: Arc<Target>,
    length: u64,
    limit: Duration,
    watch: Stopwatch,
    overall: Arc<Mutex<Gap>>,
) -> (Result<String, String>, u64, Duration) {
    let mut gap = Gap::starting_at(watch.elapsed());
    let mut received = 0;
    let take = |data: &[u8]| {
        if !pattern::matches(received, data) {
            return Err("wrong bytes".into());
        }
        received += data.len() as u64;
        let now = watch.elapsed();
        gap.progress(now);
        overall.lock().unwrap_or_else(PoisonError::into_inner).progress(now);
        Ok(())
    };
    let fetched = timeout(limit, fetch(&target, take)).await;
    let mut outcome = fetched.unwrap_or_else(|_| Err("timeout".into()));
    if outcome.is_ok() && received != length {
        outcome = Err("closed early".into());
    }
    // A download that stalled to its end has its longest gap there.
    gap.progress(watch.elapsed());
    (outcome, received, gap.longest)
}
