//! Transfers in both directions, every byte verified, and what the kernels learnt on the way.
#![allow(dead_code, reason = "every test binary uses a part")]

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_lab::{Cluster, Host, clock::Stopwatch, pattern};

use super::run_json;
use weir_lab::report::DownloadReport;

/// For one transfer, over a link that loses packets too.
const SECONDS_MAX: &str = "40";

/// Downloads on so many connections at once.
pub fn download(host: &Host, to: SocketAddr, bytes: usize, connections: u64) -> Result<()> {
    let (url, count) = (format!("http://{to}/bytes/{bytes}"), connections.to_string());
    let words = ["download", "--timeout-s", SECONDS_MAX, "--url", &url, "--connections", &count];
    let report: DownloadReport = run_json(host, "weir-lab-http", &words)?;
    let (from, failures) = (host.name(), &report.failures);
    ensure!(
        report.finished == connections,
        "download of {bytes} by {from} from {to}: {failures:?}"
    );
    Ok(())
}

/// Uploads with curl, on so many connections at once.
pub fn upload(
    cluster: &Cluster,
    host: &Host,
    to: SocketAddr,
    bytes: usize,
    connections: usize,
) -> Result<()> {
    let file = cluster.lab().folder().join(format!("upload-{bytes}"));
    if !file.exists() {
        fs::write(&file, pattern::bytes(0, bytes))?;
    }
    let (url, body) = (format!("http://{to}/bytes/{bytes}"), format!("@{}", file.display()));
    let mut words = vec!["curl", "-sS", "-g", "--fail-with-body", "--parallel"];
    words.extend(["--parallel-immediate", "--max-time", SECONDS_MAX, "-H", "Expect:"]);
    words.extend(["-H", "Connection: close", "--data-binary", &body]);
    words.extend(std::iter::repeat_n(url.as_str(), connections));
    let output = host.output(words)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    let whole = said.lines().filter(|line| *line == format!("{bytes} bytes")).count();
    let from = host.name();
    ensure!(whole == connections, "upload of {bytes} by {from} to {to}: {said} {why}");
    Ok(())
}

/// A datagram of that payload and its echo, as often as it takes the sender's kernel to learn the
/// path's MTU; how often that was.
pub fn exchange_datagram(host: &Host, to: SocketAddr, payload: usize) -> Result<u32> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.enter(|| UdpSocket::bind(any))??;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(700)))?;
    let question = pattern::bytes(0, payload);
    let mut buffer = vec![0; 65_535];
    let watch = Stopwatch::start();
    let mut last = String::new();
    for times in 1..=6 {
        // An error tells of the datagram before: too long.
        let length = match socket.send(&question).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => length,
            Err(error) => {
                last = error.to_string();
                continue;
            }
        };
        ensure!(buffer[..length].ends_with(&question), "{to} echoed something else");
        return Ok(times);
    }
    let ms = watch.elapsed().as_millis();
    Err(anyhow::anyhow!("{payload} bytes by {} to {to}: no echo in {ms} ms: {last}", host.name()))
}

/// The MTU that a kernel has learnt of the path to an address.
pub fn learnt_mtu(host: &Host, to: IpAddr) -> Result<Option<u32>> {
    let said = host.ip(&format!("route get {to}"))?;
    let mut words = said.split_whitespace();
    let mtu = words.find(|word| *word == "mtu").and_then(|_| words.next());
    mtu.map(|mtu| mtu.parse().context(said.clone())).transpose()
}

/// What left and entered an interface of a host since its making, bytes.
pub fn interface_bytes(host: &Host, interface: &str) -> Result<(u64, u64)> {
    let said = host.ip(&format!("-j -s link show dev {interface}"))?;
    let links: serde_json::Value = serde_json::from_str(&said)?;
    let count = |way: &str| links[0]["stats64"][way]["bytes"].as_u64().context("statistics");
    Ok((count("tx")?, count("rx")?))
}
