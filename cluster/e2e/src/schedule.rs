//! All cases: several at a time, then those that want the cluster to themselves, then those that
//! failed once more.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, atomic::Ordering, mpsc},
    thread,
};

use anyhow::Result;

use crate::{
    cases::Case,
    results::{Outcome, Record, Results},
    run::{Ended, Runner},
};

/// A run of many cases.
#[derive(Debug)]
pub struct Schedule<'a> {
    pub runner: &'a Runner,
    pub results: &'a mut Results,
    pub build: String,
    pub nodes: u8,
    /// Cases at one time.
    pub parallel: usize,
    /// How many are done, of all.
    pub progress: (usize, usize),
}

impl Schedule<'_> {
    /// Runs all of them and records each as it ends. Stops early when it is interrupted.
    ///
    /// # Errors
    /// `e2e.test` cannot be started, or a result not be written.
    pub fn run(&mut self, cases: &[Case]) -> Result<()> {
        self.progress = (0, cases.len());
        let (alone, together): (Vec<&Case>, Vec<&Case>) =
            cases.iter().partition(|case| case.is_serial());
        self.run_set(&together, self.parallel, None)?;
        self.run_set(&alone, 1, None)?;
        self.run_again(cases)
    }

    /// Each failed case once more, alone: never silently, the record tells of both tries.
    fn run_again(&mut self, cases: &[Case]) -> Result<()> {
        let failed = |case: &&Case| {
            let record = self.results.find(&case.name);
            record.filter(|it| it.outcome == Outcome::Failed && it.tries == 1).is_some()
        };
        let failed: Vec<&Case> = cases.iter().filter(failed).collect();
        self.progress = (0, failed.len());
        for case in failed {
            let first = self.results.find(&case.name).map(|it| it.reason.clone());
            self.run_set(&[case], 1, first.as_deref())?;
        }
        Ok(())
    }

    fn run_set(&mut self, cases: &[&Case], parallel: usize, first: Option<&str>) -> Result<()> {
        let queue = Mutex::new(cases.iter().copied().collect::<VecDeque<_>>());
        let (sender, ended) = mpsc::channel();
        let runner = self.runner;
        thread::scope(|scope| {
            for _ in 0..parallel.min(cases.len()) {
                let (sender, queue) = (sender.clone(), &queue);
                scope.spawn(move || {
                    while let Some(case) = next(runner, queue) {
                        // Nobody listens any more only after an error, which ends everything.
                        let _ = sender.send((case, runner.run(case)));
                    }
                });
            }
            drop(sender);
            for (case, result) in ended {
                self.record(case, result?, first)?;
            }
            Ok(())
        })
    }

    fn record(&mut self, case: &Case, ended: Ended, first: Option<&str>) -> Result<()> {
        if self.runner.interrupted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let reason = match (first, ended.outcome) {
            (Some(first), Outcome::Passed) => format!("passed on the 2nd try; the 1st: {first}"),
            _ => ended.reason,
        };
        self.progress.0 += 1;
        println!(
            "[{}/{}] {:<7} {:>6.1} s  {:<13} {}",
            self.progress.0,
            self.progress.1,
            format!("{:?}", ended.outcome).to_lowercase(),
            ended.seconds,
            case.group,
            case.short_name(),
        );
        if !reason.is_empty() {
            println!("          {reason}");
        }
        self.results.add(Record {
            case: case.name.clone(),
            group: case.group.to_string(),
            outcome: ended.outcome,
            reason,
            seconds: ended.seconds,
            tries: if first.is_some() { 2 } else { 1 },
            build: self.build.clone(),
            nodes: self.nodes,
        })
    }
}

fn next<'a>(runner: &Runner, queue: &Mutex<VecDeque<&'a Case>>) -> Option<&'a Case> {
    if runner.interrupted.load(Ordering::Relaxed) {
        return None;
    }
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}
