//! `weir policy diff`: what a change opens and closes, and its exit statuses.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::process::Command;

use serde_json::{Value, json};

fn pod(namespace: &str, name: &str, app: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}\n\
         status: {{podIP: '{address}'}}\n"
    )
}

/// x has a and b, y has five replicas of web and one db.
fn pods() -> String {
    let mut text = pod("x", "a", "a", "10.244.0.1") + &pod("x", "b", "b", "10.244.0.2");
    for replica in 0..5 {
        text += &pod("y", &format!("web-{replica}"), "web", &format!("10.244.1.{replica}"));
    }
    text + &pod("y", "db", "db", "10.244.1.9")
}

/// A NetworkPolicy of namespace y for its web pods, with these ingress rules.
fn web(ingress: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: web, namespace: y}}\n\
         spec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{ingress}]}}\n"
    )
}

const FROM_A: &str =
    "{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}]}";

struct Printed {
    status: i32,
    out: String,
    errors: String,
}

fn diff(old: &str, new: &str, with: &str, more: &[&str]) -> Printed {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("old.yaml", old), ("new.yaml", new), ("with.yaml", with)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .current_dir(folder.path())
        .args(["policy", "diff", "--with=with.yaml", "-f", "old.yaml", "-f", "new.yaml"])
        .args(more)
        .output()
        .unwrap();
    Printed {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What is printed for people, without the space that aligns it.
fn lines(old: &str, new: &str, with: &str) -> Vec<String> {
    let printed = diff(old, new, with, &[]);
    assert!(printed.status < 2, "{}", printed.errors);
    let line = |it: &str| it.split_whitespace().collect::<Vec<_>>().join(" ");
    printed.out.lines().map(line).collect()
}

#[test]
fn no_difference_is_status_0() {
    let printed = diff(&web(FROM_A), &web(FROM_A), &pods(), &[]);
    assert_eq!((printed.status, printed.out.as_str()), (0, "no difference\n"));
    // Written otherwise, with the same meaning.
    let same = web(&FROM_A.replace(
        "{matchLabels: {app: a}}",
        "{matchExpressions: [{key: app, \
        operator: In, values: [a]}]}",
    ));
    assert_eq!(diff(&web(FROM_A), &same, &pods(), &[]).status, 0);
}

#[test]
fn a_first_policy_closes_and_its_end_opens() {
    let closes = [
        "closes anybody but x/a -> y/app=web (5 pods) all ports by default deny of \
         NetworkPolicy y/web",
        "closes x/a -> y/app=web (5 pods) all ports but 80/TCP by default deny of \
         NetworkPolicy y/web",
    ];
    assert_eq!(lines("", &web(FROM_A), &pods()), closes);
    let opens = [
        "opens anybody but x/a -> y/app=web (5 pods) all ports no more: default deny of \
         NetworkPolicy y/web",
        "opens x/a -> y/app=web (5 pods) all ports but 80/TCP no more: default deny of \
         NetworkPolicy y/web",
    ];
    assert_eq!(lines(&web(FROM_A), "", &pods()), opens);
    assert_eq!(diff("", &web(FROM_A), &pods(), &[]).status, 1);
}

#[test]
fn a_rule_more_opens_its_ports() {
    let more = "{from: [{namespaceSelector: {}, podSelector: {matchExpressions: \
        [{key: app, operator: In, values: [a, b]}]}}], ports: [{port: 80}, {port: 443}, \
        {port: 8000, endPort: 8010, protocol: UDP}]}";
    let opened = [
        "opens x/a -> y/app=web (5 pods) 443/TCP, 8000-8010/UDP by NetworkPolicy y/web: \
         spec.ingress[0]",
        "opens x/b -> y/app=web (5 pods) 80/TCP, 443/TCP, 8000-8010/UDP by NetworkPolicy y/web: \
         spec.ingress[0]",
    ];
    assert_eq!(lines(&web(FROM_A), &web(more), &pods()), opened);
}

#[test]
fn both_ends_must_allow_what_opens() {
    let egress = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
        metadata: {name: out, namespace: x}\n\
        spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}\n";
    let with = pods() + egress;
    let all_of_x = "{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}}]}";
    assert_eq!(
        lines(&web(FROM_A), &web(all_of_x), &with),
        ["opens x/b -> y/app=web (5 pods) 80/TCP by NetworkPolicy y/web: spec.ingress[0]"]
    );
}

#[test]
fn ranges_outside_are_told_apart() {
    let block = "{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.8/29]}}]}";
    let wider = "{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}";
    let opened = lines(&web(block), &web(wider), &pods());
    let expected = "opens 203.0.113.8/29 -> y/app=web (5 pods) all ports by NetworkPolicy y/web: \
         spec.ingress[0]";
    assert_eq!(opened, [expected]);
    // ipBlock is about pods' addresses, too.
    let pods_block = "{from: [{ipBlock: {cidr: 10.244.0.0/31}}]}";
    let opened = lines(&web(""), &web(pods_block), &pods());
    let expected = "opens x/a, 10.244.0.0/31 -> y/app=web (5 pods) all ports by \
         NetworkPolicy y/web: spec.ingress[0]";
    assert_eq!(opened, [expected]);
}

#[test]
fn labels_of_pods_and_new_pods() {
    let old = pods() + &web(FROM_A);
    let relabelled = old.replace(
        "name: b, namespace: x, labels: {app: b}",
        "name: b, namespace: x, labels: {app: a}",
    );
    assert_eq!(
        lines(&old, &relabelled, ""),
        ["opens x/b -> y/app=web (5 pods) 80/TCP by NetworkPolicy y/web: spec.ingress[0]"]
    );
    // A replica under a new name is the same workload; a new workload is not compared.
    let renamed = old.replace("name: web-4", "name: web-5") + &pod("x", "c", "c", "10.244.0.3");
    let printed = lines(&old, &renamed, "");
    assert_eq!(printed, ["not compared, only in the new version: x/c", "no difference"]);
}

#[test]
fn l7_rules_narrow_and_widen() {
    let policy = |rules: &str| {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
             metadata: {{name: db, namespace: y}}\n\
             spec:\n  endpointSelector: {{matchLabels: {{app: db}}}}\n  ingress:\n  \
             - toPorts: [{{ports: [{{port: '80', protocol: TCP}}]{rules}}}]\n"
        )
    };
    let (plain, l7) = (policy(""), policy(", rules: {http: [{method: GET}]}"));
    let narrows = lines(&plain, &l7, &pods());
    assert_eq!(narrows.len(), 1, "{narrows:?}");
    assert!(narrows[0].starts_with("narrows anybody -> y/db 80/TCP by"));
    let widens = lines(&l7, &plain, &pods());
    assert!(widens[0].starts_with("widens anybody -> y/db 80/TCP by"));
}

