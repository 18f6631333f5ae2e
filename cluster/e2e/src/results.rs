//! What became of each case: one line of JSON each, written when the case ends.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Failed,
    /// Did not run, or said itself that it cannot run here.
    Skipped,
}

/// One line of the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The full text of the case.
    pub case: String,
    pub group: String,
    pub outcome: Outcome,
    /// Empty if it passed.
    pub reason: String,
    /// Of the last try.
    pub seconds: f64,
    /// How often it ran; 0 if it was not tried.
    pub tries: u32,
    /// Of what it judged, see [`crate::build`].
    pub build: String,
    pub nodes: u8,
}

/// The file of records: a later line of a case replaces those before it.
#[derive(Debug)]
pub struct Results {
    file: File,
    by_case: HashMap<String, Record>,
}

impl Results {
    /// Opens or makes the file. A last line that was cut short counts as not written.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let name = || path.display().to_string();
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).with_context(name)?;
        let text = fs::read_to_string(path).with_context(name)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").with_context(name)?;
        }
        let records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
        let by_case = records.map(|record| (record.case.clone(), record)).collect();
        Ok(Self { file, by_case })
    }

    /// The last record of a case.
    pub fn find(&self, case: &str) -> Option<&Record> {
        self.by_case.get(case)
    }

    /// Adds a record, on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, record: Record) -> Result<()> {
        let line = serde_json::to_string(&record).context("a record is JSON")?;
        self.file.write_all(format!("{line}\n").as_bytes()).context("cannot write the results")?;
        self.by_case.insert(record.case.clone(), record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(case: &str, outcome: Outcome) -> Record {
        Record {
            case: case.into(),
            group: "services".into(),
            outcome,
            reason: String::new(),
            seconds: 1.5,
            tries: 1,
            build: "b".into(),
            nodes: 2,
        }
    }

    #[test]
    fn the_last_record_of_a_case_counts_and_a_cut_line_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/results.jsonl");
        let mut results = Results::open(&path).unwrap();
        results.add(record("a", Outcome::Failed)).unwrap();
        results.add(record("a", Outcome::Passed)).unwrap();
        results.add(record("b", Outcome::Skipped)).unwrap();
        drop(results);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"case\":\"c\",\"gro");
        fs::write(&path, text).unwrap();
        let mut again = Results::open(&path).unwrap();
        assert_eq!(again.find("a").unwrap().outcome, Outcome::Passed);
        assert_eq!(again.find("c"), None);
        again.add(record("d", Outcome::Passed)).unwrap();
        assert_eq!(Results::open(&path).unwrap().find("d"), Some(&record("d", Outcome::Passed)));
    }
}
