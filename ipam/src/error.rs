//! What answers of the API server mean.

/// The object has changed meanwhile, or exists already.
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    has_code(error, 409)
}

/// There is no such object.
#[must_use]
pub fn is_gone(error: &kube::Error) -> bool {
    has_code(error, 404)
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// The error and its causes, each once.
#[must_use]
pub fn explain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(it) = cause {
        let part = it.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = it.source();
    }
    text
}
