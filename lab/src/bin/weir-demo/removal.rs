//! One backend is removed while downloads run: those of the others must not notice.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_lab::{
    Process,
    clock::{pause, wait_until},
    program,
    report::DownloadReport,
    testbed::{HTTP_PORT, Pod, Service},
};

use crate::{Demo, setup::BACKENDS, show::print_split, tools};

const DOWNLOADS: usize = 60;
/// 62 pieces of 16 KiB with a pause before each: some 3 s.
const PATH: &str = "bytes/1000000?pace_ms=50";
const GONE: &str = "web-3";
const REPLACEMENT: &str = "web-4";
const SOON: Duration = Duration::from_secs(20);

pub fn remove_backend(demo: &mut Demo) -> Result<()> {
    let testbed = &mut demo.testbed;
    let url = format!("http://{}:80/{PATH}", Service::http().load_balancer().v4);
    let mut command = Command::new(program("weir-lab-http")?);
    let connections = DOWNLOADS.to_string();
    command.args(["download", "--url", &url, "--connections", &connections]);
    command.args(["--timeout-s", "30", "--json", "--allow-failures"]);
    let downloads = testbed.client().spawn(command)?;
    wait_until("all downloads to run", SOON, || {
        let counts = BACKENDS.map(|name| testbed.pod(name)?.count_established(HTTP_PORT));
        let total: usize = counts.into_iter().flatten().sum();
        (total == DOWNLOADS).then_some(())
    })?;
    // Well into the transfers.
    pause(Duration::from_millis(500));
    let lost = testbed.pod(GONE)?.count_established(HTTP_PORT)?;
    end_servers(testbed.pod(GONE)?)?;
    testbed.remove_pod(GONE)?;
    testbed.wait_for_backends("web", BACKENDS.len() - 1)?;
    println!("    {DOWNLOADS} downloads run; {GONE} serves {lost} of them, ends, and is deleted.");

    let printed = downloads.wait_for_success(Duration::from_secs(60))?;
    let report: DownloadReport = serde_json::from_str(&printed).context("the client's report")?;
    let stayed = DOWNLOADS - lost;
    println!("    Of the other {stayed}, {} finished, every byte verified:\n", report.finished);
    print_split(&report.backends);
    let kinds: Vec<String> =
        report.failures.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    println!("\n    The {lost} of {GONE} were told at once: {}.", kinds.join(", "));
    ensure!(lost > 0, "no download was on {GONE}: nothing was shown");
    ensure!(report.finished == stayed as u64, "{} of {stayed} finished", report.finished);
    ensure!(!report.backends.contains_key(GONE), "{GONE} finished downloads after its end");
    ensure!(!report.failures.contains_key("timeout"), "downloads of {GONE} hang: not told at once");

    testbed.add_backend(REPLACEMENT, "web")?;
    testbed.wait_for_backends("web", BACKENDS.len())?;
    let backends = [BACKENDS[0], BACKENDS[1], REPLACEMENT];
    let address = Service::http().load_balancer().v4.into();
    let report = tools::get(testbed.client(), address, 80, 1000)?;
    println!("\n    {REPLACEMENT} takes its place; 1,000 new requests:\n");
    print_split(&report.backends);
    tools::ensure_balanced(&report.backends, &backends)?;
    let figures = format!("{stayed} of {stayed} other downloads finished");
    demo.summary.add("a backend removed", figures);
    Ok(())
}

/// As SIGTERM to a pod that is deleted: connections are closed while the backend is still known.
fn end_servers(pod: &Pod) -> Result<()> {
    pod.servers().iter().for_each(Process::kill);
    let closed = || (pod.count_unfinished(HTTP_PORT).ok()? == 0).then_some(());
    Ok(wait_until("the clients of the deleted pod to know", SOON, closed)?)
}
