//! weir's control process: Kubernetes YAML -> model -> desired state -> dataplane; and the CLI.
//!
//! ```text
//!  source ─Batch─► desired (model -> state objects) ─Changes─► publish ─Update─► link ─► dataplane
//!                  ▲                                             ▲                 │
//!  endpoints (AttachEndpoint, on disk)                           └────Verdict──────┘
//! ```
//!
//! Three types matter: [`source::Batch`], what a source tells; [`desired::Desired`], the pure and
//! incremental computation of this node's state; [`publish::Publisher`], the agent's side of the
//! state protocol. [`agent`] puts them into one loop with no lock; [`cli`] is what people type.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod clock;
pub mod cni;
pub mod compile;
pub mod desired;
pub mod endpoints;
pub mod http;
pub mod link;
pub mod model;
pub mod offline;
pub mod policy;
pub mod publish;
pub mod settings;
pub mod source;
