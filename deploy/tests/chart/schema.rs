//! Values that are wrong are refused, and the refusal says what is wrong.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::helm::{Helm, find};

/// A value that is wrong, and a part of what helm says.
const REFUSED: [(&str, &str); 27] = [
    ("apiServer.host=https://10.0.0.1", "apiServer/host"),
    ("apiServer.port=0", "apiServer/port"),
    ("apiServer.hots=10.0.0.1", "'hots' not allowed"),
    ("image.digest=0000", "image/digest"),
    ("image.pullPolicy=Sometimes", "image/pullPolicy"),
    ("image.repository=", "image/repository"),
    ("cluster.serviceRanges={10.96.0.0}", "cluster/serviceRanges/0"),
    ("cluster.serviceRanges=", "cluster/serviceRanges"),
    ("cluster.nodePorts=30000", "cluster/nodePorts"),
    ("loadBalancer.mode=nat", "loadBalancer/mode"),
    ("loadBalancer.dsrDispatch=vxlan", "loadBalancer/dsrDispatch"),
    ("loadBalancer.maglevTableSize=1000", "loadBalancer/maglevTableSize"),
    ("loadBalancer.maglevSeed=short", "loadBalancer/maglevSeed"),
    ("loadBalancer.pools.Upper.blocks[0].cidr=192.0.2.0/28", "Upper"),
    ("loadBalancer.pools.lower.cidrs={192.0.2.0/28}", "loadBalancer/pools/lower"),
    ("masquerade.enabled=maybe", "masquerade/enabled"),
    ("masquerade.snatPorts=all", "masquerade/snatPorts"),
    ("policy.enforcement=audit", "policy/enforcement"),
    ("dataplane.workers=0", "dataplane/workers"),
    ("dataplane.uplinks={an-interface-name-too-long}", "dataplane/uplinks/0"),
    ("dataplane.failureMode=half", "dataplane/failureMode"),
    ("dataplane.metricsPort=70000", "dataplane/metricsPort"),
    ("daemonSet.terminationGracePeriodSeconds=1", "daemonSet/terminationGracePeriodSeconds"),
    ("daemonSet.updateStrategy.type=Recreate", "daemonSet/updateStrategy/type"),
    ("metricsHost=localhost", "metricsHost"),
    ("monitoring.interval=often", "monitoring/interval"),
    ("typo=1", "'typo' not allowed"),
];

#[test]
fn wrong_values_are_refused_by_name() {
    let Some(helm) = find() else { return };
    for (value, expected) in REFUSED {
        let error = helm.template(&[value]).expect_err(value);
        let plain = error.replace("additional properties ", "");
        assert!(plain.contains(expected), "{value}: {error}");
    }
}

#[test]
fn what_a_schema_cannot_say_is_refused_with_what_to_do() {
    let Some(helm) = find() else { return };
    let error = helm.template_exactly(&[]).unwrap_err();
    assert!(error.contains("apiServer.host is not set"), "{error}");
    assert!(error.contains("kubectl get endpointslices -n default"), "{error}");
    let error = helm.template(&["daemonSet.updateStrategy.rollingUpdate.maxSurge=0"]).unwrap_err();
    assert!(error.contains("maxSurge and maxUnavailable are both 0"), "{error}");
    let error = helm.template(&["dataplane.metricsPort=10256"]).unwrap_err();
    assert!(error.contains("10256 is given twice"), "{error}");
}

#[test]
fn every_value_is_explained_and_in_the_schema() {
    let text = fs::read_to_string(Helm::chart().join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let schema = fs::read_to_string(Helm::chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    for (key, value) in values.as_object().unwrap() {
        let properties = &schema["properties"][key];
        assert!(properties.is_object(), "{key} is not in the schema");
        let before = text.lines().take_while(|it| !it.starts_with(&format!("{key}:")));
        let last = before.last().unwrap();
        assert!(last.starts_with('#') || key == "image", "{key} has no comment");
        let Some(known) = properties["properties"].as_object() else { continue };
        let written: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        let known: BTreeSet<&String> = known.keys().collect();
        assert_eq!(written, known, "{key}: values.yaml and the schema differ");
    }
}
