//! The chart, rendered by helm as a user would, for many values: every object is one that
//! Kubernetes' own types accept without a field left over, and says what it must.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod alerts;
mod docs;
mod helm;
mod pods;
mod rbac;
mod schema;
mod typed;

use std::fs;

use helm::{Helm, find};

/// Values that render, and what they are about.
const MATRIX: [(&str, &[&str]); 12] = [
    ("as it is", &[]),
    ("an IPv6 API server", &["apiServer.host=fd00::1", "metricsHost=[::]"]),
    (
        "an image by digest",
        &["image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000"],
    ),
    (
        "a registry with a secret",
        &["image.repository=registry.example/net/weir", "image.pullSecrets={a,b}"],
    ),
    ("monitoring", &["monitoring.enabled=true", "monitoring.labels.release=prometheus"]),
    (
        "monitoring without ports",
        &[
            "monitoring.enabled=true",
            "dataplane.metricsPort=null",
            "monitoring.rules.enabled=false",
        ],
    ),
    ("one operator", &["operator.replicas=1"]),
    (
        "pools",
        &["loadBalancer.announceL2=true", "loadBalancer.pools.first.blocks[0].cidr=192.0.2.0/28"],
    ),
    (
        "everything that a flag says",
        &[
            "loadBalancer.mode=dsr",
            "loadBalancer.dsrDispatch=ipip",
            "loadBalancer.maglevTableSize=131071",
            "loadBalancer.maglevSeed=JLfvgnHc2kaSUFaI",
            "masquerade.enabled=false",
            "masquerade.exclusions={198.51.100.0/24}",
            "cluster.ranges={10.0.0.0/8,fd00::/8}",
            "policy.audit=true",
            "policy.reject=true",
            "dataplane.pinWorkers=false",
            "dataplane.flowsMax=16777216",
            "agent.extraArgs={--one,--two=2}",
        ],
    ),
    (
        "replaced at once",
        &[
            "daemonSet.updateStrategy.rollingUpdate.maxSurge=0",
            "daemonSet.updateStrategy.rollingUpdate.maxUnavailable=10%",
        ],
    ),
    (
        "replaced by hand",
        &["daemonSet.updateStrategy.type=OnDelete", "daemonSet.updateStrategy.rollingUpdate=null"],
    ),
    (
        "decorated pods",
        &[
            "daemonSet.podLabels.team=net",
            "daemonSet.podAnnotations.note=x",
            "daemonSet.seLinuxOptions.type=spc_t",
            "daemonSet.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution=null",
            "operator.podLabels.team=net",
            "operator.podAnnotations.note=x",
            "dataplane.resources.limits.memory=1Gi",
            "agent.extraEnv[0].name=A",
            "agent.extraEnv[0].value=b",
        ],
    ),
];

#[test]
fn every_object_is_one_that_kubernetes_knows_to_the_last_field() {
    let Some(helm) = find() else { return };
    for (title, values) in MATRIX {
        let objects = helm.render(values).unwrap_or_else(|error| panic!("{title}: {error}"));
        assert!(objects.len() >= 10, "{title}: {} objects", objects.len());
        for object in &objects {
            typed::check(object).unwrap_or_else(|error| panic!("{title}: {error}"));
        }
        let names: Vec<String> = objects.iter().map(helm::name).collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len(), "{title}: {names:?}");
    }
}

#[test]
fn helms_own_checks_find_nothing() {
    let Some(helm) = find() else { return };
    helm.lint().unwrap();
}

/// What a user sees who installs with the defaults; a change of it is a change for every cluster.
/// `WEIR_BLESS=1` writes it anew.
#[test]
fn the_defaults_render_as_they_are_kept() {
    let Some(helm) = find() else { return };
    for (name, values) in [
        ("defaults.yaml", [].as_slice()),
        ("monitoring.yaml", ["monitoring.enabled=true"].as_slice()),
    ] {
        let rendered = helm.template(values).unwrap();
        let golden = Helm::root().join("tests/chart/golden").join(name);
        if std::env::var_os("WEIR_BLESS").is_some() {
            fs::write(&golden, &rendered).unwrap();
        }
        let kept = fs::read_to_string(&golden).unwrap();
        let difference = kept.lines().zip(rendered.lines()).find(|(kept, new)| kept != new);
        assert!(
            kept == rendered,
            "{}: {difference:?}: if it is meant so, WEIR_BLESS=1 cargo test -p weir-deploy",
            golden.display()
        );
    }
}
