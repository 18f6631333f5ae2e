//! Policy on a node: objects of the model in, rows for the dataplane out, judged by its engine.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "policy_state/cases.rs"]
mod cases;
#[path = "policy_state/claims.rs"]
mod claims;
#[path = "policy_state/desired.rs"]
mod desired;
#[path = "policy_state/engine.rs"]
mod engine;
#[path = "policy_state/generate.rs"]
mod generate;
#[path = "policy_state/histories.rs"]
mod histories;
#[path = "policy_state/names.rs"]
mod names;
#[path = "policy_state/problems.rs"]
mod problems;
