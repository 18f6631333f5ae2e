//! What is said of a run: JSON for programs, `Display` for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::account::{Account, Counters};
use crate::latency::LatencyNs;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// No entry in `failures`.
    pub ok: bool,
    /// What is wrong, for people.
    pub failures: Vec<String>,
    /// What to know beside the numbers.
    pub notes: Vec<String>,
    pub setup: Setup,
    /// offered, sent, received, losses.
    pub account: Account,
    pub balance: Balance,
    pub order: Order,
    pub sent_pps: f64,
    pub received_pps: f64,
    /// First arrivals by sink.
    pub sinks: BTreeMap<String, u64>,
    /// From the intended time of sending: what users of an open system see.
    pub latency_ns: LatencyNs,
    /// From the actual time of sending: without the generator's own delays.
    pub transit_ns: LatencyNs,
    /// How much later than intended packets were sent.
    pub lateness_ns: LatencyNs,
    /// All counters of the AF_XDP sockets since they were opened, by place.
    pub sockets: BTreeMap<String, Counters>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Number of the run, in its packets.
    pub run: u32,
    /// `one-way` or `round-trip`.
    pub mode: String,
    pub interface: String,
    pub source: String,
    pub destination: String,
    pub flows: u32,
    /// Bytes of a frame, without FCS.
    pub size: usize,
    pub rate_pps: u64,
    pub duration_s: f64,
    pub warmup_s: f64,
    pub max_loss: f64,
}

/// What follows from the account: `sent = received + counted - others + unexplained`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    pub missing: u64,
    pub counted: u64,
    pub unexplained: u64,
    pub others: u64,
    /// Missing as a part of sent.
    pub loss_ratio: f64,
}

/// Copies, order and holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub duplicates: u64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
    pub corrupted: u64,
    /// Packets to the sinks that are not of this run.
    pub foreign: u64,
    /// Runs of missing packets, by flow.
    pub gaps: u64,
    pub flows_with_gaps: u64,
    /// Consecutive packets that are missing, over all flows, and how long that was.
    pub longest_gap: u64,
    pub longest_gap_ms: f64,
}

impl From<&Account> for Balance {
    fn from(account: &Account) -> Self {
        Self {
            missing: account.missing(),
            counted: account.counted(),
            unexplained: account.unexplained(),
            others: account.others(),
            loss_ratio: account.loss_ratio(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_setup(f)?;
        self.fmt_account(f)?;
        self.fmt_order(f)?;
        writeln!(f, "\nmicroseconds        p50       p90       p99     p99.9       max      mean")?;
        writeln!(f, "latency     {}", self.latency_ns)?;
        writeln!(f, "transit     {}", self.transit_ns)?;
        writeln!(f, "lateness    {}", self.lateness_ns)?;
        writeln!(f, "(latency counts from the intended time, transit from the actual one)\n")?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "FAILED: {failure}"))?;
        if self.ok { writeln!(f, "ok: the account closes") } else { Ok(()) }
    }
}

impl Report {
    fn fmt_setup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { run, mode, interface, source, destination, .. } = &self.setup;
        let Setup { flows, size, rate_pps, duration_s, .. } = &self.setup;
        writeln!(f, "run {run:08x}: {mode}, {interface}: {source} to UDP {destination}")?;
        writeln!(f, "{rate_pps} packets/s of {size} bytes for {duration_s} s in {flows} flows\n")
    }

    fn fmt_account(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account { offered, sent, received, losses } = &self.account;
        let Balance { missing, unexplained, others, loss_ratio, .. } = self.balance;
        writeln!(f, "offered     {offered:>12}")?;
        writeln!(f, "sent        {sent:>12}   {:.0}/s", self.sent_pps)?;
        writeln!(f, "received    {received:>12}   {:.0}/s", self.received_pps)?;
        if self.sinks.len() > 1 {
            let share = |count: u64| count as f64 * 100.0 / (*received).max(1) as f64;
            let mut sinks = self.sinks.iter();
            sinks.try_for_each(|(sink, count)| {
                writeln!(f, "            {count:>12}   {:.1} %  {sink}", share(*count))
            })?;
        }
        writeln!(f, "missing     {missing:>12}   {:.4} %", loss_ratio * 100.0)?;
        losses
            .iter()
            .try_for_each(|(name, count)| writeln!(f, "  counted   {count:>12}   {name}"))?;
        if others > 0 {
            writeln!(f, "  of others {others:>12}   counted beyond what is missing")?;
        }
        writeln!(f, "unexplained {unexplained:>12}")
    }

    fn fmt_order(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Order { duplicates, reordered, corrupted, foreign, .. } = self.order;
        let Order { gaps, flows_with_gaps, longest_gap, longest_gap_ms, .. } = self.order;
        write!(f, "{duplicates} duplicates, {reordered} reordered, {corrupted} corrupted, ")?;
        writeln!(f, "{foreign} of other runs")?;
        if gaps > 0 {
            write!(f, "{gaps} gaps in {flows_with_gaps} flows, the longest over all flows ")?;
            writeln!(f, "{longest_gap} packets ({longest_gap_ms:.2} ms)")?;
        }
        Ok(())
    }
}
