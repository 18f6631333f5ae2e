//! `weir policy check`: answers, reasons and exit statuses, from manifests alone.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Two namespaces on two nodes; y/db has no address yet.
const CLUSTER: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {team: red}}
---
apiVersion: v1
kind: Namespace
metadata: {name: y}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {app: a}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.244.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: x, labels: {app: b}}
spec: {nodeName: n1}
status: {podIP: 10.244.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: x, labels: {app: a}}
spec: {nodeName: n2, hostNetwork: true}
status: {podIP: 192.168.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: y, labels: {app: web}}
spec: {nodeName: n2, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIPs: [{ip: 10.244.1.1}, {ip: 'fd00::11'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: y, labels: {app: db}}
spec: {nodeName: n2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: y}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}], selector: {app: web}}
";

const POLICIES: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: y}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: a}}}]
    ports: [{port: http}]
  - from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.7/32]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: y}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: '5432', protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: '8080', protocol: TCP}], rules: {http: [{method: GET}]}}]
  egress:
  - toEntities: [host]
";

struct Printed {
    status: i32,
    out: String,
    errors: String,
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn cluster() -> TempDir {
    folder(&[("cluster.yaml", CLUSTER), ("policies.yml", POLICIES)])
}

fn weir(folder: &Path, arguments: &[&str], input: &str) -> Printed {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .current_dir(folder)
        .args(["policy", "check"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Whoever refuses its arguments reads no input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Printed {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

fn check(folder: &TempDir, from: &str, to: &str, port: &str) -> Printed {
    let arguments = ["-f", ".", "--from", from, "--to", to, "--port", port];
    weir(folder.path(), &arguments, "")
}

fn answer(folder: &TempDir, from: &str, to: &str, port: &str) -> Value {
    let arguments = ["-f", ".", "-o", "json", "--from", from, "--to", to, "--port", port];
    let printed = weir(folder.path(), &arguments, "");
    serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{}", printed.errors))
}

fn batch(folder: &TempDir, lines: &[Value]) -> (Vec<Value>, Printed) {
    let input: String = lines.iter().map(|it| format!("{it}\n")).collect();
    let printed = weir(folder.path(), &["-f", ".", "--batch", "-"], &input);
    let answers = printed.out.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    (answers, printed)
}

#[test]
fn people_are_told_who_decides_and_where_it_is_written() {
    let folder = cluster();
    let allowed = check(&folder, "x/a", "10.244.1.1", "80/TCP");
    let expected = "x/a -> y/web (10.244.1.1) 80/TCP: allowed\n\
        \x20 egress  of x/a: allowed, no policy selects it\n\
        \x20 ingress of y/web (10.244.1.1): allowed by NetworkPolicy y/web: spec.ingress[0] \
        (./policies.yml:2)\n";
    assert_eq!((allowed.status, allowed.out.as_str()), (0, expected), "{}", allowed.errors);

    let denied = check(&folder, "y/db", "y/web", "80/TCP");
    let expected = "y/db -> y/web 80/TCP: denied\n\
        \x20 egress  of y/db: denied by default deny of CiliumNetworkPolicy y/db \
        (./policies.yml:12)\n\
        \x20 ingress of y/web: denied by default deny of NetworkPolicy y/web (./policies.yml:2)\n";
    assert_eq!((denied.status, denied.out.as_str()), (1, expected), "{}", denied.errors);

    let filtered = check(&folder, "y/web", "y/db", "8080/TCP");
    assert_eq!(filtered.status, 0);
    let lines: Vec<&str> = filtered.out.lines().collect();
    assert_eq!(lines[0], "y/web -> y/db 8080/TCP: allowed, if its HTTP rules allow it");
    assert_eq!(lines[1], "  egress  of y/web: allowed, no policy is about this direction");
    assert!(lines[2].ends_with("(./policies.yml:12), if its HTTP rules allow it"), "{lines:?}");
}

#[test]
fn json_has_both_halves() {
    let folder = cluster();
    assert_eq!(
        answer(&folder, "203.0.113.1", "y/web", "53/UDP"),
        json!({
            "from": "203.0.113.1", "to": "y/web", "port": 53, "protocol": "UDP",
            "verdict": "allowed",
            "egress": null,
            "ingress": {"verdict": "allowed", "rules": ["NetworkPolicy y/web: spec.ingress[1]"]},
        })
    );
    let denied = answer(&folder, "2001:db8::7", "fd00::11", "128/ICMPv6");
    assert_eq!((&denied["verdict"], &denied["protocol"]), (&json!("denied"), &json!("ICMPv6")));
}

#[test]
fn nodes_reach_their_own_pods_and_pods_themselves() {
    let folder = cluster();
    let verdict = |from: &str, to: &str, port: &str| -> (i32, String) {
        let printed = check(&folder, from, to, port);
        (printed.status, printed.out + &printed.errors)
    };
    assert_eq!(verdict("192.168.0.2", "y/web", "9/SCTP").0, 0);
    // A pod in the host's network is its node, whatever its labels are.
    assert_eq!(verdict("x/host", "y/web", "9/SCTP").0, 0);
    assert_eq!(verdict("192.168.0.1", "y/web", "80/TCP").0, 1);
    assert_eq!(verdict("y/web", "y/web", "9/UDP").0, 0);
    assert_eq!(verdict("y/web", "10.244.1.1", "9/UDP").0, 0);
    // Its own node is the host to a pod, other nodes are not.
    assert_eq!(verdict("y/db", "192.168.0.2", "80/TCP").0, 0);
    assert_eq!(verdict("y/db", "x/host", "80/TCP").0, 0);
    assert_eq!(verdict("y/db", "192.168.0.1", "80/TCP").0, 1);
    let (_, own) = verdict("192.168.0.2", "y/web", "9/SCTP");
    assert!(own.contains("allowed, a node always reaches its own pods"), "{own}");
    assert!(own.contains("egress  of node n2 (192.168.0.2): no pod"), "{own}");
}

#[test]
fn questions_without_an_answer_end_with_status_2() {
    let folder = cluster();
    let cases = [
        ("x/a", "10.96.0.1", "80/TCP", "10.96.0.1 is Service y/web: name a pod, or its backend"),
        ("x/zz", "y/web", "80/TCP", "there is no pod x/zz in the manifests"),
        ("web", "y/web", "80/TCP", "--from: \"web\" is no end of a connection"),
        ("x/a", "10.0.0.0/8", "80/TCP", "--to: 10.0.0.0/8 is a range"),
        ("x/a", "y/web", "http/TCP", "a name means another port on each pod"),
        ("x/a", "y/web", "80", "\"80\" has no protocol"),
        ("x/a", "y/web", "0/TCP", "TCP port 0 is outside 1..65535"),
        ("x/a", "10.244.1.1", "128/ICMPv6", "10.244.1.1 never sees ICMPv6 type 128: write ICMP"),
        ("fd00::1", "10.244.1.1", "80/TCP", "are of different families"),
    ];
    for (from, to, port, reason) in cases {
        let printed = check(&folder, from, to, port);
        assert_eq!((printed.status, printed.out.as_str()), (2, ""), "{from} {to} {port}");
        assert!(printed.errors.contains(reason), "{from} {to} {port}: {}", printed.errors);
    }
    for arguments in [
        &["--from", "x/a", "--to", "y/web", "--port", "80/TCP"][..],
        &["-f", ".", "--from", "x/a", "--to", "y/web"],
        &["-f", ".", "--batch", "-", "--from", "x/a"],
        &["-f", "nowhere", "--from", "x/a", "--to", "y/web", "--port", "80/TCP"],
        &["-f", ".", "--batch", "nowhere"],
    ] {
        let printed = weir(folder.path(), arguments, "");
        assert_eq!(printed.status, 2, "{arguments:?}: {}", printed.errors);
    }
}

#[test]
fn a_batch_answers_line_by_line() {
    let folder = cluster();
    let (answers, printed) = batch(
        &folder,
        &[
            json!({"from": "x/a", "to": "y/web", "port": 80}),
            json!({"from": "x/b", "to": "y/web", "port": 80, "protocol": "TCP"}),
            json!({"from": "y/web", "to": "y/db", "port": 8080, "protocol": "tcp"}),
            json!({"from": "10.244.0.1", "to": "203.0.113.9", "port": 8, "protocol": "ICMP"}),
        ],
    );
    assert_eq!(printed.status, 0, "{}", printed.errors);
    let verdicts: Vec<&Value> = answers.iter().map(|it| &it["verdict"]).collect();
    assert_eq!(verdicts, ["allowed", "denied", "allowed", "allowed"]);
    assert_eq!(answers[1]["ingress"]["rules"], json!(["default deny of NetworkPolicy y/web"]));
    assert_eq!((&answers[0]["redirect"], &answers[2]["redirect"]), (&Value::Null, &json!("http")));
    assert_eq!(answers[2]["ingress"]["redirect"], "http");
    assert_eq!(answers[2]["protocol"], "TCP");
    assert_eq!((&answers[3]["from"], &answers[3]["ingress"]), (&json!("10.244.0.1"), &Value::Null));
    let (_, file) = batch(&folder, &[]);
    assert_eq!((file.status, file.out.as_str()), (0, ""));
}

#[test]
fn a_batch_tells_what_is_unexpected() {
    let folder = cluster();
    let question = |port: u16, expect: &str| {
        let (from, to) = ("x/a", "y/web");
        json!({"from": from, "to": to, "port": port, "expect": expect})
    };
    let (answers, printed) = batch(&folder, &[question(80, "allowed"), question(81, "denied")]);
    assert_eq!(printed.status, 0);
    assert!(answers.iter().all(|it| it.get("unexpected").is_none()));
    let (answers, printed) = batch(&folder, &[question(80, "denied"), question(81, "denied")]);
    assert_eq!((printed.status, &answers[0]["unexpected"]), (1, &json!(true)));
    assert!(answers[1].get("unexpected").is_none());
    assert!(printed.errors.contains("2 answers, 1 not as expected"), "{}", printed.errors);
}

#[test]
fn bad_lines_are_named_and_the_others_answered() {
    let folder = cluster();
    let lines = [
        r#"{"from":"x/a","to":"y/web","port":80}"#,
        "",
        "no json",
        r#"{"from":"x/a","to":"y/web"}"#,
        r#"{"from":"x/a","to":"y/web","port":"80"}"#,
        r#"{"from":"x/a","to":"y/web","port":70000}"#,
        r#"{"from":"x/a","to":"y/web","port":80,"protocol":"GRE"}"#,
        r#"{"from":"x/a","to":"y/web","port":80,"expcet":"denied"}"#,
        r#"{"from":"x/a","to":"10.96.0.1","port":80,"expect":"denied"}"#,
        &format!(r#"{{"from":"x/a","to":"{}","port":80}}"#, "y".repeat(70_000)),
        r#"{"from":"x/a","to":"y/web","port":80}"#,
    ];
    let printed = weir(folder.path(), &["-f", ".", "--batch", "-"], &lines.join("\n"));
    assert_eq!(printed.status, 2);
    let answers: Vec<Value> =
        printed.out.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let reasons = [
        (3, "line 3: expected"),
        (4, "missing field `port`"),
        (5, "invalid type: string"),
        (6, "TCP port 70000 is outside 1..65535"),
        (7, "\"GRE\" is not one of TCP, UDP"),
        (8, "unknown field `expcet`"),
        (9, "line 9: 10.96.0.1 is Service y/web"),
        (10, "line 10: longer than 65536 bytes"),
    ];
    assert_eq!(answers.len(), reasons.len() + 2);
    for (answer, (line, reason)) in answers[1..].iter().zip(reasons) {
        assert_eq!(answer["line"], line);
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    }
    assert_eq!(answers[0], answers[9], "the last line is answered like the first");
}

#[test]
fn refused_manifests_forbid_an_answer() {
    let wrong = POLICIES.replace("{cidr: 203.0.113.0/24,", "{cidr: 203.0.113.5/24,");
    let folder = folder(&[("cluster.yaml", CLUSTER), ("policies.yml", &wrong)]);
    let printed = check(&folder, "x/a", "y/web", "80/TCP");
    assert_eq!((printed.status, printed.out.as_str()), (2, ""));
    let place = "./policies.yml:10: NetworkPolicy y/web: refused: spec.ingress[1].from[0].ipBlock";
    assert!(printed.errors.contains(place), "{}", printed.errors);
    assert!(printed.errors.contains("--ignore-problems"), "{}", printed.errors);

    let question = ["-f", ".", "--from", "x/b", "--to", "y/web", "--port", "9/UDP"];
    let ignoring = weir(folder.path(), &[&question[..], &["--ignore-problems"]].concat(), "");
    assert_eq!(ignoring.status, 0, "the policy does not exist: {}", ignoring.errors);
    assert!(ignoring.errors.contains(place));

    let broken = weir(folder.path(), &["-f", "-", "--batch", "policies.yml"], "kind: [");
    assert_eq!(broken.status, 2);
    assert!(broken.errors.contains("stdin:1: refused"), "{}", broken.errors);
}

#[test]
fn enforcement_modes_are_those_of_the_agents() {
    let folder = cluster();
    let question = ["-f", ".", "--from", "x/b", "--to", "x/a", "--port", "80/TCP"];
    let status = |mode: &str| weir(folder.path(), &[&question[..], &[mode]].concat(), "").status;
    assert_eq!(status("--enable-policy=default"), 0);
    assert_eq!(status("--enable-policy=always"), 1);
    let denied = ["-f", ".", "--from", "x/b", "--to", "y/web", "--port", "80/TCP"];
    let printed = weir(folder.path(), &[&denied[..], &["--enable-policy=never"]].concat(), "");
    assert_eq!(printed.status, 0, "{}", printed.errors);
}

#[test]
fn whoever_checks_what_is_said_is_named() {
    let by = |sections: &str| {
        let policy = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
             metadata: {{name: l7, namespace: x}}\n\
             spec: {{endpointSelector: {{}}, egress: [{{toEntities: [world], toPorts: [{{ports: \
             [{{port: '443', protocol: TCP}}], {sections}}}]}}]}}\n"
        );
        let folder = folder(&[("cluster.yaml", CLUSTER), ("l7.yaml", &policy)]);
        answer(&folder, "x/a", "198.51.100.1", "443/TCP")["redirect"].clone()
    };
    assert_eq!(by("serverNames: [example.com]"), "tls");
    // A header of that name makes it no other parser.
    assert_eq!(by("rules: {http: [{headers: ['dns: tls']}]}"), "http");
}

#[test]
fn of_pods_with_one_address_the_newest_is_meant() {
    let pod = |name: &str, day: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x, \
             creationTimestamp: '2024-01-0{day}T00:00:00Z'}}\nspec: {{nodeName: n1}}\n\
             status: {{podIP: 10.244.0.9}}\n"
        )
    };
    let pods = pod("new1", 1) + &pod("new2", 2);
    let folder = folder(&[("cluster.yaml", CLUSTER), ("pods.yaml", &pods)]);
    let printed = check(&folder, "10.244.0.9", "y/web", "80/TCP");
    assert!(printed.out.starts_with("x/new2 (10.244.0.9) -> "), "{}", printed.out);
}

#[test]
fn what_has_no_effect_is_said_and_answered() {
    let folder = cluster();
    let printed = check(&folder, "y/web", "y/db", "8080/TCP");
    let said = "./policies.yml:12: CiliumNetworkPolicy y/db: ignored: spec.ingress[1]";
    assert_eq!(printed.status, 0, "{}", printed.errors);
    assert!(printed.errors.contains(said), "{}", printed.errors);

    let other = "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\n\
                 metadata: {name: old, namespace: y}\n";
    let folder = self::folder(&[("cluster.yaml", CLUSTER), ("old.yaml", other)]);
    let printed = check(&folder, "x/a", "y/web", "80/TCP");
    assert_eq!(printed.status, 2, "a policy that is not read: {}", printed.errors);
}
