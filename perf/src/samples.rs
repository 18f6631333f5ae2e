//! Interleaved samples of several cases.
//!
//! A shared machine slows down and recovers within seconds. Cases measured one after another would
//! meet different machines; here every round takes one sample of each, so that a slow second hurts
//! all of them alike, and differences and ratios are taken within a round.

use std::fmt::Write as _;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

/// Rounds whose samples are thrown away.
const WARM_UP: usize = 2;

/// How to measure.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// Only groups whose heading contains this.
    pub filter: Option<String>,
    /// Samples per case.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// What `cargo bench` says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Whether a group of this heading is wanted.
    pub fn wants(&self, heading: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| heading.contains(filter.as_str()))
    }
}

/// Cases that are compared with each other.
pub struct Group<'a> {
    heading: &'a str,
    unit: &'a str,
    cases: Vec<Case<'a>>,
}

struct Case<'a> {
    name: String,
    work: Box<dyn FnMut() -> f64 + 'a>,
}

/// The samples of a group: a row per case, each in the order of the rounds.
pub struct Table {
    heading: String,
    unit: String,
    rows: Vec<(String, Vec<f64>)>,
}

impl<'a> Group<'a> {
    /// An empty group. `unit` says what a sample is, such as `ns per packet`.
    pub fn new(heading: &'a str, unit: &'a str) -> Group<'a> {
        Group { heading, unit, cases: Vec::new() }
    }

    /// Adds a case: `work` takes one sample each time that it is called.
    pub fn case(&mut self, name: impl Into<String>, work: impl FnMut() -> f64 + 'a) {
        self.cases.push(Case { name: name.into(), work: Box::new(work) });
    }

    /// Takes the samples, one of each case per round.
    pub fn measure(mut self, options: &Options) -> Table {
        let mut rows: Vec<_> =
            self.cases.iter().map(|case| (case.name.clone(), Vec::new())).collect();
        for round in 0..WARM_UP + options.samples as usize {
            for (case, row) in self.cases.iter_mut().zip(&mut rows) {
                let sample = (case.work)();
                if round >= WARM_UP {
                    row.1.push(sample);
                }
            }
        }
        Table { heading: self.heading.into(), unit: self.unit.into(), rows }
    }
}

impl Table {
    /// Adds a row made of two others, round by round.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn derive(&mut self, name: &str, (a, b): (&str, &str), with: impl Fn(f64, f64) -> f64) {
        let rounds = self.row(a).iter().zip(self.row(b)).map(|(a, b)| with(*a, *b)).collect();
        self.rows.push((name.into(), rounds));
    }

    fn row(&self, name: &str) -> &[f64] {
        let row = self.rows.iter().find(|row| row.0 == name);
        &row.unwrap_or_else(|| panic!("no case {name}")).1
    }

    /// Prints median, least and most of each row.
    pub fn print(&self) {
        println!("{}", self.show());
    }

    fn show(&self) -> String {
        let width = self.rows.iter().map(|row| row.0.chars().count()).max().unwrap_or(0);
        let samples = self.rows.first().map_or(0, |row| row.1.len());
        let mut text = format!("{} ({}, {samples} samples)\n", self.heading, self.unit);
        let _ = writeln!(text, "  {:width$}  {:>9}  {:>9}  {:>9}", "", "median", "min", "max");
        for (name, samples) in &self.rows {
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
            let median = median_of(&sorted);
            let _ = writeln!(text, "  {name:width$}  {median:9.2}  {min:9.2}  {max:9.2}");
        }
        text
    }
}

/// The middle of sorted samples.
fn median_of(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Nanoseconds per item of `work`, which does `items`: of this thread's processor time, so that a
/// neighbour who takes the processor away does not count. One who empties its caches still does.
pub fn time_per_item_ns(items: usize, work: impl FnOnce()) -> f64 {
    let start = thread_time_ns();
    work();
    (thread_time_ns() - start) as f64 / items as f64
}

fn thread_time_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_derived_within_a_round_and_shown_by_their_middle() {
        let options = Options { filter: None, samples: 3, bench: false };
        let mut a = [0.0, 0.0, 9.0, 1.0, 5.0].into_iter();
        let mut b = [0.0, 0.0, 8.0, 0.5, 1.0].into_iter();
        let mut group = Group::new("both", "ns");
        group.case("a", || a.next().expect("five rounds"));
        group.case("b", || b.next().expect("five rounds"));
        let mut table = group.measure(&options);
        table.derive("a - b", ("a", "b"), |a, b| a - b);
        assert_eq!(table.row("a - b"), [1.0, 0.5, 4.0]);
        let text = table.show();
        assert!(text.contains("both (ns, 3 samples)"), "{text}");
        assert!(text.contains("a           5.00       1.00       9.00"), "{text}");
        assert_eq!(median_of(&[1.0, 2.0]), 1.5);
    }
}
