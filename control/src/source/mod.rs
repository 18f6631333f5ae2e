//! Where objects come from. A source sends [`Batch`]es; the first carries everything that it has.
//!
//! - [`file`]: a directory of YAML, watched. It reads text by [`manifest`] over [`yaml`].
//! - [`kube`]: the API server, watched.
//! - [`kubernetes`]: Kubernetes objects to the model, with every check; shared by all sources. Its
//!   parts: [`fields`], services and their policies, slices, pods, nodes, network policy.
//!
//! Tests are a source too: anything that sends batches is one.

pub mod fields;
pub mod file;
pub mod kube;
pub mod kubernetes;
pub mod manifest;
mod nodes;
mod pods;
mod policy;
mod service_policy;
mod services;
mod slices;
mod store;
pub mod yaml;

pub use store::ManifestStore;

use crate::model::{Object, ObjectKey, Problem};

/// A change of what a source offers. The first batch of a source is its full content; nothing may
/// be withdrawn from a dataplane before it has arrived.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// New and changed objects.
    pub upserts: Vec<Object>,
    /// Objects that are gone.
    pub removes: Vec<ObjectKey>,
    /// All problems that the source has at present, not only the new ones.
    pub problems: Vec<Problem>,
}