#[test]
fn json_names_everybody() {
    let printed = diff("", &web(FROM_A), &pods(), &["-o", "json"]);
    let json: Value = serde_json::from_str(&printed.out).unwrap();
    let first = &json["changes"][1];
    assert_eq!(first["effect"], "closes");
    assert_eq!(first["from"], json!(["x/a"]));
    assert_eq!(first["to"], json!(["y/web-0", "y/web-1", "y/web-2", "y/web-3", "y/web-4"]));
    assert_eq!(first["pairs"], 5);
    assert_eq!(first["ports"][0], json!({"protocol": "TCP", "first": 0, "last": 79}));
    assert_eq!(first["by"], json!(["default deny of NetworkPolicy y/web"]));
    assert_eq!(json["pods_only_in_old"], json!([]));
}

#[test]
fn what_cannot_be_compared_is_status_2() {
    let wrong = web(FROM_A).replace("podSelector: {matchLabels: {app: web}}", "podSelektor: {}");
    let printed = diff(&web(FROM_A), &wrong, &pods(), &[]);
    assert_eq!((printed.status, printed.out.as_str()), (2, ""));
    let place = "new version: new.yaml:";
    assert!(printed.errors.contains(place), "{}", printed.errors);
    assert_eq!(diff(&web(FROM_A), &wrong, &pods(), &["--ignore-problems"]).status, 1);
    let three = diff("", "", "", &["-f", "old.yaml"]);
    assert_eq!(three.status, 2);
    assert!(three.errors.contains("give two versions"), "{}", three.errors);
}
