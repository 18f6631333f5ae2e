//! An open-loop load through the load balancer into sockets inside the pods, and how long it took.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use weir_lab::{
    program,
    testbed::{LOAD_PORT, Service, UPLINK},
};

use crate::{
    Demo,
    show::{bar, group, print_split},
};

/// What the demo reads of `weir-pktgen run --json`.
#[derive(Deserialize)]
struct Report {
    failures: Vec<String>,
    account: Account,
    balance: Balance,
    sent_pps: f64,
    sinks: BTreeMap<String, u64>,
    latency_ns: Latency,
}

#[derive(Deserialize)]
struct Account {
    sent: u64,
    received: u64,
    losses: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Balance {
    missing: u64,
    unexplained: u64,
}

#[derive(Deserialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

const FLOWS: u32 = 1000;
const FRAME_BYTES: u32 = 128;
/// On a small machine everything shares its cores with weir: some loss is the machine's, as long as
/// each packet is accounted for.
const LOSS_MAX: f64 = 0.01;

pub fn run(demo: &mut Demo) -> Result<()> {
    let (seconds, rate) = (demo.arguments.seconds, demo.arguments.rate);
    let address = Service::udp().load_balancer().v4;
    let rate_text = group(rate.into());
    println!(
        "    {rate_text} packets/s of {FRAME_BYTES} bytes in {FLOWS} flows for {seconds} s, from"
    );
    println!("    the client to {address} and into UDP sockets in the pods. Latency counts");
    println!("    from when a packet should have left, so a slow sender hides nothing.\n");
    let process = demo.testbed.client().spawn(command(demo)?)?;
    let status = process.wait(Duration::from_secs(u64::from(seconds) + 60))?;
    let printed = process.stdout();
    let Ok(report) = serde_json::from_str::<Report>(&printed) else {
        bail!("weir-pktgen ended ({status}): {}", process.stderr().trim())
    };
    print_account(&report);
    print_latency(&report.latency_ns);
    ensure!(report.failures.is_empty(), "{}", report.failures.join("; "));
    let Latency { p50, p99, max, .. } = report.latency_ns;
    let [p50, p99, max] = [p50, p99, max].map(microseconds);
    let packets =
        format!("{} packets, {} lost", group(report.account.sent), report.balance.missing);
    demo.summary.add("load", format!("{packets}, at {:.0}/s", report.sent_pps));
    demo.summary.add("load, latency", format!("p50 {p50}, p99 {p99}, max {max} µs"));
    Ok(())
}

fn command(demo: &Demo) -> Result<Command> {
    let Demo { testbed, arguments, .. } = demo;
    let mut command = Command::new(program("weir-pktgen")?);
    let to = format!("{}:9", Service::udp().load_balancer().v4);
    command.args(["run", "--json", "--interface", "eth0", "--dst", &to, "--warmup", "1"]);
    command.arg(format!("--rate={}", arguments.rate));
    command.arg(format!("--duration={}", arguments.seconds));
    command.arg(format!("--flows={FLOWS}")).arg(format!("--size={FRAME_BYTES}"));
    command.arg(format!("--max-loss={LOSS_MAX}")).arg(format!("--sink-port={LOAD_PORT}"));
    command.arg(format!("--watch={}:{UPLINK}", testbed.node().namespace()));
    for pod in testbed.pods().filter(|pod| !pod.servers().is_empty()) {
        command.arg(format!("--sink={}:eth0", pod.host().namespace()));
        command.arg(format!("--watch={}:{}", testbed.node().namespace(), pod.interface()));
    }
    command.arg("--dataplane-socket").arg(testbed.run_folder().join("dataplane.sock"));
    command.arg("--dataplane-pins").arg(testbed.lab().pin_folder());
    if let Some(path) = &arguments.plot {
        command.arg("--plot").arg(std::path::absolute(path).context("--plot")?);
    }
    Ok(command)
}

fn print_account(report: &Report) {
    let Account { sent, received, losses } = &report.account;
    let Balance { missing, unexplained } = report.balance;
    let counts = [("sent", *sent), ("received", *received), ("lost", missing)];
    for (what, count) in counts {
        println!("    {what:<12} {:>12}", group(count));
    }
    // Without a loss they only counted other traffic.
    for (name, count) in losses.iter().filter(|_| missing > 0) {
        println!("      counted    {:>12}  {name}", group(*count));
    }
    println!("    unexplained  {:>12}\n", group(unexplained));
    let by_pod = report.sinks.iter().map(|(place, count)| {
        let pod = place.split_once("-pod-").map_or(place.as_str(), |(_, pod)| pod);
        (pod.trim_end_matches(":eth0").to_owned(), *count)
    });
    print_split(&by_pod.collect());
}

/// Bars of the logarithm: a microsecond to a second.
fn print_latency(latency: &Latency) {
    let Latency { p50, p90, p99, p99_9, max } = *latency;
    println!("\n    latency, client to pod     µs   (bars: logarithm)");
    for (name, ns) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p99_9), ("max", max)] {
        let decades = (ns.max(1000) as f64 / 1000.0).log10();
        println!("    {name:<8} {:>20} {}", microseconds(ns), bar(decades, 6.0));
    }
}

fn microseconds(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e3)
}
