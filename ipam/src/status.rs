//! Status of Services and pools, written by server-side apply.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::MANAGER;
use crate::allocator::{Claim, Fill, PoolProblem};
use crate::crd::{LoadBalancerPool, LoadBalancerPoolStatus, PoolFill};

/// Writes the addresses of a Service; an earlier one of its name is left alone.
///
/// # Errors
/// The API server's.
pub async fn write_service(
    client: &Client,
    claim: &Claim,
    addresses: &[IpAddr],
) -> Result<(), kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), &claim.name.namespace);
    // KEP-1860: nodes serve the address themselves.
    let write = |it: &IpAddr| json!({ "ip": it.to_string(), "ipMode": "VIP" });
    let ingress: Vec<Value> = addresses.iter().map(write).collect();
    let patch = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "uid": claim.uid },
        "status": { "loadBalancer": { "ingress": ingress } },
    });
    let params = PatchParams::apply(MANAGER).force();
    services.patch_status(&claim.name.name, &params, &Patch::Apply(&patch)).await?;
    Ok(())
}

/// Writes a pool's status.
///
/// # Errors
/// The API server's.
pub async fn write_pool(
    client: &Client,
    pool: &LoadBalancerPool,
    status: &LoadBalancerPoolStatus,
) -> Result<(), kube::Error> {
    let pools: Api<LoadBalancerPool> = Api::all(client.clone());
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "LoadBalancerPool",
        "metadata": { "uid": pool.metadata.uid },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    pools.patch_status(name, &params, &Patch::Apply(&patch)).await?;
    Ok(())
}

/// What a pool's status should be. Conditions that stay as they are keep their time.
#[must_use]
pub fn describe_pool(
    pool: &LoadBalancerPool,
    problem: Option<&PoolProblem>,
    fill: [Fill; 2],
    now: Timestamp,
) -> LoadBalancerPoolStatus {
    let (reason, message) = match problem {
        None => ("Active", "Services get addresses from this pool".to_owned()),
        Some(PoolProblem::Invalid(text)) => ("Invalid", text.clone()),
        Some(PoolProblem::Overlaps(other)) => (
            "Overlaps",
            format!(
                "has addresses in common with the older pool {other}: no address is taken from \
                 here until one of them is changed"
            ),
        ),
    };
    let is_conflict = matches!(problem, Some(PoolProblem::Overlaps(_)));
    let (conflict_reason, conflict_message) =
        if is_conflict { (reason, message.clone()) } else { ("NoOverlap", String::new()) };
    let known = pool.status.as_ref().map(|it| it.conditions.as_slice()).unwrap_or_default();
    let condition = |type_: &str, is_true: bool, reason: &str, message: String| {
        let status = if is_true { "True" } else { "False" };
        let old = known.iter().find(|it| it.type_ == type_ && it.status == status);
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            observed_generation: pool.metadata.generation,
            last_transition_time: match old {
                Some(old) => old.last_transition_time.clone(),
                // The API server keeps whole seconds.
                None => Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            },
        }
    };
    let [ipv4, ipv6] = fill.map(|it| PoolFill { total: clamp(it.total), used: clamp(it.used) });
    LoadBalancerPoolStatus {
        conditions: vec![
            condition("Ready", problem.is_none(), reason, message),
            condition("Conflict", is_conflict, conflict_reason, conflict_message),
        ],
        ipv4,
        ipv6,
    }
}

fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
