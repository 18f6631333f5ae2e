//! The committed list of cases that are known not to pass, each with its reason.

use anyhow::{Result, bail, ensure};

/// The list that belongs to this build.
const KNOWN: &str = include_str!("../known.txt");

/// One line: part of a case's text, and why it does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub text: String,
    pub reason: String,
}

/// Reads the list of this build.
///
/// # Errors
/// A line without a reason, named by its number.
pub fn read_known() -> Result<Vec<Known>> {
    parse(KNOWN)
}

fn parse(text: &str) -> Result<Vec<Known>> {
    let mut known = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((text, reason)) = line.split_once(" | ") else {
            bail!("cluster/e2e/known.txt:{}: write TEXT | REASON", index + 1);
        };
        ensure!(!text.is_empty() && !reason.is_empty(), "known.txt:{}: empty", index + 1);
        known.push(Known { text: text.into(), reason: reason.into() });
    }
    Ok(known)
}

/// The reason of a case that is listed.
pub fn find<'a>(known: &'a [Known], case: &str) -> Option<&'a str> {
    known.iter().find(|it| case.contains(&it.text)).map(|it| it.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_list_can_be_read() {
        read_known().unwrap();
    }

    #[test]
    fn lines_need_a_reason() {
        let known = parse("# why\n\nServices should be odd | because\n").unwrap();
        assert_eq!(find(&known, "[sig-network] Services should be odd [Slow]"), Some("because"));
        assert_eq!(find(&known, "[sig-network] Services should be even"), None);
        assert!(parse("Services should be odd\n").is_err());
    }
}
