//! Domain names and their patterns (`pkg/policy/api/fqdn.go`, `pkg/fqdn/matchpattern`).

use crate::model::NamePattern;

/// Longest name (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 255;

/// Reads `matchName` or `matchPattern`, of which one must be there.
///
/// # Errors
/// Says what is wrong, and with which of the two fields, if with one.
pub(super) fn read_name_pattern(
    name: Option<&str>,
    pattern: Option<&str>,
) -> Result<NamePattern, (&'static str, String)> {
    let is_given = |it: &&str| !it.is_empty();
    match (name.filter(is_given), pattern.filter(is_given)) {
        (Some(name), None) => match normalize(name, false) {
            Some(name) => Ok(NamePattern::Name(name)),
            None => Err(("matchName", format!("{name:?} is not a domain name"))),
        },
        (None, Some(pattern)) => match normalize(pattern, true) {
            Some(pattern) => Ok(NamePattern::Pattern(pattern)),
            None => {
                let reason = format!(
                    "{pattern:?} is not a pattern: it is a domain name with '*' inside labels, and \
                     '**.' before it for any number of labels"
                );
                Err(("matchPattern", reason))
            }
        },
        (None, None) => Err(("", "give a matchName or a matchPattern".into())),
        (Some(_), Some(_)) => Err(("", "give either matchName or matchPattern, not both".into())),
    }
}

/// In lower case, without the dot at its end.
fn normalize(text: &str, is_pattern: bool) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let name = text.strip_suffix('.').unwrap_or(&text);
    let labels = if is_pattern { name.strip_prefix("**.").unwrap_or(name) } else { name };
    let is_inner = |it: u8| {
        it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_') || (is_pattern && it == b'*')
    };
    let is_label = |it: &str| !it.is_empty() && it.bytes().all(is_inner) && !it.contains("**");
    let is_fine = name.len() <= NAME_BYTES_MAX && labels.split('.').all(is_label);
    is_fine.then(|| name.to_owned())
}
