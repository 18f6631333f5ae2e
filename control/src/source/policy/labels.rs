//! Syntax of labels, and of the names that stand in policies (`k8s.io/apimachinery`:
//! `pkg/util/validation`).

/// Checks the key of a label: an optional DNS prefix and a slash, then a name.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|it| !is_subdomain(it)) {
        return Err(format!("{key:?} is not the key of a label: before '/' stands a DNS name"));
    }
    if name.is_empty() || !is_value(name) {
        let reason = "at most 63 letters, digits, '-', '_' and '.', of which the first and the \
                      last is a letter or digit";
        return Err(format!("{key:?} is not the key of a label: it has {reason}"));
    }
    Ok(())
}

/// Checks the value of a label.
pub(super) fn check_value(value: &str) -> Result<(), String> {
    if is_value(value) {
        return Ok(());
    }
    Err(format!(
        "{value:?} is not the value of a label: it has at most 63 letters, digits, '-', '_' and \
         '.', of which the first and the last is a letter or digit"
    ))
}

/// A DNS subdomain (RFC 1123), as names of objects are.
pub(super) fn is_subdomain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
        !label.is_empty()
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The value of a label may be empty.
fn is_value(text: &str) -> bool {
    let is_inner = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.');
    let is_edge = |it: Option<&u8>| it.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().copied().all(is_inner)
        && is_edge(bytes.first())
        && is_edge(bytes.last())
}
