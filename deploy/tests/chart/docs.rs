//! What is written beside the chart: the guide, and the Job that cleans a node.

use std::fs;

use serde_json::Value;

use crate::helm::{Helm, find, list, pick};
use crate::typed;

fn read(path: &str) -> String {
    let path = Helm::root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap()
}

#[test]
fn the_chart_has_the_version_of_the_programs() {
    let chart = yaml("helm/weir/Chart.yaml");
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
}

/// helm installs what is in `crds/`; the operator has its own copy.
#[test]
fn the_charts_definitions_are_the_operators() {
    let kept = "loadbalancerpools.yaml";
    assert_eq!(read(&format!("helm/weir/crds/{kept}")), read(&format!("../ipam/crds/{kept}")));
    typed::check(&yaml(&format!("helm/weir/crds/{kept}"))).unwrap();
    let files = fs::read_dir(Helm::chart().join("crds")).unwrap();
    assert_eq!(files.count(), 1);
}

#[test]
fn the_guide_names_values_that_exist() {
    let values = yaml("helm/weir/values.yaml");
    let guide = read("../docs/install.md");
    let mut count = 0;
    let named = guide.split("--set ").skip(1).map(|it| it.split('=').next().unwrap());
    let sections = values.as_object().unwrap().keys();
    let quoted = guide.split('`').skip(1).step_by(2).filter(|it| {
        let section = it.split('.').next().unwrap();
        it.contains('.')
            && !it.contains([' ', '/'])
            && !it.ends_with(".io")
            && sections.clone().any(|key| key == section)
    });
    for name in named.chain(quoted) {
        let path = format!("/{}", name.replace('.', "/"));
        assert!(values.pointer(&path).is_some(), "{name}");
        count += 1;
    }
    assert!(count > 5, "{count}");
}

/// It has the rights and the ways of those whose traces it removes.
#[test]
fn a_node_is_cleaned_by_who_may() {
    let job = yaml("cleanup.yaml");
    typed::check(&job).unwrap();
    let pod = &job["spec"]["template"]["spec"];
    let Some(helm) = find() else { return };
    let objects = helm.render(&[]).unwrap();
    let node = &pick(&objects, "DaemonSet weir")["spec"]["template"]["spec"];
    let (kernel, dataplane) = (&pod["containers"][0], &node["containers"][0]);
    assert_eq!(kernel["securityContext"], dataplane["securityContext"]);
    assert_eq!(pod["tolerations"], node["tolerations"]);
    assert_eq!(pod["initContainers"][0]["image"], kernel["image"]);
    assert_eq!(kernel["image"], dataplane["image"]);
    for mount in list(&kernel["volumeMounts"]) {
        assert!(list(&dataplane["volumeMounts"]).contains(mount), "{mount}");
    }
    for volume in list(&pod["volumes"]) {
        assert!(list(&node["volumes"]).contains(volume), "{volume}");
    }
}
