//! What nodes may always do, what is audited, and what is said to those who are denied.
#![allow(dead_code, reason = "every test binary uses a part")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_lab::probe::{Outcome, Protocol};

use crate::bed::Bed;

/// Isolates every pod in both directions.
pub const DENY_ALL: &str = "
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: deny-all}
spec: {endpointSelector: {}, ingress: [{}], egress: [{}]}
";

const TIMEOUT: Duration = Duration::from_millis(700);
/// An answer at once, on a machine that is busy; well before TCP asks again.
const AT_ONCE_US: u64 = 300_000;

const NODE_1: [&str; 2] = ["172.18.0.2", "fd00:18::2"];

/// What became of each, over both families.
pub fn ask(bed: &Bed, asked: &[(&str, &str, Protocol, u16)]) -> Result<Vec<(Outcome, u64)>> {
    let mut questions = Vec::new();
    for (from, to, protocol, port) in asked {
        let is_v4 = bed.addresses(to)?[0].is_ipv4();
        let (from, to) = (bed.address(from, is_v4)?, bed.address(to, is_v4)?);
        questions.push(bed.question(from, to, *protocol, *port));
    }
    let answers = bed.ask(&questions, TIMEOUT)?;
    Ok(answers.into_iter().map(|it| (it.outcome, it.elapsed_us)).collect())
}

/// The kubelet's probes pass whatever is denied; another node's do not.
pub fn check_own_node(bed: &Bed) -> Result<()> {
    serve_pods(bed)?;
    bed.apply(DENY_ALL)?;
    for (family, ping) in [(Protocol::Icmp, 8), (Protocol::Icmpv6, 128)].into_iter().enumerate() {
        let node = NODE_1[family];
        let to = |pod: &str| bed.address(pod, family == 0).map(|it| it.to_string());
        let (own, other) = (to("x/a")?, to("x/b")?);
        let (protocol, kind) = ping;
        let all = [
            (node, own.as_str(), Protocol::Tcp, 80),
            (node, &own, Protocol::Udp, 80),
            (node, &own, protocol, kind),
            (node, &other, Protocol::Tcp, 80),
            (node, &other, Protocol::Udp, 80),
            (node, &other, protocol, kind),
        ];
        let outcomes = ask(bed, &all)?;
        println!("    {node}: own pod {:?}, another's {:?}", &outcomes[..3], &outcomes[3..]);
        ensure!(outcomes[..3].iter().all(|it| it.0 == Outcome::Answered), "its own pod");
        ensure!(outcomes[3..].iter().all(|it| it.0 == Outcome::Silent), "another node's pod");
    }
    Ok(())
}

/// What is denied at an audited pod passes, and both commands say so.
pub fn check_audit(bed: &Bed) -> Result<()> {
    serve_pods(bed)?;
    let mut pod = bed.objects["pod-x-a"].clone();
    pod["metadata"]["annotations"] = json!({"policy.weir.dev/audit": "true"});
    bed.apply_object("pod-x-a", Some(&pod))?;
    bed.apply(DENY_INGRESS)?;
    let asked = [("y/b", "x/a", Protocol::Tcp, 80), ("y/b", "x/c", Protocol::Tcp, 80)];
    let outcomes = ask(bed, &asked)?;
    println!("    y/b to x/a, audited: {:?}; to x/c: {:?}", outcomes[0], outcomes[1]);
    ensure!(outcomes[0].0 == Outcome::Answered, "audited: {outcomes:?}");
    ensure!(outcomes[1].0 == Outcome::Silent, "not audited: {outcomes:?}");
    let node = bed.node_of("x/a")?;
    let shown: Value = node.weir_json(&["policy", "show", "x/a"])?;
    let shown = shown.get(0).unwrap_or(&shown);
    ensure!(shown["audited"] == true, "policy show: {shown}");
    ensure!(shown["verdicts"]["audited"].as_u64() > Some(0), "policy show: {shown}");
    let drops: Value = node.weir_json(&["drops"])?;
    let denied = drops["denied"].as_array().context("what was denied")?;
    let line = denied.iter().find(|it| it["endpoint"] == "x/a" && it["verdict"] == "audited");
    println!("    weir drops: {}", line.context("weir drops does not name it")?);
    bed.apply_object("pod-x-a", None)
}

const DENY_INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// With `--policy-reject` who is denied hears so at once; ends with agents without it.
pub fn check_reject(bed: &mut Bed) -> Result<()> {
    serve_pods(bed)?;
    bed.apply("")?;
    bed.restart_agents(&["--policy-reject"])?;
    let outcome = check_rejected(bed);
    bed.apply("")?;
    bed.restart_agents(&[])?;
    outcome
}

fn check_rejected(bed: &Bed) -> Result<()> {
    for (word, policy) in [("ingress", DENY_INGRESS), ("egress", DENY_EGRESS)] {
        bed.apply(policy)?;
        for is_v4 in [true, false] {
            let address = |pod: &str| bed.address(pod, is_v4).map(|it| it.to_string());
            let (from, near, far) = (address("x/a")?, address("x/c")?, address("x/b")?);
            let asked = [
                (from.as_str(), near.as_str(), Protocol::Tcp, 80),
                (&from, &far, Protocol::Tcp, 80),
                (&from, &near, Protocol::Udp, 80),
                (&from, &far, Protocol::Udp, 80),
            ];
            let outcomes = ask(bed, &asked)?;
            println!("    denied {word}: TCP {:?}, UDP {:?}", &outcomes[..2], &outcomes[2..]);
            let expected = [Outcome::Refused, Outcome::Refused];
            let is_told = outcomes[..2].iter().map(|it| &it.0).eq(&expected);
            ensure!(is_told, "TCP is reset: {outcomes:?}");
            let is_prohibited = |it: &Outcome| matches!(it, Outcome::Prohibited | Outcome::Refused);
            ensure!(outcomes[2..].iter().all(|it| is_prohibited(&it.0)), "UDP: {outcomes:?}");
            ensure!(outcomes.iter().all(|it| it.1 < AT_ONCE_US), "at once: {outcomes:?}");
        }
    }
    Ok(())
}

const DENY_EGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress]}
";

/// Echoes at port 80 of every pod, over TCP and UDP.
pub fn serve_pods(bed: &Bed) -> Result<()> {
    for namespace in ["x", "y", "z"] {
        for pod in ["a", "b", "c"] {
            let name = format!("{namespace}/{pod}");
            let addresses = bed.addresses(&name)?;
            let questions = addresses.iter().flat_map(|at| {
                [Protocol::Tcp, Protocol::Udp].map(|it| bed.question(*at, *at, it, 80))
            });
            bed.serve(&questions.collect::<Vec<_>>())?;
        }
    }
    Ok(())
}
