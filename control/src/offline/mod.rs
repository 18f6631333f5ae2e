//! What policies mean, from YAML alone: `weir policy check` and `weir policy diff`.
//!
//! All pods of a cluster are endpoints at once, their policies compiled and judged by the same code
//! that a node runs, so the answer is the node's. No dataplane, no API server, no clock.
//!
//! - [`Cluster`]: manifests, compiled. [`Cluster::judge`] answers one [`Probe`].
//! - [`run_batch`]: probes as JSON lines, answers as JSON lines.
//! - [`compare`]: which connections between workloads a change opens or closes.

mod answer;
mod batch;
mod cluster;
mod diff;
mod judge;
mod probe;
mod read;

pub use answer::{Answer, Half, Reason, Verdict};
pub use batch::{BatchSummary, answer_json, run_batch};
pub use cluster::Cluster;
pub use diff::{Change, Comparison, Effect, Party, compare};
pub use probe::{End, OfflineError, Probe, parse_l4};
pub use read::{ReadError, read_texts};
