//! Latencies as HDR histograms: every value counts, with three significant digits.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer ones count as this: five minutes.
const MAX_NS: u64 = 300_000_000_000;

/// Points of a curve from 90 % to 99 %, from there to 99.9 %, and so on.
const POINTS_PER_NINE: f64 = 10.0;

/// A histogram of nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// What is said of a histogram, in nanoseconds; zeros where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyNs {
    pub count: u64,
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub max: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// An empty histogram.
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_max(MAX_NS, 3).expect("bounds and digits are in range"))
    }

    /// Counts one value.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// The percentiles that people ask for.
    pub fn summary(&self) -> LatencyNs {
        if self.0.is_empty() {
            return LatencyNs::default();
        }
        LatencyNs {
            count: self.0.len(),
            mean: self.0.mean() as u64,
            p50: self.0.value_at_quantile(0.5),
            p90: self.0.value_at_quantile(0.9),
            p99: self.0.value_at_quantile(0.99),
            p99_9: self.0.value_at_quantile(0.999),
            max: self.0.max(),
        }
    }

    /// (quantile, nanoseconds): ten points per nine of the quantile, up to the largest value.
    pub fn curve(&self) -> Vec<(f64, u64)> {
        let count = self.0.len() as f64;
        let slower = (0..).map(|step| 10f64.powf(-f64::from(step) / POINTS_PER_NINE));
        let points = slower.take_while(|slower| slower * count >= 1.0);
        points.map(|slower| (1.0 - slower, self.0.value_at_quantile(1.0 - slower))).collect()
    }
}

/// Microseconds, as people read them.
impl fmt::Display for LatencyNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = [self.p50, self.p90, self.p99, self.p99_9, self.max, self.mean];
        row.iter().try_for_each(|ns| write!(f, "{:>10.1}", *ns as f64 / 1e3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_histograms_count_everything_once() {
        let (mut low, mut high) = (Latencies::new(), Latencies::new());
        (1..=500).for_each(|us| low.record(us * 1000));
        (501..=1000).for_each(|us| high.record(us * 1000));
        low.merge(&high);
        let summary = low.summary();
        assert_eq!(summary.count, 1000);
        let near = |value: u64, us: u64| value.abs_diff(us * 1000) <= us * 2;
        assert!(near(summary.p50, 500) && near(summary.p90, 900) && near(summary.p99, 990));
        assert!(near(summary.p99_9, 999) && near(summary.max, 1000) && near(summary.mean, 500));
    }

    #[test]
    fn a_curve_rises_to_the_maximum_and_an_empty_one_has_no_points() {
        let mut latencies = Latencies::new();
        assert_eq!((latencies.summary(), latencies.curve()), (LatencyNs::default(), vec![]));
        (1..=100_000).for_each(|ns| latencies.record(ns));
        let curve = latencies.curve();
        assert!(curve.len() == 51 && curve.windows(2).all(|pair| pair[0] <= pair[1]), "{curve:?}");
        latencies.record(u64::MAX);
        let max = latencies.summary().max;
        assert!(max.abs_diff(MAX_NS) <= MAX_NS / 1000, "{max}");
    }
}
