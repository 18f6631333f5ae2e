//! Kubernetes objects to the model: decoding and every check on a single object.
//!
//! Reference: Kubernetes API validation (`pkg/apis/core/validation`,
//! `pkg/apis/discovery/validation`).

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fields::{Finding, Findings};
use super::nodes::convert_node;
use super::pods::convert_pod;
use super::policy::convert_policy;
use super::services::convert_service;
use super::slices::convert_slice;
use crate::model::{Kind, Name, Object, Origin};

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// `None` where the object is refused, or means nothing to weir (then without findings).
    pub object: Option<Object>,
    /// In the order of the fields.
    pub findings: Vec<Finding>,
}

/// Decodes and checks one object of a kind that weir reads.
#[must_use]
pub fn convert(kind: Kind, name: Name, origin: Option<Origin>, value: &Value) -> Converted {
    let mut findings = Findings::default();
    let object = match kind {
        Kind::Service => decode(value, &mut findings)
            .and_then(|it| convert_service(&it, name, origin, &mut findings).map(Object::Service)),
        Kind::EndpointSlice => decode(value, &mut findings)
            .and_then(|it| convert_slice(&it, name, origin, &mut findings).map(Object::Slice)),
        Kind::Pod => decode(value, &mut findings)
            .map(|it| Object::Pod(convert_pod(&it, name, origin, &mut findings))),
        Kind::Node => decode(value, &mut findings)
            .map(|it| Object::Node(convert_node(&it, name, origin, &mut findings))),
        Kind::Namespace
        | Kind::NetworkPolicy
        | Kind::CiliumNetworkPolicy
        | Kind::CiliumClusterwideNetworkPolicy
        | Kind::CiliumCidrGroup
        | Kind::ClusterNetworkPolicy => convert_policy(kind, name, origin, value, &mut findings),
    };
    Converted { object, findings: findings.list }
}

pub(super) fn decode<T: DeserializeOwned>(value: &Value, findings: &mut Findings) -> Option<T> {
    match serde_path_to_error::deserialize(value) {
        Ok(it) => Some(it),
        Err(error) => {
            let path = error.path().to_string();
            // The library writes "." for the object itself.
            let path = if path == "." { String::new() } else { path };
            findings.refuse(path, error.into_inner());
            None
        }
    }
}
