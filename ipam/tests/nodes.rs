//! Which nodes pods may be placed on.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use weir_ipam::nodes::{GRACE, NodeWrite, Nodes};

fn node(taints: &[&str], condition: Option<(&str, &str)>) -> Node {
    let taints: Vec<Value> =
        taints.iter().map(|it| json!({ "key": it, "effect": "NoSchedule" })).collect();
    let condition = condition.map(|(status, reason)| {
        json!({ "type": "NetworkUnavailable", "status": status, "reason": reason })
    });
    let conditions: Vec<Value> = condition.into_iter().collect();
    serde_json::from_value(json!({
        "metadata": { "name": "n1", "resourceVersion": "7" },
        "spec": { "taints": taints },
        "status": { "conditions": conditions },
    }))
    .unwrap()
}

fn agent(is_ready: bool) -> Pod {
    let status = if is_ready { "True" } else { "False" };
    serde_json::from_value(json!({
        "metadata": { "name": "weir-x" },
        "spec": { "nodeName": "n1", "containers": [] },
        "status": { "conditions": [{ "type": "Ready", "status": status }] },
    }))
    .unwrap()
}

const ZERO: Duration = Duration::ZERO;

#[test]
fn a_ready_agent_opens_its_node_and_leaves_the_taints_of_others() {
    let mut nodes = Nodes::default();
    nodes.put_node(&node(&["weir.dev/agent-not-ready", "example.com/other"], None));
    assert_eq!(nodes.review(ZERO), [], "no agent yet");
    nodes.put_agent(&agent(false));
    assert_eq!(nodes.review(ZERO), [], "not ready");
    nodes.put_agent(&agent(true));
    let writes: Vec<NodeWrite> = nodes.review(ZERO).into_iter().map(|(_, it)| it).collect();
    let [
        NodeWrite::Condition { is_unavailable, reason, .. },
        NodeWrite::Taints { version, taints },
    ] = &writes[..]
    else {
        panic!("{writes:?}")
    };
    assert_eq!((*is_unavailable, *reason, version.as_str()), (false, "WeirIsUp", "7"));
    assert_eq!(taints.len(), 1);
    assert_eq!(taints[0].key, "example.com/other");
    nodes.put_node(&node(&["example.com/other"], Some(("False", "WeirIsUp"))));
    assert_eq!(nodes.review(ZERO), [], "nothing is left to do");
}

#[test]
fn a_node_without_an_agent_is_closed_after_the_grace_period_only() {
    let mut nodes = Nodes::default();
    nodes.put_node(&node(&[], Some(("False", "WeirIsUp"))));
    nodes.put_agent(&agent(true));
    assert_eq!(nodes.review(ZERO), []);
    // A rolling update: the agent goes, and another comes within the minute.
    nodes.remove_agent("weir-x");
    assert_eq!(nodes.review(Duration::from_secs(10)), []);
    nodes.put_agent(&agent(true));
    assert_eq!(nodes.review(Duration::from_secs(69)), []);
    nodes.put_agent(&agent(false));
    assert_eq!(nodes.review(Duration::from_secs(70)), []);
    assert_eq!(nodes.review(Duration::from_secs(129)), []);
    let writes = nodes.review(Duration::from_secs(70) + GRACE);
    let [(_, NodeWrite::Condition { is_unavailable: true, reason, .. })] = &writes[..] else {
        panic!("{writes:?}")
    };
    assert_eq!(*reason, "WeirIsDown");
    nodes.put_node(&node(&[], Some(("True", "WeirIsDown"))));
    assert_eq!(nodes.review(Duration::from_secs(500)), [], "said once");
    nodes.put_agent(&agent(true));
    assert_eq!(nodes.review(Duration::from_secs(501)).len(), 1, "and taken back");
}

#[test]
fn nodes_that_weir_has_not_opened_are_not_its_to_close() {
    for condition in [None, Some(("False", "CalicoIsUp")), Some(("Unknown", "NodeStatusUnknown"))] {
        let mut nodes = Nodes::default();
        nodes.put_node(&node(&["weir.dev/agent-not-ready"], condition));
        assert_eq!(nodes.review(ZERO), []);
        assert_eq!(nodes.review(GRACE * 10), [], "{condition:?}");
    }
}
