//! `get`: N requests, each on a new connection, C at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::timeout};
use weir_lab::{
    clock::Stopwatch,
    report::{self, GetReport, LatencyUs},
};

use crate::client::{Target, fetch};

#[derive(clap::Args)]
pub struct Arguments {
    /// `http://ADDRESS:PORT/`
    #[arg(long)]
    url: String,
    /// How many in all.
    #[arg(long)]
    requests: u64,
    /// How many at a time.
    #[arg(long, default_value_t = 1)]
    concurrency: u64,
    /// For each request, from connecting to the server's close.
    #[arg(long, default_value_t = 5.0)]
    timeout_s: f64,
    /// Exit with success even if requests failed.
    #[arg(long)]
    allow_failures: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let target = Arc::new(Target::parse(&arguments.url)?);
    let limit = Duration::try_from_secs_f64(arguments.timeout_s)?;
    let left = Arc::new(AtomicU64::new(arguments.requests));
    let watch = Stopwatch::start();
    let mut workers = JoinSet::new();
    for _ in 0..arguments.concurrency.clamp(1, arguments.requests.max(1)) {
        workers.spawn(request_while(left.clone(), target.clone(), limit));
    }
    let mut report = GetReport { requests: arguments.requests, ..Default::default() };
    let mut latencies_us = Histogram::<u64>::new(3)?;
    for part in workers.join_all().await {
        let (part, part_us) = part?;
        latencies_us.add(part_us)?;
        for (name, count) in part.backends {
            *report.backends.entry(name).or_default() += count;
        }
        for (kind, count) in part.failures {
            *report.failures.entry(kind).or_default() += count;
        }
    }
    let elapsed = watch.elapsed();
    report.succeeded = report.backends.values().sum();
    report.failed = report.failures.values().sum();
    report.elapsed_ms = u64::try_from(elapsed.as_millis())?;
    report.requests_per_s = report.succeeded as f64 / elapsed.as_secs_f64();
    report.latency = LatencyUs {
        p50: latencies_us.value_at_quantile(0.5),
        p99: latencies_us.value_at_quantile(0.99),
        max: latencies_us.max(),
    };
    report::print(&report, arguments.json)?;
    Ok(report.failed == 0 || arguments.allow_failures)
}

/// One after the other, until none is left.
async fn request_while(
    left: Arc<AtomicU64>,
    target: Arc<Target>,
    limit: Duration,
) -> anyhow::Result<(GetReport, Histogram<u64>)> {
    let mut report = GetReport::default();
    let mut latencies_us = Histogram::<u64>::new(3)?;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        let watch = Stopwatch::start();
        let outcome = timeout(limit, fetch(&target, |_| Ok(()))).await;
        match outcome.unwrap_or_else(|_| Err("timeout".into())) {
            Ok(name) => {
                *report.backends.entry(name).or_default() += 1;
                latencies_us.record(u64::try_from(watch.elapsed().as_micros())?.max(1))?;
            }
            Err(kind) => *report.failures.entry(kind).or_default() += 1,
        }
    }
    Ok((report, latencies_us))
}
