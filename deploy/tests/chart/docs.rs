//! What is written beside the chart: the guide, and the Job that cleans a node.

use std::fs;
use std::process::Command;

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

/// A chart that adds a value would have none for a release that keeps its old ones.
#[test]
fn upgrades_take_new_values_from_the_chart() {
    let guide = read("../docs/install.md");
    let upgrades = guide.lines().filter(|it| it.starts_with("helm upgrade weir "));
    let mut count = 0;
    for line in upgrades {
        assert!(line.contains(" --reset-then-reuse-values"), "{line}");
        count += 1;
    }
    assert_eq!(count, 2);
}

/// The cluster that the guide's uninstallation finds; `create` shows what is to be made.
const CLUSTER: &str = r#"
set -euo pipefail
is_installed=1
helm() { is_installed=; }
kubectl() {
    case "$*" in
        *"get daemonset weir"*.image}) [ "$is_installed" ] && printf %s "$IMAGE" ;;
        *"get daemonset weir"*.imagePullSecrets}) [ "$is_installed" ] && printf %s "$SECRETS" ;;
        *"get nodes"*) echo node/n1 ;;
        "create "*) cat ;;
    esac
}
"#;

/// The Job as the guide fills it in, where weir was installed with `values`; and weir's pods.
fn fill_job(helm: &Helm, values: &[&str]) -> (Value, Value) {
    let guide = read("../docs/install.md");
    let mut blocks = guide.split("```sh\n").map(|it| it.split("```").next().unwrap());
    let block = blocks.find(|it| it.contains("helm uninstall")).unwrap();
    let objects = helm.render(values).unwrap();
    let pod = pick(&objects, "DaemonSet weir")["spec"]["template"]["spec"].clone();
    let secrets = pod.get("imagePullSecrets").map(Value::to_string).unwrap_or_default();
    let output = Command::new("bash")
        .args(["-c", &format!("{CLUSTER}{block}")])
        .current_dir(Helm::root().join(".."))
        .env("IMAGE", pod["containers"][0]["image"].as_str().unwrap())
        .env("SECRETS", secrets)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let job = serde_saphyr::from_str(&String::from_utf8_lossy(&output.stdout)).unwrap();
    (job, pod)
}

/// It has the rights and the ways of those whose traces it removes, and their image.
#[test]
fn a_node_is_cleaned_by_who_may() {
    let Some(helm) = find() else { return };
    for values in [
        [].as_slice(),
        &["image.repository=registry.example:5000/net/weir", "image.pullSecrets={a,b}"],
    ] {
        let (job, node) = fill_job(&helm, values);
        let pod = &job["spec"]["template"]["spec"];
        let (kernel, dataplane) = (&pod["containers"][0], &node["containers"][0]);
        assert_eq!(pod["nodeName"], "n1");
        assert_eq!(pod["imagePullSecrets"], node["imagePullSecrets"]);
        assert_eq!(pod["initContainers"][0]["image"], dataplane["image"]);
        assert_eq!(kernel["image"], dataplane["image"]);
        assert_eq!(kernel["securityContext"], dataplane["securityContext"]);
        assert_eq!(pod["tolerations"], node["tolerations"]);
        for mount in list(&kernel["volumeMounts"]) {
            assert!(list(&dataplane["volumeMounts"]).contains(mount), "{mount}");
        }
        for volume in list(&pod["volumes"]) {
            assert!(list(&node["volumes"]).contains(volume), "{volume}");
        }
        typed::check(&job).unwrap();
    }
}
