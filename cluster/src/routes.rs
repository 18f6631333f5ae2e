//! Ways from the control plane to pods, which it has in any cluster: the API server connects to
//! them itself for webhooks and for `kubectl get --raw .../pods/NAME/proxy/`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_lab::clock::{pause, wait_until};

use crate::{cluster::Cluster, up::find_nodes};

const ASSIGNED_TIMEOUT: Duration = Duration::from_secs(30);

/// Between looks at the nodes, each a run of kubectl.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Leads each node's ranges of pods to the node, once it has some.
pub fn add(cluster: &Cluster) -> Result<()> {
    let ways = wait_until("every node to have ranges of pods", ASSIGNED_TIMEOUT, || {
        let ways = find_nodes(cluster)
            .ok()
            .and_then(|nodes| nodes.iter().map(find_ways).collect::<Option<Vec<_>>>());
        if ways.is_none() {
            pause(LOOK_INTERVAL);
        }
        ways
    })?;
    for (range, gateway) in ways.into_iter().flatten() {
        let mut command = cluster.outside_command("ip");
        let output = command.args(["route", "replace", &range, "via", &gateway]).output();
        let output = output.context("cannot run ip")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip route replace {range}: {}", said.trim());
    }
    Ok(())
}

/// Each range of a node with the node's address of its family; none before it has both.
fn find_ways(node: &Value) -> Option<Vec<(String, String)>> {
    let is_v6 = |text: &str| text.contains(':');
    let addresses: Vec<&str> = node["status"]["addresses"]
        .as_array()?
        .iter()
        .filter(|address| address["type"] == "InternalIP")
        .filter_map(|address| address["address"].as_str())
        .collect();
    let ranges = node["spec"]["podCIDRs"].as_array()?.iter().filter_map(Value::as_str);
    let way = |range: &str| {
        let gateway = addresses.iter().find(|address| is_v6(address) == is_v6(range))?;
        Some((range.to_owned(), (*gateway).to_owned()))
    };
    ranges.map(way).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_range_leads_to_the_address_of_its_family() {
        let addresses = json!([
            { "type": "Hostname", "address": "node-1" },
            { "type": "InternalIP", "address": "172.30.0.11" },
            { "type": "InternalIP", "address": "fd00::b" },
        ]);
        let ranges = json!(["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let node = json!({ "status": { "addresses": addresses }, "spec": { "podCIDRs": ranges } });
        let ways = find_ways(&node).unwrap();
        assert_eq!(ways[0], ("10.244.1.0/24".into(), "172.30.0.11".into()));
        assert_eq!(ways[1], ("fd00:10:244:1::/64".into(), "fd00::b".into()));
        assert_eq!(find_ways(&json!({ "status": { "addresses": [] } })), None);
    }
}
