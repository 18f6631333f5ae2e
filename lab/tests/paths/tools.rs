//! The real tools over every kind of service: curl with a large body, iperf3, and dig.

use std::{net::SocketAddr, process::Command};

use anyhow::{Result, ensure};
use weir_lab::{
    Cluster, ClusterService, Host, Process,
    clock::wait_until,
    cluster::{Kind, Port},
    program,
    testbed::Addresses,
};

use crate::common::{
    PATIENCE,
    transfer::{download, upload},
};

const FAMILIES: [usize; 2] = [0, 1];

const BODY_BYTES: usize = 300_000;

/// Of iperf3 over UDP: so many datagrams of that size, no faster than a busy machine forwards.
const UDP: [&str; 7] = ["-u", "-b", "8M", "-k", "200", "-l", "1000"];

/// An iperf3 server and a DNS server on the addresses of a backend.
pub fn serve(host: &Host, name: &str, addresses: Addresses) -> Result<Vec<Process>> {
    let mut dns = Command::new(program("weir-lab-dns")?);
    dns.args(["--name", name]);
    for address in addresses.both() {
        dns.args(["--listen", &SocketAddr::new(address, 53).to_string()]);
    }
    let dns = host.spawn(dns)?;
    dns.wait_for_output(&format!("listening on [{}]", addresses.v6), PATIENCE)?;
    let mut iperf = Command::new("iperf3");
    iperf.args(["-s", "--forceflush", "-p", "5201"]);
    let iperf = host.spawn(iperf)?;
    iperf.wait_for_output("Server listening", PATIENCE)?;
    Ok(vec![dns, iperf])
}

/// dig over UDP and TCP; all answers come from this backend.
pub fn check_dns(host: &Host, service: &ClusterService, kind: Kind) -> Result<()> {
    for family in FAMILIES {
        let to = service.at(kind, family, Port::Dns);
        for protocol in ["+notcp", "+tcp"] {
            let (server, port) = (format!("@{}", to.ip()), to.port().to_string());
            let words = ["dig", "+short", "+tries=1", "+time=5", protocol, "-p", &port, &server];
            let said = host.run(words.into_iter().chain(["TXT", "who.weir.test"]))?;
            let is_his = said.starts_with(&format!("\"{} ", service.name));
            ensure!(is_his, "dig {protocol} {to} from {}: {said:?}", host.name());
        }
    }
    Ok(())
}

/// Large bodies in both directions.
pub fn check_bodies(
    cluster: &Cluster,
    host: &Host,
    service: &ClusterService,
    kind: Kind,
) -> Result<()> {
    for family in FAMILIES {
        let to = service.at(kind, family, Port::Http);
        upload(cluster, host, to, BODY_BYTES, 1)?;
        download(host, to, BODY_BYTES, 1)?;
    }
    Ok(())
}

/// iperf3 over TCP in both directions, and over UDP.
pub fn check_iperf(host: &Host, service: &ClusterService, kind: Kind) -> Result<()> {
    for family in FAMILIES {
        let to = service.at(kind, family, Port::Iperf);
        for (what, more) in [
            ("TCP up", &["-n", "2M"][..]),
            ("TCP down", &["-n", "2M", "-R"]),
            ("UDP up", &UDP),
            ("UDP down", &[&UDP[..], &["-R"]].concat()),
        ] {
            let report = run_iperf(host, to, more)?;
            let sum = &report["end"]["sum_received"];
            let sum = if sum["bytes"].is_u64() { sum } else { &report["end"]["sum"] };
            let bytes = sum["bytes"].as_u64().unwrap_or(0);
            let lost = report["end"]["sum"]["lost_packets"].as_u64().unwrap_or(0);
            let mbit_s = sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
            let from = host.name();
            println!(
                "iperf3 {what:<8} {from:<10} {to}: {bytes} bytes, {mbit_s:.0} Mbit/s, {lost} lost"
            );
            ensure!(bytes >= 180_000, "iperf3 {what} {to} from {from}: {report}");
        }
    }
    Ok(())
}

fn run_iperf(host: &Host, to: SocketAddr, more: &[&str]) -> Result<serde_json::Value> {
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let words =
        ["timeout", "30", "iperf3", "-J", "--connect-timeout", "5000", "-c", &ip, "-p", &port];
    // It says so for a moment after its last client has gone.
    let busy = "the server is busy";
    let mut report = serde_json::Value::Null;
    wait_until("iperf3", PATIENCE, || {
        let said = host.output(words.iter().chain(more)).ok()?;
        report = serde_json::from_slice(&said.stdout).ok()?;
        (!report["error"].as_str().is_some_and(|error| error.contains(busy))).then_some(())
    })?;
    ensure!(report["error"].is_null(), "iperf3 {more:?} {to}: {}", report["error"]);
    Ok(report)
}
