//! A real Kubernetes on one machine, for end-to-end tests: what `weir-cluster` consists of, for
//! tools that work with a running cluster ([`cluster`]).
//!
//! ```no_run
//! use weir_cluster::{cluster::Cluster, paths::State};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::find(&State::of("weir"))?;
//! println!("{}", cluster.ask(&["get", "nodes"])?);
//! cluster.node("node-1")?.command("ip").arg("route").status()?;
//! # Ok(())
//! # }
//! ```

pub mod cluster;
mod control_plane;
mod images;
mod install;
mod kubeconfig;
pub mod leftovers;
pub mod load;
pub mod network;
mod node;
mod node_config;
pub mod node_init;
pub mod paths;
mod pki;
pub mod plan;
mod process;
mod routes;
pub mod supervisor;
pub mod up;
