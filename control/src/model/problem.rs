//! What is wrong with an object, for people.

use std::fmt;

use super::Origin;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object, or the part that the reason names, does not apply.
    Refused,
    /// The object applies; a feature that it asks for has no effect.
    Ignored,
}

impl Severity {
    /// As in logs, metrics and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Ignored => "ignored",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// Where, if it came from a file.
    pub location: Option<Origin>,
    /// Kind and `namespace/name`, or a file.
    pub object: String,
    /// What is wrong and what to do.
    pub reason: String,
    /// Whether the object applies.
    pub severity: Severity,
}

/// `web.yaml:3: Service default/web: refused: spec.ports[0].port: 70000 is outside 1..65535`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        write!(f, "{}: {}", self.severity.as_str(), self.reason)
    }
}

impl From<&Problem> for weir_api::v1::Problem {
    fn from(problem: &Problem) -> Self {
        let severity = match problem.severity {
            Severity::Refused => weir_api::v1::Severity::Refused,
            Severity::Ignored => weir_api::v1::Severity::Ignored,
        };
        Self {
            object: problem.object.clone(),
            location: problem.location.as_ref().map(ToString::to_string).unwrap_or_default(),
            reason: problem.reason.clone(),
            severity: severity.into(),
        }
    }
}
