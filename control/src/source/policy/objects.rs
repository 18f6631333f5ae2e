//! What policies refer to.

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;

use super::super::fields::Findings;
use super::Written;
use super::ranges::read_range;
use crate::model::{CidrGroup, Name, Namespace, Origin};

/// The API server writes it into every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn convert_namespace(
    namespace: &core::Namespace,
    name: Name,
    origin: Option<Origin>,
) -> Namespace {
    let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
    labels.insert(NAME_LABEL.into(), name.name.clone());
    Namespace { name, origin, labels }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupSpec {
    #[serde(rename = "externalCIDRs")]
    external_cidrs: Vec<String>,
}

pub(super) fn convert_group(
    group: Written<GroupSpec>,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Option<CidrGroup> {
    let given = group.spec.external_cidrs.iter().enumerate();
    let cidrs = given
        .filter_map(|(i, it)| read_range(&format!("spec.externalCIDRs[{i}]"), it, findings))
        .collect();
    let labels = group.metadata.labels.unwrap_or_default();
    (!findings.has_refusal()).then_some(CidrGroup { name, origin, labels, cidrs })
}
