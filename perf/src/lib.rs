//! Speed as evidence. The benches are in `benches/`; what they share is here, and how to read their
//! figures is in `README.md`.
//!
//! - [`samples`]: interleaved samples of several cases, and a table of median, least and most.
//! - [`machine`]: what the figures were taken on, and what else it was doing.
//! - [`memory`]: a node in memory: pods, services, packets, and a worker over them.
//! - [`turns`]: what such a worker's turns take, with packets of known flows and with first ones.
#![forbid(unsafe_code)]

pub mod machine;
pub mod memory;
pub mod samples;
pub mod turns;
