//! hostPorts at 127.0.0.1, by the node's own sockets: bound to no address, to the node's, and to
//! loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use weir_lab::{Cluster, cluster::node_addresses};

use crate::common::try_ask;
use crate::setup::{HOST_PORT, HOST_PORT_AT_LOOPBACK};

const QUESTIONS: u64 = 20;
const TIMEOUT_MS: u64 = 2000;

pub fn check_loopback(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0).host();
    let [own, _] = node_addresses(0).both();
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    for port in [HOST_PORT, HOST_PORT_AT_LOOPBACK] {
        let to = SocketAddr::new(loopback, port);
        for source in ["0.0.0.0".parse()?, own, loopback] {
            let (url, source) = (format!("http://{to}/"), source.to_string());
            let mut words = vec!["curl", "-sS", "--max-time", "5"];
            if source != "0.0.0.0" {
                words.extend(["--interface", &source]);
            }
            words.extend([url.as_str(); 3]);
            let said = node.run(words)?;
            let is_right = said.lines().count() == 3
                && said.lines().all(|line| line.starts_with("local sees "));
            ensure!(is_right, "{to} from {source}: {said}");
        }
        let report = try_ask(node, to, QUESTIONS, TIMEOUT_MS)?;
        let by: Vec<&str> = report.backends.keys().map(String::as_str).collect();
        ensure!(report.lost == 0 && by == ["local"], "{to}: {report:?}");
    }
    // For the node alone, at that address alone.
    for host in [node, cluster.client()] {
        let url = format!("http://{}/", SocketAddr::new(own, HOST_PORT_AT_LOOPBACK));
        let output = host.output(["curl", "-sS", "--max-time", "5", &url])?;
        // curl(1): failed to connect.
        ensure!(output.status.code() == Some(7), "{url} from {host:?}: {output:?}");
    }
    Ok(())
}
