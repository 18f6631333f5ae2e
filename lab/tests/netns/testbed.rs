//! The testbed: weir's own binaries, killed and started again, and nothing left behind.

use std::{fs, path::Path};

use weir_lab::{Result, Testbed, TestbedOptions, report::GetReport, skipped, testbed::Service};

use crate::{SOON, run_json};

/// A Service over two pods, each process of weir by itself.
fn start(name: &str) -> Result<Testbed> {
    let mut testbed = Testbed::new(name, TestbedOptions::default())?;
    testbed.start_dataplane()?;
    testbed.start_agent()?;
    testbed.wait_until_settled()?;
    for pod in ["web-1", "web-2"] {
        testbed.add_backend(pod, "web")?;
    }
    testbed.apply("web", &Service::http().yaml())?;
    testbed.wait_for_backends("web", 2)?;
    Ok(testbed)
}

/// Fifty requests from outside, over each family, all of which succeed; who answered.
fn ask(testbed: &Testbed) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for address in Service::http().load_balancer().both() {
        let url = format!("http://{}/", std::net::SocketAddr::new(address, 80));
        let arguments = ["get", "--url", &url, "--requests", "50", "--json", "--allow-failures"];
        let report: GetReport = run_json(testbed.client(), "weir-lab-http", &arguments)?;
        assert_eq!((report.succeeded, report.failed), (50, 0), "{report}");
        names.extend(report.backends.into_keys());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

#[test]
fn a_testbed_serves_survives_kills_and_leaves_nothing() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let mut testbed = start("testbed")?;
    assert_eq!(ask(&testbed)?, ["web-1", "web-2"]);
    testbed.remove_pod("web-1")?;
    testbed.wait_for_backends("web", 1)?;
    assert_eq!(ask(&testbed)?, ["web-2"]);

    testbed.agent().expect("started above").kill();
    assert_eq!(ask(&testbed)?, ["web-2"], "without an agent");
    testbed.dataplane().expect("started above").kill();
    testbed.start_dataplane()?;
    assert_eq!(ask(&testbed)?, ["web-2"], "a new dataplane, still without an agent");
    let status = testbed.status()?;
    assert!(status.agent.is_none() && !status.errors.is_empty(), "{status:?}");
    assert!(status.dataplane.is_some_and(|it| it.from_disk));
    testbed.start_agent()?;
    testbed.wait_until_settled()?;

    let (folder, pins) = (testbed.lab().folder().to_owned(), testbed.lab().pin_folder());
    let node = testbed.node().namespace_path();
    assert!(folder.exists() && pins.exists() && node.exists());
    drop(testbed);
    assert!(!folder.exists() && !pins.exists() && !node.exists());
    Ok(())
}

#[test]
fn weir_up_starts_again_what_was_killed() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let mut testbed = Testbed::new("weirup", TestbedOptions { workers: 2, ..Default::default() })?;
    testbed.start_up()?;
    testbed.add_backend("web-1", "web")?;
    testbed.apply("web", &Service::http().yaml())?;
    testbed.wait_for_backends("web", 1)?;
    assert_eq!(ask(&testbed)?, ["web-1"]);
    // A process that ends in its first second is not started again: its flags may be wrong.
    let first = weir_lab::clock::wait_until("a second of the dataplane", SOON, || {
        let dataplane = testbed.status().ok()?.dataplane?;
        (dataplane.uptime_ns > 1_500_000_000).then_some(dataplane.pid)
    })?;
    testbed.node().run(["kill", "-KILL", &first.to_string()])?;
    weir_lab::clock::wait_until("another dataplane", SOON, || {
        let dataplane = testbed.status().ok()?.dataplane?;
        (dataplane.pid != first && dataplane.agent_connected).then_some(())
    })?;
    assert_eq!(ask(&testbed)?, ["web-1"]);
    testbed.stop_up()?;
    assert!(!Path::new(&format!("/proc/{first}")).exists());
    let sockets = fs::read_dir(testbed.run_folder()).map(|entries| entries.flatten().count());
    assert!(sockets.is_ok_and(|count| count > 0), "the flow tables stay for the next start");
    Ok(())
}
