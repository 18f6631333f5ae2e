//! The table of the README: one row per script.

/// The head of the table; its rows follow.
const HEAD: &str = "| Service | what works |\n|---|---|\n";

/// A README with these rows in its table.
pub fn with_rows(readme: &str, rows: &[(String, String)]) -> Result<String, String> {
    let Some((before, rest)) = readme.split_once(HEAD) else {
        return Err(format!("README.md has no table that starts\n{HEAD}"));
    };
    let is_row = |line: &&str| line.starts_with('|');
    let old: usize = rest.split_inclusive('\n').take_while(is_row).map(str::len).sum();
    let new: String =
        rows.iter().map(|(feature, sentence)| format!("| {feature} | {sentence} |\n")).collect();
    Ok([before, HEAD, &new, &rest[old..]].concat())
}

/// Lines that only one of two texts has.
pub fn difference(found: &str, expected: &str) -> String {
    let only = |these: &str, others: &str, sign: char| -> String {
        let lines = these.lines().filter(|line| !others.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    let text = only(found, expected, '-') + &only(expected, found, '+');
    if text.is_empty() { "the order of the rows\n".to_owned() } else { text }
}
