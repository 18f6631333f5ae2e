//! What crosses weir's process boundaries.
//!
//! - [`v1`]: the protocols, generated from `proto/weir/v1`: `state` (agent to dataplane), `observe`
//!   (people to dataplane), `agent` (people and the lab to agent), `cni` (CNI plugin to agent).
//! - [`object`]: names and printing of the state objects.
//! - [`cni`]: what the CNI plugin and the agent agree on.
//! - [`convert`]: addresses and MACs to and from their wire form.
//! - [`socket`]: Unix sockets for gRPC, both ends.
//! - [`health`]: whether a process is ready, for probes.
//! - [`paths`]: where sockets and files are.
//! - [`metrics`]: every metric that any weir process exports.
#![forbid(unsafe_code)]

pub mod cni;
pub mod convert;
pub mod health;
pub mod lock;
pub mod metrics;
pub mod object;
pub mod paths;
pub mod socket;

/// The protocols, version 1.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("weir.v1");
}

/// Largest gRPC message in either direction, bytes. A full state is one message: 10,000 services
/// with 100 backends each are about 25 MB. Servers set it by
/// `DataplaneServer::new(it).max_decoding_message_size(MESSAGE_BYTES_MAX)`; the clients of
/// [`socket`] have it set.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
