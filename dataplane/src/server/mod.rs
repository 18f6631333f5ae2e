//! The control side of the dataplane: one thread that accepts state, publishes snapshots and
//! answers questions. It never touches a packet.
//!
//! ```text
//!  agent --Update--> sync --Command--> Controller -> Tables -> Snapshot -> workers
//!                                        |  \-> Kernel: eBPF maps, port programs, pod routes
//!  agent <--Verdict-- after every worker runs the snapshot
//!  kernel's news --KernelState--> Controller     people --> observe, /metrics, /healthz
//! ```
//!
//! - [`controller`] owns the tables; everything that changes them goes through it, one at a time.
//! - [`kernel`] makes the kernel agree: which addresses are ours, which interfaces are ports.
//!   [`host`] is what it must know of the tables.
//! - [`sync`] and [`observe`] are the gRPC services, [`snat_usage`] and [`policy`] questions to the
//!   latter; [`http`] is `/metrics` and `/healthz`.
//! - [`state_file`] keeps the last accepted state, so that a restart needs no agent.
//! - [`node`] puts devices, workers and this thread together at start, on the interfaces that
//!   [`uplinks`] finds, with the [`privileges`] that it needs. [`health`] is how the process does.

pub mod controller;
pub mod convert;
pub mod health;
pub mod host;
pub mod http;
pub mod kernel;
pub mod node;
pub mod observe;
pub mod policy;
pub mod privileges;
pub mod shared;
pub mod snat_usage;
pub mod state_file;
pub mod sync;
pub mod uplinks;
