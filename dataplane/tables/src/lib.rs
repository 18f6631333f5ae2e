//! What control tells the dataplane, as one immutable value.
//!
//! ```text
//!  objects (frontend, backend set, endpoint, node)  --upsert/delete-->  Tables
//!  objects (identity, address, range, rules)  --upsert/delete-->  Tables: policy
//!  network (routes, neighbours, links of the kernel) --------------->  Tables
//!                                                      Tables::snapshot() -> Snapshot{revision}
//!  worker:  snapshot.frontend(key)   snapshot.resolve(destination)   snapshot.adjacency(index)
//! ```
//!
//! [`Tables`] is the writer's side: it accepts or refuses one object at a time and refuses by
//! name, with the reason. [`Snapshot`] is what workers read, once per turn; unchanged parts are
//! shared between snapshots, so one changed endpoint among 10,000 services costs microseconds.
//! [`MaglevTable`] picks backends exactly as the reference does, so that nodes of a mixed fleet
//! agree.
//!
//! No I/O, no clock, no randomness, no Kubernetes.
#![forbid(unsafe_code)]

mod adjacency;
mod backend_set;
mod ids;
mod jhash;
mod maglev;
mod murmur3;
mod network;
pub mod policy;
mod rejection;
mod rows;
mod snapshot;
mod tables;

pub use adjacency::{Adjacency, Link};
pub use backend_set::{Algorithm, Backend, BackendSet, BackendState};
pub use ids::{BackendAddr, PortId, WorkerId};
pub use jhash::flow_hash;
pub use maglev::{MaglevError, MaglevParams, MaglevTable};
pub use murmur3::murmur3_x64_128;
pub use network::{HostPort, Network, NextHop, Prefix, Route, RouteTarget, Uplink};
pub use rejection::Rejection;
pub use rows::{
    Bandwidth, DsrDispatch, Endpoint, FailureMode, Forwarding, Frontend, FrontendKey, FrontendType,
    NodeConfig, NodePorts, Object, ObjectRef, PodRoute, Rate, SnatPorts, SourceRanges,
};
pub use snapshot::{Egress, Snapshot};
pub use tables::Tables;
