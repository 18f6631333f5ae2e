//! Real traffic between two hosts over a plain link, IPv4 and IPv6.

use weir_lab::{
    Lab, Result,
    report::{DownloadReport, GetReport, UdpReport},
    skipped,
};

use crate::{RIGHT_V4, RIGHT_V6, pair, run, run_json, serve};

#[test]
fn hosts_ping_each_other() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("ping")?;
    let (left, _) = pair(&lab)?;
    for address in [RIGHT_V4, RIGHT_V6] {
        left.run(["ping", "-c", "2", "-i", "0.01", "-w", "10", address])?;
    }
    assert!(left.run(["ping", "-c", "1", "-W", "0.2", "10.0.0.99"]).is_err());
    Ok(())
}

#[test]
fn http_requests_and_downloads() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("http")?;
    let (left, right) = pair(&lab)?;
    let _server = serve(&right, "weir-lab-http", 80)?;
    for address in [format!("{RIGHT_V4}:80"), format!("[{RIGHT_V6}]:80")] {
        let url = format!("http://{address}/");
        let arguments = ["get", "--url", &url, "--requests", "500", "--concurrency", "8", "--json"];
        let report: GetReport = run_json(&left, "weir-lab-http", &arguments)?;
        assert_eq!((report.succeeded, report.failed), (500, 0), "{report}");
        assert_eq!(report.backends["backend-1"], 500);
        assert!(report.latency.p50 > 0 && report.latency.max >= report.latency.p99, "{report}");

        let url = format!("http://{address}/bytes/1000000?pace_ms=1");
        let arguments = ["download", "--url", &url, "--connections", "5", "--json"];
        let report: DownloadReport = run_json(&left, "weir-lab-http", &arguments)?;
        assert_eq!((report.finished, report.failed, report.bytes), (5, 0, 5_000_000), "{report}");
        // 1,000,000 bytes are 62 pieces, a millisecond before each.
        assert!(report.elapsed_ms >= 62, "{report}");
        assert!(report.longest_gap_overall_ms <= report.longest_gap_ms, "{report}");
    }
    // The server closes first, so no port of the client is held back.
    assert_eq!(left.run(["ss", "-Htan", "state", "time-wait"])?, "");
    Ok(())
}

#[test]
fn http_failures_are_counted_by_kind() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("httpfail")?;
    let (left, right) = pair(&lab)?;
    let server = serve(&right, "weir-lab-http", 80)?;
    right.ip("route add blackhole 10.0.1.0/24")?;
    left.route("10.0.1.0/24 via 10.0.0.2")?;
    left.ip("neigh replace 10.0.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent")?;
    let failures = |url: &str| {
        let arguments = ["get", "--url", url, "--requests", "3", "--timeout-s", "0.3", "--json"];
        assert!(run(&left, "weir-lab-http", &arguments).is_err(), "fails without permission");
        let allowed = [&arguments[..], &["--allow-failures"]].concat();
        let report: GetReport = run_json(&left, "weir-lab-http", &allowed)?;
        assert_eq!((report.succeeded, report.failed), (0, 3), "{report}");
        Result::Ok(report.failures)
    };
    assert_eq!(failures("http://10.0.0.2:80/nowhere")?["status 404"], 3);
    assert_eq!(failures("http://10.0.0.2:81/")?["connect refused"], 3);
    assert_eq!(failures("http://10.0.0.77:80/")?["timeout"], 3);
    assert_eq!(failures("http://10.0.0.2:80/bytes/9000000?pace_ms=50")?["timeout"], 3);

    // A server that dies in the middle of a download.
    let mut download = std::process::Command::new(weir_lab::program("weir-lab-http")?);
    let url = "http://10.0.0.2:80/bytes/9000000?pace_ms=5";
    download.args(["download", "--url", url, "--connections", "2", "--json", "--allow-failures"]);
    let download = left.spawn(download)?;
    weir_lab::clock::wait_until("two connections", crate::SOON, || {
        let connections = left.run(["ss", "-Htn", "state", "established"]).ok()?;
        (connections.lines().count() == 2).then_some(())
    })?;
    server.kill();
    let report: DownloadReport =
        serde_json::from_str(&download.wait_for_success(crate::SOON)?).unwrap();
    assert_eq!((report.finished, report.failed), (0, 2), "{report}");
    Ok(())
}

#[test]
fn udp_questions_are_answered() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("udp")?;
    let (left, right) = pair(&lab)?;
    let server = serve(&right, "weir-lab-udp", 53)?;
    for address in [format!("{RIGHT_V4}:53"), format!("[{RIGHT_V6}]:53")] {
        for more in [&[][..], &["--new-socket-each"]] {
            let arguments = [&["ask", "--to", &address, "--count", "200", "--json"], more].concat();
            let report: UdpReport = run_json(&left, "weir-lab-udp", &arguments)?;
            assert_eq!((report.answered, report.lost, report.extra), (200, 0, 0), "{report}");
            assert_eq!(report.backends["backend-1"], 200);
        }
    }
    server.kill();
    let arguments = ["ask", "--to", "10.0.0.2:53", "--count", "3", "--json"];
    assert!(run(&left, "weir-lab-udp", &arguments).is_err(), "fails without permission");
    let allowed = [&arguments[..], &["--allow-failures"]].concat();
    let report: UdpReport = run_json(&left, "weir-lab-udp", &allowed)?;
    assert_eq!((report.lost, report.losses["refused"]), (3, 3), "{report}");
    Ok(())
}
