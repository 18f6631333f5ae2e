//! Traffic for measurements: an open-loop generator over AF_XDP, sinks, a reflector, and an account
//! that must close.
//!
//! ```text
//!  Schedule ─► Sender ─► Wire (AF_XDP) ──► the path under test ──► sinks ─► Arrivals
//!                │                                │                 │          │
//!             lateness                        witnesses          losses     latency
//!                └──────────────► Account ◄───────┴─────────────────┴──────────┘
//!                                    └─► Report: sent = received + counted losses, or FAILED
//! ```
//!
//! Reading order: [`schedule`], [`message`], [`template`] (what leaves, and when), [`arrivals`] and
//! [`latency`] (what came), [`account`] (does it add up) are pure. [`wire`], [`sender`], [`sinks`]
//! and [`witness`] talk to the kernel; [`run`] puts all together.
#![forbid(unsafe_code)]

pub mod account;
pub mod arrivals;
pub mod clock;
pub mod cpu;
pub mod echo;
pub mod latency;
pub mod link;
pub mod message;
pub mod namespace;
pub mod plot;
pub mod report;
pub mod run;
pub mod schedule;
pub mod sender;
pub mod sinks;
pub mod socket_sink;
pub mod template;
pub mod wire;
pub mod witness;
pub mod xdp_sink;
