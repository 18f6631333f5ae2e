//! What the plugin answers when it cannot do what it is asked (CNI specification 1.1, "Error").

use std::fmt;

use serde_json::{Value, json};
use tonic::Code;

/// An error with the code that runtimes act on. `message` is one line, `details` says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// 1-7, 11, 50, 51 as the specification has them; from 100 our own.
    pub code: u32,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub details: String,
}

/// The network configuration asks for a version of the specification that we do not speak.
pub const INCOMPATIBLE_VERSION: u32 = 1;
/// A variable of the environment is missing or wrong.
pub const INVALID_ENVIRONMENT: u32 = 4;
/// Standard input cannot be read.
pub const IO_FAILURE: u32 = 5;
/// Standard input is no JSON, or has a value of the wrong type.
pub const DECODING_FAILURE: u32 = 6;
/// A value of the network configuration is wrong.
pub const INVALID_CONFIG: u32 = 7;
/// The same call may succeed later.
pub const TRY_AGAIN_LATER: u32 = 11;
/// STATUS: ADD cannot be served.
pub const NOT_AVAILABLE: u32 = 50;
/// STATUS: ADD cannot be served, and containers that there are may be cut off.
pub const LIMITED_CONNECTIVITY: u32 = 51;
/// The kernel refuses a step.
pub const KERNEL: u32 = 100;
/// There is no free address.
pub const NO_ADDRESS: u32 = 101;
/// The container has another interface of this name.
pub const INTERFACE_EXISTS: u32 = 102;
/// CHECK: something is not as it was made.
pub const NOT_AS_MADE: u32 = 103;
/// The agent refuses the call.
pub const REFUSED: u32 = 104;

impl CniError {
    /// An error with its code.
    #[must_use]
    pub fn new(code: u32, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    /// What the agent answered, as a runtime should see it.
    #[must_use]
    pub fn from_agent(step: &str, status: &tonic::Status) -> Self {
        let code = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => TRY_AGAIN_LATER,
            // What a connection gives whose agent has gone.
            Code::Cancelled | Code::Unknown => TRY_AGAIN_LATER,
            Code::ResourceExhausted => NO_ADDRESS,
            _ => REFUSED,
        };
        let details = match code {
            TRY_AGAIN_LATER => {
                "the runtime tries again by itself; `weir status` on the node \
                                says what weir-agent waits for"
            }
            _ => "the log of weir-agent on the node has the same line",
        };
        Self::new(code, format!("weir-agent: {step}: {}", status.message()), details)
    }

    /// As it is printed.
    #[must_use]
    pub fn to_json(&self, cni_version: &str) -> Value {
        json!({
            "cniVersion": cni_version,
            "code": self.code,
            "msg": self.message,
            "details": self.details,
        })
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (code {})", self.message, self.details, self.code)
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_to_be_tried_again() {
        let of = |code| CniError::from_agent("Allocate", &tonic::Status::new(code, "no")).code;
        assert_eq!(of(Code::Unavailable), TRY_AGAIN_LATER);
        assert_eq!(of(Code::DeadlineExceeded), TRY_AGAIN_LATER);
        assert_eq!(of(Code::ResourceExhausted), NO_ADDRESS);
        assert_eq!(of(Code::FailedPrecondition), REFUSED);
        let json = CniError::new(7, "m", "d").to_json("0.4.0");
        assert_eq!(json["cniVersion"], "0.4.0");
        assert_eq!(
            (&json["code"], &json["msg"], &json["details"]),
            (&7.into(), &"m".into(), &"d".into())
        );
    }
}
