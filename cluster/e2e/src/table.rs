//! The account at the end: a table of groups, and every case that did not simply pass.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::{
    cases::{Case, GROUPS},
    known::{self, Known},
    results::{Outcome, Record, Results},
};

/// What was asked for and what became of it.
#[derive(Debug)]
pub struct Account<'a> {
    pub cases: &'a [Case],
    pub results: &'a Results,
    pub known: &'a [Known],
    /// Of the weir that is judged now: what passed with another is said to have.
    pub build: &'a str,
}

impl Account<'_> {
    fn record(&self, case: &Case) -> Option<&Record> {
        self.results.find(&case.name)
    }

    fn outcome(&self, case: &Case) -> Option<Outcome> {
        self.record(case).map(|record| record.outcome)
    }

    /// Cases that failed and are not known to, and cases that did not run to their end.
    pub fn unexpected(&self) -> Vec<&Case> {
        let is_bad = |case: &&Case| match self.outcome(case) {
            Some(Outcome::Failed) => known::find(self.known, &case.name).is_none(),
            Some(_) => false,
            None => true,
        };
        self.cases.iter().filter(is_bad).collect()
    }

    /// The table and the lists.
    pub fn describe(&self) -> String {
        let mut text = format!("{}\n", self.table());
        for case in self.cases {
            let Some(line) = self.line(case) else { continue };
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["group", "cases", "passed", "failed", "skipped", "not run", "time"]);
        let row = |name: &str, cases: &[&Case]| {
            let count = |outcome: Option<Outcome>| {
                cases.iter().filter(|case| self.outcome(case) == outcome).count().to_string()
            };
            let records = cases.iter().filter_map(|case| self.record(case));
            let seconds: f64 = records.map(|record| record.seconds).sum();
            let outcomes = [Outcome::Passed, Outcome::Failed, Outcome::Skipped];
            let [passed, failed, skipped] = outcomes.map(|outcome| count(Some(outcome)));
            let time = format!("{:.0} s", seconds);
            let total = cases.len().to_string();
            [name.to_owned(), total, passed, failed, skipped, count(None), time]
        };
        for (group, name) in GROUPS {
            let cases: Vec<&Case> = self.cases.iter().filter(|it| it.group == group).collect();
            if !cases.is_empty() {
                table.add_row(row(name, &cases));
            }
        }
        table.add_row(row("all", &self.cases.iter().collect::<Vec<_>>()));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// Of a case about which there is something to say.
    fn line(&self, case: &Case) -> Option<String> {
        let name = case.short_name();
        let Some(record) = self.record(case) else {
            return Some(format!("not run   {name}"));
        };
        let reason = &record.reason;
        Some(match record.outcome {
            Outcome::Failed => match known::find(self.known, &case.name) {
                Some(why) => format!("known     {name}\n            {why}"),
                None => format!("FAILED    {name}\n            {reason}"),
            },
            Outcome::Skipped => format!("skipped   {name}\n            {reason}"),
            Outcome::Passed if record.tries > 1 => format!("2nd try   {name}\n    {reason}"),
            Outcome::Passed if record.build != self.build => {
                format!("earlier   {name}\n            passed with build {}", record.build)
            }
            Outcome::Passed => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::read_list;

    fn record(case: &str, outcome: Outcome, tries: u32) -> Record {
        Record {
            case: case.into(),
            group: "services".into(),
            outcome,
            reason: "because".into(),
            seconds: 1.0,
            tries,
            build: "now".into(),
            nodes: 2,
        }
    }

    #[test]
    fn everything_that_did_not_pass_is_told() {
        let list = ["good", "bad", "known", "again", "skipped", "left out"]
            .map(|name| format!("f.go:1: [sig-network] Services {name}"));
        let cases = read_list(&list.join("\n")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::open(&folder.path().join("results")).unwrap();
        let mut add = |name: &str, outcome, tries| {
            let case = format!("[sig-network] Services {name}");
            results.add(record(&case, outcome, tries)).unwrap();
        };
        add("good", Outcome::Passed, 1);
        add("bad", Outcome::Failed, 2);
        add("known", Outcome::Failed, 2);
        add("again", Outcome::Passed, 2);
        add("skipped", Outcome::Skipped, 0);
        let known = vec![Known { text: "Services known".into(), reason: "told".into() }];
        let account = Account { cases: &cases, results: &results, known: &known, build: "now" };
        let unexpected: Vec<&str> =
            account.unexpected().iter().map(|case| case.short_name()).collect();
        assert_eq!(unexpected, ["Services bad", "Services left out"]);
        let text = account.describe();
        for line in ["FAILED    Services bad", "known     Services known", "2nd try   Services"] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        assert!(!text.contains("Services good"), "{text}");
        assert!(text.contains("not run   Services left out"), "{text}");
    }
}
