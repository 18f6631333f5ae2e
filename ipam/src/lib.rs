//! The operator: one process per cluster that gives out addresses and judges nodes.
//!
//! ```text
//!  Lease ─ lease (leader: who may act) ─► while leading:
//!     pools, namespaces, Services ─ watch ─► balancers ─ allocator ─► status of Services, pools
//!     nodes, agents' pods ─ watch ─► node_controller ─ nodes ─► taint, NetworkUnavailable
//!     all that agents read ─ watchdog ─► events on what is refused
//! ```
//!
//! Three pure state machines decide: [`leader`], [`allocator`] and [`nodes`]. Around them is thin
//! I/O, which is dropped as a whole when leading ends. There is no store: what was given out is in
//! the status of Services.
#![forbid(unsafe_code)]

pub mod allocator;
pub mod balancers;
pub mod cli;
pub mod crd;
pub mod error;
pub mod events;
pub mod leader;
pub mod lease;
pub mod metrics;
pub mod node_controller;
pub mod nodes;
pub mod operator;
pub mod service;
pub mod status;
pub mod watch;
pub mod watchdog;

/// Field manager of everything that the operator writes, and controller of its events.
pub const MANAGER: &str = "weir-operator";
