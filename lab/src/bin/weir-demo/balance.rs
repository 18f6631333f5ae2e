//! HTTP and UDP through the load balancer and the ClusterIP, and how they divide.

use anyhow::Result;
use weir_lab::{report::GetReport, testbed::Service};

use crate::{
    Demo,
    setup::{ASKER, BACKENDS},
    show::{group, latency, print_split},
    tools::{ask, ensure_balanced, get},
};

/// Enough to see the split; the many are asked over IPv4 from outside.
const FEW: u64 = 1000;
const WEB_PORT: u16 = 80;
const ECHO_PORT: u16 = 7;

pub fn outside(demo: &mut Demo) -> Result<()> {
    let requests = demo.arguments.requests;
    let address = Service::http().load_balancer().v4;
    let report = get(demo.testbed.client(), address.into(), WEB_PORT, requests)?;
    println!("    client to LoadBalancer {address}: {}", describe(&report));
    println!("    {}\n", latency(&report.latency));
    print_split(&report.backends);
    let rate = report.requests_per_s;
    let figures = format!("{} of {} requests, {rate:.0}/s", group(requests), group(requests));
    demo.summary.add("HTTP from outside", figures);
    ensure_balanced(&report.backends, &BACKENDS)
}

fn describe(report: &GetReport) -> String {
    let (count, seconds) = (group(report.succeeded), report.elapsed_ms as f64 / 1e3);
    format!("{count} answered, 0 failed, in {seconds:.1} s ({:.0}/s)", report.requests_per_s)
}

pub fn inside(demo: &mut Demo) -> Result<()> {
    let address = Service::http().cluster_ip().v4;
    let asker = demo.testbed.pod(ASKER)?.host();
    let asking = [("pod shell", asker), ("the host", demo.testbed.node())];
    for (index, (who, host)) in asking.into_iter().enumerate() {
        let report = get(host, address.into(), WEB_PORT, FEW)?;
        let gap = if index == 0 { "" } else { "\n" };
        println!("{gap}    {who} to ClusterIP {address}: {}", describe(&report));
        print_split(&report.backends);
        ensure_balanced(&report.backends, &BACKENDS)?;
    }
    let figures = format!("{} + {} requests, all answered", group(FEW), group(FEW));
    demo.summary.add("ClusterIP, pod + host", figures);
    Ok(())
}

pub fn udp(demo: &mut Demo) -> Result<()> {
    let address = Service::udp().load_balancer().v4;
    let report = ask(demo.testbed.client(), address.into(), ECHO_PORT, FEW)?;
    let answered = group(report.answered);
    println!("    client to {address}, a new source port each: {answered} answered");
    print_split(&report.backends);
    demo.summary.add("UDP", format!("{} of {} answered", group(report.answered), group(FEW)));
    ensure_balanced(&report.backends, &BACKENDS)
}

pub fn ipv6(demo: &mut Demo) -> Result<()> {
    let (http, udp) = (Service::http(), Service::udp());
    let (outside, inside) = (http.load_balancer().v6, http.cluster_ip().v6);
    let testbed = &demo.testbed;
    let asker = testbed.pod(ASKER)?.host();
    let mut answered = 0;
    let asking = [
        ("client to LoadBalancer", testbed.client(), outside),
        ("pod shell to ClusterIP", asker, inside),
        ("the host to ClusterIP", testbed.node(), inside),
    ];
    for (who, host, address) in asking {
        let report = get(host, address.into(), WEB_PORT, FEW)?;
        println!("    {who} {address}: {}", describe(&report));
        print_split(&report.backends);
        println!();
        ensure_balanced(&report.backends, &BACKENDS)?;
        answered += report.succeeded;
    }
    let address = udp.load_balancer().v6;
    let report = ask(testbed.client(), address.into(), ECHO_PORT, FEW)?;
    println!("    UDP, client to {address}: {} answered", group(report.answered));
    print_split(&report.backends);
    let figures = format!("{} requests, {} UDP, all answered", group(answered), group(FEW));
    demo.summary.add("IPv6", figures);
    ensure_balanced(&report.backends, &BACKENDS)
}
