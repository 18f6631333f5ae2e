//! What the lab's programs print: as JSON with `--json`, else for humans (`Display`).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Latencies in microseconds of successful requests, from connecting to the server's close.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyUs {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

/// `weir-lab-http get`: each request on a new connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GetReport {
    pub requests: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// By kind: `connect refused`, `timeout`, `reset`, `status 404`, ...
    pub failures: BTreeMap<String, u64>,
    /// Successes by the server's name.
    pub backends: BTreeMap<String, u64>,
    pub elapsed_ms: u64,
    pub requests_per_s: f64,
    pub latency: LatencyUs,
}

/// `weir-lab-http download`: parallel downloads, every byte verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DownloadReport {
    pub connections: u64,
    pub finished: u64,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    pub backends: BTreeMap<String, u64>,
    pub bytes: u64,
    pub elapsed_ms: u64,
    /// The longest time that any one connection made no progress (its making included).
    pub longest_gap_ms: u64,
    /// The longest time that no connection made progress.
    pub longest_gap_overall_ms: u64,
}

/// `weir-lab-udp ask`: questions and their echoes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpReport {
    pub sent: u64,
    pub answered: u64,
    pub lost: u64,
    /// By kind: `timeout`, `refused`.
    pub losses: BTreeMap<String, u64>,
    /// Answers beyond the first to one question, and those that came after its timeout.
    pub extra: u64,
    /// First answers by the server's name.
    pub backends: BTreeMap<String, u64>,
    /// The same by the address that the server saw.
    pub askers: BTreeMap<String, u64>,
    pub elapsed_ms: u64,
}

impl fmt::Display for GetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, succeeded, failed, elapsed_ms, requests_per_s, latency, .. } = self;
        writeln!(
            f,
            "{requests} requests on new connections: {succeeded} succeeded, {failed} failed"
        )?;
        writeln!(f, "{elapsed_ms} ms, {requests_per_s:.0} requests/s")?;
        writeln!(f, "latency us: p50 {} p99 {} max {}", latency.p50, latency.p99, latency.max)?;
        write_counts(f, "backends", &self.backends)?;
        write_counts(f, "failures", &self.failures)
    }
}

impl fmt::Display for DownloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, finished, failed, bytes, elapsed_ms, .. } = self;
        writeln!(f, "{connections} downloads: {finished} finished, {failed} failed")?;
        writeln!(f, "{bytes} bytes verified in {elapsed_ms} ms")?;
        let (one, all) = (self.longest_gap_ms, self.longest_gap_overall_ms);
        writeln!(f, "longest time without progress: {one} ms on one connection, {all} ms on all")?;
        write_counts(f, "backends", &self.backends)?;
        write_counts(f, "failures", &self.failures)
    }
}

impl fmt::Display for UdpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, answered, lost, extra, elapsed_ms, .. } = self;
        writeln!(f, "{sent} questions: {answered} answered, {lost} lost, {extra} extra answers")?;
        writeln!(f, "{elapsed_ms} ms")?;
        write_counts(f, "backends", &self.backends)?;
        write_counts(f, "losses", &self.losses)
    }
}

/// A heading and a line each; nothing when there is nothing.
fn write_counts(
    f: &mut fmt::Formatter<'_>,
    heading: &str,
    counts: &BTreeMap<String, u64>,
) -> fmt::Result {
    if !counts.is_empty() {
        writeln!(f, "{heading}:")?;
    }
    counts.iter().try_for_each(|(name, count)| writeln!(f, "  {name}: {count}"))
}

/// Prints a report the way `--json` asks for.
///
/// # Errors
/// None of the reports above fails to serialise.
pub fn print(report: &(impl Serialize + fmt::Display), json: bool) -> serde_json::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
