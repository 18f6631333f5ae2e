//! Runs the lab's clients inside a host and reads their reports.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use weir_lab::{
    Host, program,
    report::{GetReport, UdpReport},
};

/// For any one client.
const PATIENCE: Duration = Duration::from_secs(180);

/// The smallest part of an even share that a backend may get by chance and by Maglev's table.
const SHARE_MIN: f64 = 0.75;

/// Runs a program with `--json` to its end. Failed requests are in its report, not an error.
pub fn run_json<R: DeserializeOwned>(host: &Host, name: &str, arguments: &[&str]) -> Result<R> {
    let mut command = Command::new(program(name)?);
    command.args(arguments).args(["--json", "--allow-failures"]);
    let printed = host.spawn(command)?.wait_for_success(PATIENCE)?;
    serde_json::from_str(&printed).with_context(|| format!("{name} printed {printed:?}"))
}

/// So many HTTP requests, each on a new connection, all of which must succeed.
pub fn get(host: &Host, address: IpAddr, port: u16, requests: u64) -> Result<GetReport> {
    let url = format!("http://{}/", SocketAddr::new(address, port));
    let requests = requests.to_string();
    let arguments = ["get", "--url", &url, "--requests", &requests, "--concurrency", "32"];
    let report: GetReport = run_json(host, "weir-lab-http", &arguments)?;
    ensure!(report.failed == 0, "{} of {url} failed: {:?}", report.failed, report.failures);
    Ok(report)
}

/// So many UDP questions, each from a new source port, all of which must be answered once.
pub fn ask(host: &Host, address: IpAddr, port: u16, count: u64) -> Result<UdpReport> {
    let to = SocketAddr::new(address, port).to_string();
    let count = count.to_string();
    let arguments = ["ask", "--to", &to, "--count", &count, "--new-socket-each"];
    let report: UdpReport = run_json(host, "weir-lab-udp", &arguments)?;
    ensure!(report.lost == 0, "{} of {count} to {to} lost: {:?}", report.lost, report.losses);
    ensure!(report.extra == 0, "{} answers of {to} came twice", report.extra);
    Ok(report)
}

/// Every backend had a fair part, and nobody else had any.
pub fn ensure_balanced(split: &BTreeMap<String, u64>, backends: &[&str]) -> Result<()> {
    let names: Vec<&str> = split.keys().map(String::as_str).collect();
    ensure!(names == backends, "answers came from {names:?} instead of {backends:?}");
    let total: u64 = split.values().sum();
    let fewest = (total as f64 / backends.len() as f64 * SHARE_MIN) as u64;
    for (name, count) in split {
        ensure!(*count >= fewest, "{name} got {count} of {total}: less than {fewest}");
    }
    Ok(())
}
