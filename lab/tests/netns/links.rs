//! Impaired links between real hosts.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use weir_lab::{
    Impairment, Lab, Link, LinkOptions, Result,
    clock::wait_until,
    program,
    report::{DownloadReport, GetReport, UdpReport},
    skipped,
};

use crate::{RIGHT_V4, RIGHT_V6, SOON, address, run_json, serve, two_hosts};

const SEED: u64 = 20;

struct Impaired {
    left: weir_lab::Host,
    right: weir_lab::Host,
    link: Link,
}

fn impaired(lab: &Lab, seed: u64, impairment: Impairment) -> Result<Impaired> {
    let (left, right) = two_hosts(lab)?;
    let options = LinkOptions::default();
    let link = lab.impaired_link(&left, "eth0", &right, "eth0", &options, seed, impairment)?;
    println!("{link}");
    address(&left, &right)?;
    Ok(Impaired { left, right, link })
}

fn ask(host: &weir_lab::Host, more: &[&str]) -> Result<UdpReport> {
    let to = format!("{RIGHT_V4}:53");
    let arguments = [&["ask", "--to", &to, "--json", "--allow-failures"], more].concat();
    run_json(host, "weir-lab-udp", &arguments)
}

#[test]
fn a_perfect_link_delivers_everything() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("perfect")?;
    let Impaired { left, right, link } = impaired(&lab, SEED, Impairment::default())?;
    let _http = serve(&right, "weir-lab-http", 80)?;
    let _udp = serve(&right, "weir-lab-udp", 53)?;
    for address in [RIGHT_V4, RIGHT_V6] {
        left.run(["ping", "-c", "3", "-i", "0.01", "-s", "1400", "-w", "10", address])?;
    }
    let url = format!("http://[{RIGHT_V6}]:80/");
    let arguments = ["get", "--url", &url, "--requests", "300", "--concurrency", "4", "--json"];
    let report: GetReport = run_json(&left, "weir-lab-http", &arguments)?;
    assert_eq!((report.succeeded, report.failed), (300, 0), "{report}");
    // Full-sized segments with checksums that the far kernel verifies.
    let url = format!("http://{RIGHT_V4}:80/bytes/4000000");
    let arguments = ["download", "--url", &url, "--connections", "3", "--json"];
    let report: DownloadReport = run_json(&left, "weir-lab-http", &arguments)?;
    assert_eq!((report.finished, report.bytes), (3, 12_000_000), "{report}");
    let report = ask(&left, &["--count", "300"])?;
    assert_eq!((report.answered, report.lost, report.extra), (300, 0, 0), "{report}");
    let counters = link.counters();
    assert_eq!(counters.forwarded, counters.received, "{counters:?}");
    assert!(counters.received > 9000, "{counters:?}");
    assert_eq!((counters.missed, counters.refused, counters.reordered), (0, 0, 0), "{counters:?}");
    Ok(())
}

#[test]
fn a_partition_stops_everything_and_heals() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("cut")?;
    let Impaired { left, right, link } = impaired(&lab, SEED, Impairment::default())?;
    let _udp = serve(&right, "weir-lab-udp", 53)?;
    assert_eq!(ask(&left, &["--count", "20"])?.answered, 20);
    link.partition(true);
    let forwarded = link.counters().forwarded;
    let report = ask(&left, &["--count", "10", "--timeout-ms", "30"])?;
    assert_eq!((report.answered, report.lost), (0, 10), "{report}");
    assert_eq!(link.counters().forwarded, forwarded);
    assert!(link.counters().partitioned >= 10, "{:?}", link.counters());
    link.partition(false);
    assert_eq!(ask(&left, &["--count", "20"])?.answered, 20);
    Ok(())
}

#[test]
fn losses_are_those_that_were_asked_for() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("lossy")?;
    let Impaired { left, right, link } = impaired(&lab, SEED, Impairment::default())?;
    let _udp = serve(&right, "weir-lab-udp", 53)?;
    assert_eq!(ask(&left, &["--count", "1"])?.answered, 1, "neighbours are known from here on");
    link.set(Impairment { loss: 0.1, ..Default::default() })?;
    let report = ask(&left, &["--count", "500", "--timeout-ms", "20"])?;
    // On a busy machine some answers only come late: they are the extra ones.
    let lost = report.lost - report.extra;
    // Question or answer: 1 - 0.9 * 0.9 = 19 %, five standard deviations either way.
    assert!((51..=139).contains(&lost), "{link}: {report}");
    // The last question's answer may be late and never read.
    assert!(link.counters().lost + 1 >= lost, "{:?}", link.counters());
    assert!(link.set(Impairment { loss: 1.5, ..Default::default() }).is_err());

    link.set(Impairment { delay: Duration::from_millis(30), ..Default::default() })?;
    let report = ask(&left, &["--count", "5"])?;
    assert_eq!(report.answered, 5, "{report}");
    assert!(report.elapsed_ms >= 5 * 60, "30 ms each way: {report}");
    Ok(())
}

