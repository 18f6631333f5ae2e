//! The picture, the manifests, and the last look.

use anyhow::{Context, Result, ensure};
use weir_lab::{
    clock::Stopwatch,
    testbed::{CLIENT, Device, NODE, NODE_NAME, Service},
};

use crate::{Demo, show::print_indented};

/// The pods behind the Services.
pub const BACKENDS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// A pod that only asks.
pub const ASKER: &str = "shell";

pub fn build(demo: &mut Demo) -> Result<()> {
    let watch = Stopwatch::start();
    let testbed = &mut demo.testbed;
    testbed.start_up().context("weir does not start")?;
    testbed.add_pod(ASKER)?;
    for name in BACKENDS {
        testbed.add_backend(name, "web")?;
    }
    testbed.wait_until_settled()?;
    let status = testbed.status()?;
    let dataplane = status.dataplane.context("the dataplane does not answer")?;
    let address = |name: &str| testbed.pod(name).map(|pod| pod.addresses().v4.to_string());
    let [one, two, three] = BACKENDS.map(address);
    println!(
        r"
      client                      {NODE_NAME}: weir                      pods
    ┌────────────┐      ┌──────────────────────────────┐      ┌────────────────────┐
    │            │      │         ┌────────────┐       ├──────┤ web-1  {:<12}│
    │ {:<10} │ veth │  XDP    │ worker     │  tcx  ├──────┤ web-2  {:<12}│
    │            ├──────┤ ──────► │ × {:<8} │ ────► ├──────┤ web-3  {:<12}│
    │            │      │ AF_XDP  └────────────┘ trunk ├──────┤ shell  {:<12}│
    └────────────┘      └─ {:<12} ───────────────┘      └────────────────────┘",
        one?,
        CLIENT.v4,
        two?,
        dataplane.workers.len(),
        three?,
        address(ASKER)?,
        NODE.v4,
    );
    let uplinks: Vec<String> = dataplane.devices.iter().map(describe).collect();
    println!("\n    AF_XDP sockets: {}", uplinks.join(", "));
    for reason in &dataplane.degraded {
        println!("    degraded: {reason}");
    }
    let seconds = watch.elapsed().as_secs_f64();
    println!("    Built in {seconds:.1} s; the pods' interfaces by `weir endpoint attach`.");
    Ok(())
}

fn describe(device: &Device) -> String {
    format!("{} queue {} ({})", device.name, device.queue, device.xdp_mode)
}

pub fn apply_services(demo: &mut Demo) -> Result<()> {
    let services = [Service::http(), Service::udp()];
    print_indented(&services[0].yaml());
    println!("\n    ... and `echo`: UDP {} to the same pods.\n", ports(&services[1]));
    let watch = Stopwatch::start();
    for service in &services {
        demo.testbed.apply(service.name, &service.yaml())?;
    }
    for service in &services {
        demo.testbed.wait_for_backends(service.name, BACKENDS.len())?;
    }
    let ms = watch.elapsed().as_millis();
    println!("    Saved in the watched folder; every worker runs it {ms} ms later.");
    let problems = demo.testbed.status()?.agent.map(|it| it.problems).unwrap_or_default();
    ensure!(problems.is_empty(), "weir finds fault with the manifests: {problems:?}");
    demo.summary.add("YAML to packets", format!("{ms} ms for two Services"));
    Ok(())
}

fn ports(service: &Service) -> String {
    let ports: Vec<String> = service.ports.iter().map(|it| it.port.to_string()).collect();
    format!("{} on {}", ports.join(" and "), service.load_balancer().v4)
}

pub fn look(demo: &mut Demo) -> Result<()> {
    for arguments in [&["status"][..], &["service", "list"], &["drops"]] {
        println!("    $ weir {}", arguments.join(" "));
        print_indented(&demo.testbed.weir(arguments)?);
        println!();
    }
    Ok(())
}
