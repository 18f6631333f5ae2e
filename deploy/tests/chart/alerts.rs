//! Alerts are about metrics that exist, with labels that they have.

use std::collections::BTreeSet;

use serde_json::Value;
use weir_api::metrics::ALL;

use crate::helm::{find, list, pick};

/// What Prometheus, the ServiceMonitors and Kubernetes add.
const ADDED_LABELS: [&str; 5] = ["job", "node", "namespace", "pod", "instance"];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_')).filter(|it| !it.is_empty())
}

#[test]
fn alerts_are_about_metrics_that_weir_exports() {
    let Some(helm) = find() else { return };
    let objects = helm.render(&["monitoring.enabled=true"]).unwrap();
    let groups = list(&pick(&objects, "PrometheusRule weir")["spec"]["groups"]);
    let mut alerts = BTreeSet::new();
    for rule in groups.iter().flat_map(|it| list(&it["rules"])) {
        let name = rule["alert"].as_str().unwrap();
        assert!(name.starts_with("Weir") && alerts.insert(name), "{name}");
        let expression = rule["expr"].as_str().unwrap();
        let used: Vec<&str> = words(expression).filter(|it| it.starts_with("weir_")).collect();
        assert!(!used.is_empty() || expression.starts_with("up{job=\"weir-"), "{name}");
        let mut labels: BTreeSet<&str> = ADDED_LABELS.into();
        for metric in used {
            let known = ALL.iter().find(|it| it.name == metric);
            let known = known.unwrap_or_else(|| panic!("{name}: there is no {metric}"));
            labels.extend(known.labels);
        }
        let annotations = &rule["annotations"];
        for text in ["summary", "description"].map(|it| annotations[it].as_str().unwrap()) {
            for label in text.split("$labels.").skip(1).map(|it| words(it).next().unwrap()) {
                assert!(labels.contains(label), "{name}: no label {label}");
            }
        }
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()));
        assert!(rule["for"].is_string(), "{name}");
    }
    assert!(alerts.len() >= 10);
}

/// Who is gone exports no metric that says so.
#[test]
fn an_operator_that_does_not_run_is_noticed() {
    let Some(helm) = find() else { return };
    let find = |values: &[&str], name: &str| {
        let objects = helm.render(values).unwrap();
        let groups = list(&pick(&objects, "PrometheusRule weir")["spec"]["groups"]).to_vec();
        let mut rules = groups.iter().flat_map(|it| list(&it["rules"]));
        rules.find(|it| it["alert"] == name).map(|it| it["expr"].as_str().unwrap().to_owned())
    };
    let on = ["monitoring.enabled=true"].as_slice();
    let down = find(on, "WeirOperatorDown").unwrap();
    assert_eq!(down, "up{job=\"weir-operator\"} == 0");
    let leaderless = find(on, "WeirOperatorHasNoLeader").unwrap();
    assert!(leaderless.contains("or absent(weir_operator_leader)"), "{leaderless}");
    // Nor does who exports none at all.
    let blind = ["monitoring.enabled=true", "operator.metricsPort=null"].as_slice();
    assert_eq!(find(blind, "WeirOperatorHasNoLeader"), None);
    assert!(find(blind, "WeirAgentDown").is_some());
}

#[test]
fn drop_reasons_of_alerts_exist() {
    let Some(helm) = find() else { return };
    let drops = include_str!("../../../dataplane/src/drops.rs");
    let rules = helm.template(&["monitoring.enabled=true"]).unwrap();
    let mut count = 0;
    for reasons in rules.split("{reason=~\"").skip(1).map(|it| it.split('"').next().unwrap()) {
        for reason in reasons.split('|') {
            assert!(drops.contains(&format!("\"{reason}\"")), "{reason}");
            count += 1;
        }
    }
    assert!(count > 2);
}

#[test]
fn monitors_find_the_ports_that_processes_serve() {
    let Some(helm) = find() else { return };
    let objects = helm.render(&["monitoring.enabled=true"]).unwrap();
    for (component, workload, expected) in [
        ("agent", "DaemonSet weir", [("agent", 10256), ("dataplane", 9965)].as_slice()),
        ("operator", "Deployment weir-operator", &[("operator", 9966)]),
    ] {
        let service = pick(&objects, &format!("Service weir-{component}-metrics"));
        assert_eq!(service["spec"]["clusterIP"], "None");
        let pod = &pick(&objects, workload)["spec"]["template"];
        let monitor = pick(&objects, &format!("ServiceMonitor weir-{component}"));
        assert!(is_subset(&service["spec"]["selector"], &pod["metadata"]["labels"]));
        let selected = &monitor["spec"]["selector"]["matchLabels"];
        assert!(is_subset(selected, &service["metadata"]["labels"]));
        for (name, port) in expected {
            let ports = list(&service["spec"]["ports"]);
            assert!(ports.iter().any(|it| it["name"] == *name && it["targetPort"] == *port));
            assert!(list(&monitor["spec"]["endpoints"]).iter().any(|it| it["port"] == *name));
            let containers = list(&pod["spec"]["containers"]);
            let container = containers.iter().find(|it| it["name"] == *name).unwrap();
            let flag = format!("--metrics-address=0.0.0.0:{port}");
            assert!(list(&container["args"]).iter().any(|it| *it == flag), "{name}");
        }
    }
    let objects = helm.render(&[]).unwrap();
    assert!(!objects.iter().any(|it| it["kind"] == "ServiceMonitor" || it["kind"] == "Service"));
}

fn is_subset(part: &Value, whole: &Value) -> bool {
    part.as_object().unwrap().iter().all(|(key, value)| whole[key] == *value)
}
