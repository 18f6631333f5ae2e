//! Network policy in the languages that users write, to one model.
//!
//! - [`network_policy`]: NetworkPolicy (`networking.k8s.io/v1`).
//! - [`cilium`]: CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (`cilium.io/v2`).
//! - [`cluster`]: ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`).
//! - [`objects`]: what policies refer to: Namespaces, CiliumCIDRGroups.
//! - shared: [`selectors`] over [`labels`], [`ranges`] of addresses, [`ports`].
//!
//! What is absent, `null` and empty means different things to different fields, so lists are
//! `Option<Vec<_>>` up to where their meaning is settled. A field that is not known refuses the
//! object: policy that is only understood in part must not be enforced in part.

mod cilium;
mod cluster;
mod labels;
mod network_policy;
mod objects;
mod ports;
mod ranges;
mod selectors;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::fields::Findings;
use super::kubernetes::decode;
use crate::model::{Kind, Name, Object, ObjectKey, Origin, Policy, PolicySpec};

/// An object as it is written; a `spec` that may be absent is an `Option`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<S> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    metadata: ObjectMeta,
    spec: S,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// Reads an object of a kind that is about policy; `None` where it is refused, or of another kind.
pub(super) fn convert_policy(
    kind: Kind,
    name: Name,
    origin: Option<Origin>,
    value: &Value,
    findings: &mut Findings,
) -> Option<Object> {
    let specs = match kind {
        Kind::Namespace => {
            let namespace = objects::convert_namespace(&decode(value, findings)?, name, origin);
            return Some(Object::Namespace(namespace));
        }
        Kind::CiliumCidrGroup => {
            let group = objects::convert_group(decode(value, findings)?, name, origin, findings)?;
            return Some(Object::CidrGroup(group));
        }
        Kind::NetworkPolicy => {
            vec![network_policy::read_policy(decode(value, findings)?, &name.namespace, findings)?]
        }
        Kind::ClusterNetworkPolicy => {
            vec![cluster::read_policy(decode(value, findings)?, findings)?]
        }
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            let namespace = kind.is_namespaced().then_some(name.namespace.as_str());
            cilium::read_policy(decode(value, findings)?, namespace, findings)?
        }
        Kind::Service | Kind::EndpointSlice | Kind::Pod | Kind::Node => return None,
    };
    finish(ObjectKey { kind, name }, origin, specs, findings)
}

fn finish(
    key: ObjectKey,
    origin: Option<Origin>,
    specs: Vec<PolicySpec>,
    findings: &Findings,
) -> Option<Object> {
    (!findings.has_refusal()).then_some(Object::Policy(Policy { key, origin, specs }))
}
