//! Label selectors in text form, as `kubectl -l` takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// Requirements on labels; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<(String, Requirement)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(BTreeSet<String>),
    /// Holds as well where the label is absent.
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|(key, requirement)| {
            let value = labels.get(key);
            match requirement {
                Requirement::In(values) => value.is_some_and(|it| values.contains(it)),
                Requirement::NotIn(values) => value.is_none_or(|it| !values.contains(it)),
                Requirement::Exists => value.is_some(),
                Requirement::Absent => value.is_none(),
            }
        })
    }
}

/// `zone=a,tier!=db,disk in (ssd, nvme),arch notin (arm),edge,!old`
/// (`k8s.io/apimachinery/pkg/labels`; its `<` and `>` are not read).
impl FromStr for LabelSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = split_outside_parentheses(text);
        let requirements = parts.into_iter().map(parse_requirement);
        Ok(Self { requirements: requirements.collect::<Result<_, _>>()? })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut is_inside = false;
    let is_separator = move |it: char| {
        is_inside = it == '(' || (is_inside && it != ')');
        it == ',' && !is_inside
    };
    text.split(is_separator).collect()
}

fn parse_requirement(text: &str) -> Result<(String, Requirement), String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is not a label selector: write key=value or key in (a, b)");
    let one = |value: &str| -> Result<BTreeSet<String>, String> {
        let value = value.trim();
        if is_value(value) { Ok([value.to_owned()].into()) } else { Err(wrong()) }
    };
    let (key, requirement) = if let Some(key) = text.strip_prefix('!') {
        (key, Requirement::Absent)
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Requirement::NotIn(one(value)?))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Requirement::In(one(value)?))
    } else if let Some(list) = text.strip_suffix(')') {
        let (head, list) = list.split_once('(').ok_or_else(wrong)?;
        let values: BTreeSet<String> = list.split(',').map(|it| it.trim().to_owned()).collect();
        if !values.iter().all(|it| is_value(it)) {
            return Err(wrong());
        }
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            [key, "in"] => (key, Requirement::In(values)),
            [key, "notin"] => (key, Requirement::NotIn(values)),
            _ => return Err(wrong()),
        }
    } else {
        (text, Requirement::Exists)
    };
    let key = key.trim();
    if key.is_empty() || !is_value(key.replacen('/', "", 1).as_str()) {
        return Err(wrong());
    }
    Ok((key.to_owned(), requirement))
}

/// A label's value may be empty.
fn is_value(text: &str) -> bool {
    text.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.'))
}