#[test]
fn receivers_see_duplicates_and_reordering() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("twice")?;
    let twice = Impairment { duplicate: 1.0, ..Default::default() };
    let Impaired { left, right, link } = impaired(&lab, SEED, twice)?;
    let to: SocketAddr = format!("{RIGHT_V4}:7").parse().unwrap();
    let receiver = right.enter(|| UdpSocket::bind(to))?.unwrap();
    let sender = left.enter(|| UdpSocket::bind("0.0.0.0:0"))?.unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let receive = || {
        let mut buffer = [0; 4];
        receiver.recv(&mut buffer).unwrap();
        u32::from_be_bytes(buffer)
    };
    for number in 0..50_u32 {
        sender.send_to(&number.to_be_bytes(), to).unwrap();
        assert_eq!((receive(), receive()), (number, number));
    }
    assert!(link.counters().duplicated >= 50, "{:?}", link.counters());

    link.set(Impairment { reorder: 0.2, ..Default::default() })?;
    for number in 0..200_u32 {
        sender.send_to(&number.to_be_bytes(), to).unwrap();
    }
    let numbers: Vec<_> = (0..200).map(|_| receive()).collect();
    assert!(!numbers.is_sorted(), "some overtook others");
    let mut sorted = numbers;
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..200), "nothing else happened to them");
    assert!(link.counters().reordered > 0, "{:?}", link.counters());
    Ok(())
}

#[test]
fn one_seed_gives_one_history_on_the_wire() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lossy = Impairment { loss: 0.3, ..Default::default() };
    let history = |name: &str, seed: u64| -> Result<Vec<u32>> {
        let lab = Lab::new(name)?;
        let (left, right) = two_hosts(&lab)?;
        // No IPv6 and fixed neighbours: nothing is on the wire but the test's own frames.
        for host in [&left, &right] {
            host.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        let options = LinkOptions::default();
        let link = lab.impaired_link(&left, "eth0", &right, "eth0", &options, seed, lossy)?;
        left.addr("eth0", "10.0.0.1/24")?;
        right.addr("eth0", "10.0.0.2/24")?;
        left.neighbour("eth0", RIGHT_V4, right.interface("eth0")?.mac)?;
        let to: SocketAddr = format!("{RIGHT_V4}:7").parse().unwrap();
        let receiver = right.enter(|| UdpSocket::bind(to))?.unwrap();
        let sender = left.enter(|| UdpSocket::bind("0.0.0.0:0"))?.unwrap();
        for number in 0..200_u32 {
            sender.send_to(&number.to_be_bytes(), to).unwrap();
        }
        wait_until("200 frames at the link", SOON, || {
            let counters = link.counters();
            (counters.received == 200 && counters.forwarded + counters.lost == 200).then_some(())
        })?;
        receiver.set_nonblocking(true).unwrap();
        let mut numbers = Vec::new();
        let mut buffer = [0; 4];
        while receiver.recv(&mut buffer).is_ok() {
            numbers.push(u32::from_be_bytes(buffer));
        }
        Ok(numbers)
    };
    let first = history("seeda", SEED)?;
    assert!((100..180).contains(&first.len()), "{} of 200 arrived", first.len());
    assert_eq!(first, history("seedb", SEED)?);
    assert_ne!(first, history("seedc", SEED + 1)?);
    Ok(())
}

#[test]
fn tcp_survives_a_bad_link() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("bad")?;
    let bad = Impairment {
        loss: 0.01,
        duplicate: 0.01,
        reorder: 0.02,
        delay: Duration::from_millis(2),
        jitter: Duration::from_micros(500),
        partitioned: false,
    };
    let Impaired { left, right, link } = impaired(&lab, SEED, bad)?;
    let _http = serve(&right, "weir-lab-http", 80)?;
    let mut command = Command::new(program("weir-lab-http")?);
    let url = format!("http://{RIGHT_V4}:80/bytes/1000000");
    command.args(["download", "--url", &url, "--connections", "4", "--json"]);
    let output = left.spawn(command)?.wait_for_success(Duration::from_secs(60))?;
    let report: DownloadReport = serde_json::from_str(&output).unwrap();
    assert_eq!((report.finished, report.bytes), (4, 4_000_000), "{report}");
    let counters = link.counters();
    let did = [counters.lost, counters.duplicated, counters.delayed, counters.reordered];
    assert!(did.iter().all(|count| *count > 0), "{counters:?}");
    Ok(())
}
