//! Answers: what becomes of a connection, and why.

use weir_tables::policy::PolicyAction;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// It passes if the L7 rules of a policy allow what is said on it.
    Redirect,
    /// It does not.
    Denied,
}

impl Verdict {
    /// `allowed` or `denied`: whether it passes L3 and L4.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed | Self::Redirect => "allowed",
            Self::Denied => "denied",
        }
    }
}

impl From<PolicyAction> for Verdict {
    fn from(action: PolicyAction) -> Self {
        match action {
            PolicyAction::Allow => Self::Allowed,
            PolicyAction::Deny => Self::Denied,
            PolicyAction::Redirect => Self::Redirect,
        }
    }
}

/// What becomes of a connection at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// At the pod that opens it; `None`: that end is no pod.
    pub egress: Option<Half>,
    /// At the pod that is asked; `None`: that end is no pod.
    pub ingress: Option<Half>,
}

impl Answer {
    /// Of both ends together.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let halves = self.egress.iter().chain(&self.ingress);
        halves.map(|it| it.verdict).max().unwrap_or(Verdict::Allowed)
    }

    /// Who checks what is said on it, as `http`, where the connection passes.
    #[must_use]
    pub fn redirect(&self) -> Option<&'static str> {
        if self.verdict() != Verdict::Redirect {
            return None;
        }
        self.egress.iter().chain(&self.ingress).find_map(|it| it.redirect)
    }
}

/// What becomes of a connection at one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half {
    /// Of this end alone.
    pub verdict: Verdict,
    /// The rule that decides, then the others that say the same, in their order.
    pub rules: Vec<String>,
    /// Why it is so.
    pub reason: Reason,
    /// Who checks what is said on it, with [`Verdict::Redirect`].
    pub redirect: Option<&'static str>,
    /// The pod is audited: a node lets through and reports what is denied here.
    pub is_audited: bool,
}

impl Half {
    pub(super) fn without_rule(reason: Reason, is_audited: bool) -> Self {
        let verdict = match reason {
            Reason::Closed => Verdict::Denied,
            _ => Verdict::Allowed,
        };
        Self { verdict, rules: Vec::new(), reason, redirect: None, is_audited }
    }
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The first of its rules decides.
    Rule,
    /// No policy selects the pod.
    NoPolicy,
    /// None of the policies that select it is about this direction.
    NoSection,
    /// No rule is about the other end and the port, and nothing is denied by default.
    NoRule,
    /// It is the same pod.
    Itself,
    /// Nodes reach their own pods.
    OwnNode,
    /// Its rules could not be made: everything is denied.
    Closed,
}

impl Reason {
    /// For people, to follow the verdict; `None` where a rule says it.
    #[must_use]
    pub fn explain(self) -> Option<&'static str> {
        match self {
            Self::Rule => None,
            Self::NoPolicy => Some("no policy selects it"),
            Self::NoSection => Some("no policy is about this direction"),
            Self::NoRule => Some("no rule is about this, and nothing is denied by default"),
            Self::Itself => Some("a pod always reaches itself"),
            Self::OwnNode => Some("a node always reaches its own pods"),
            Self::Closed => Some("its rules were refused"),
        }
    }
}
