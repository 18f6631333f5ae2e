//! The generator, its sinks and the reflector on real veths. Needs root.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use weir_lab::{Host, Impairment, Lab, LinkOptions};
use weir_pktgen::report::Report;

const PROGRAM: &str = env!("CARGO_BIN_EXE_weir-pktgen");

/// Two hosts: 10.0.0.1 and fd00::1 on one, 10.0.0.2 and fd00::2 on the other.
fn hosts(lab: &Lab) -> (Host, Host) {
    (lab.host("left").expect("a host"), lab.host("right").expect("a host"))
}

fn add_addresses(left: &Host, right: &Host) {
    for (host, number) in [(left, 1), (right, 2)] {
        host.addr("eth0", &format!("10.0.0.{number}/24")).expect("an address");
        host.addr("eth0", &format!("fd00::{number}/64")).expect("an address");
    }
}

/// Runs a measurement on the left host; its report, and whether it said that it failed.
fn measure(left: &Host, arguments: &str) -> (Report, bool) {
    let mut words = vec![PROGRAM, "run", "--interface", "eth0", "--json"];
    words.extend(arguments.split_whitespace());
    let Output { status, stdout, stderr } = left.output(&words).expect("it starts");
    let said = String::from_utf8_lossy(&stderr);
    let report: Report = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {words:?}: {status}: {said}"));
    assert_eq!(status.code(), Some(i32::from(!report.ok)), "{said}");
    println!("{report}");
    let failed = !report.ok;
    (report, failed)
}

fn assert_whole(report: &Report, packets: u64) {
    assert!(report.ok, "{report}");
    let account = &report.account;
    assert_eq!((account.offered, account.sent, account.received), (packets, packets, packets));
    let order = &report.order;
    assert_eq!((order.duplicates, order.reordered, order.corrupted, order.gaps), (0, 0, 0, 0));
    let latency = report.latency_ns;
    assert_eq!((latency.count, report.lateness_ns.count), (packets, packets));
    assert!(0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
    assert!(report.transit_ns.p50 <= latency.p50);
}

#[test]
fn a_clean_link_loses_nothing_and_both_kinds_of_sinks_agree() {
    if weir_lab::skipped() {
        return;
    }
    let lab = Lab::new("pktgen").expect("a lab");
    let (left, right) = hosts(&lab);
    lab.link(&left, "eth0", &right, "eth0", &LinkOptions::default()).expect("a link");
    add_addresses(&left, &right);
    let sink = right.namespace();
    for dst in ["10.0.0.2:9", "[fd00::2]:9"] {
        for kind in ["socket", "xdp"] {
            let plot = lab.folder().join("plot.svg");
            let plot_file = plot.display();
            let (report, _) = measure(
                &left,
                &format!(
                    "--dst {dst} --sink {sink}:eth0 --sink-kind {kind} --rate 20000 --duration 1 \
                     --warmup 0.1 --spin-us 0 --flows 100 --size 200 --plot {plot_file}"
                ),
            );
            assert_whole(&report, 20_000);
            assert_eq!(report.sinks.values().sum::<u64>(), 20_000);
            assert_eq!(report.sockets.contains_key(&format!("{sink}:eth0")), kind == "xdp");
            let picture = std::fs::read_to_string(plot).expect("a plot");
            assert!(picture.contains("<polyline"));
        }
    }
    assert_eq!(own_pins(), Vec::<PathBuf>::new(), "programs are detached");
}

#[test]
fn a_reflector_gives_round_trips() {
    if weir_lab::skipped() {
        return;
    }
    let lab = Lab::new("pktgenecho").expect("a lab");
    let (left, right) = hosts(&lab);
    lab.link(&left, "eth0", &right, "eth0", &LinkOptions::default()).expect("a link");
    add_addresses(&left, &right);
    let mut reflector = Command::new(PROGRAM);
    reflector.args("echo --interface eth0 --port 7 --duration 60".split(' '));
    let reflector = right.spawn(reflector).expect("it starts");
    reflector.wait_for_output("reflecting UDP", Duration::from_secs(10)).expect("it is ready");
    for dst in ["10.0.0.2:7", "[fd00::2]:7"] {
        let arguments =
            format!("--echo --dst {dst} --rate 5000 --duration 1 --warmup 0.5 --flows 10");
        let (report, _) = measure(&left, &arguments);
        assert_whole(&report, 5000);
        assert_eq!(report.setup.mode, "round-trip");
    }
    // Everything else still goes to the kernel, also while both programs sit there.
    left.run(["ping", "-c", "1", "-w", "2", "10.0.0.2"]).expect("an answer");
    reflector.signal("SIGTERM").expect("a signal");
    let said = reflector.wait_for_success(Duration::from_secs(10)).expect("it ends in order");
    let counts: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(counts["reflected"], 2 * (5000 + 2500), "{said}");
    assert_eq!(counts["refused"], 0, "{said}");
}

#[test]
fn losses_that_nobody_counts_fail_the_run_and_copies_are_told_apart() {
    if weir_lab::skipped() {
        return;
    }
    let lab = Lab::new("pktgenbad").expect("a lab");
    let (left, right) = hosts(&lab);
    let options = LinkOptions::default();
    let good = Impairment::default();
    let link =
        lab.impaired_link(&left, "eth0", &right, "eth0", &options, 42, good).expect("a link");
    add_addresses(&left, &right);
    println!("{link}");
    let arguments = format!(
        "--dst 10.0.0.2:9 --sink {}:eth0 --rate 10000 --duration 2 --flows 8 --max-loss 1",
        right.namespace()
    );

    link.set(Impairment { loss: 0.01, ..good }).expect("an impairment");
    let before = link.counters().lost;
    let (report, failed) = measure(&left, &arguments);
    let lost = link.counters().lost - before;
    assert!(failed && report.failures[0].contains("nothing says where"), "{report}");
    assert!((100..300).contains(&lost), "1 % of 20,000 is about 200: {lost}");
    // The link also carries what the kernels say to each other now and then.
    assert!(report.balance.unexplained.abs_diff(lost) <= 3, "{report}{:?}", link.counters());
    assert_eq!(report.balance.missing, report.balance.unexplained);
    assert!(report.order.gaps > 50 && report.order.flows_with_gaps == 8, "{report}");

    link.set(Impairment { duplicate: 0.05, reorder: 0.05, ..good }).expect("an impairment");
    let (report, failed) = measure(&left, &arguments);
    assert!(!failed, "{report}");
    assert_eq!(report.balance.missing, 0);
    assert!((700..1300).contains(&report.order.duplicates), "{report}");
    // Neighbours on the wire are of different flows: only copies and held packets can overtake.
    assert_eq!(report.order.gaps, 0);

    let delay = Duration::from_millis(20);
    link.set(Impairment { delay, ..good }).expect("an impairment");
    let (report, _) = measure(&left, &arguments);
    assert!((20_000_000..40_000_000).contains(&report.latency_ns.p50), "{report}");
}

#[test]
fn a_counted_loss_is_explained_and_its_size_decides() {
    if weir_lab::skipped() {
        return;
    }
    let lab = Lab::new("pktgendrop").expect("a lab");
    let (left, right) = hosts(&lab);
    lab.link(&left, "eth0", &right, "eth0", &LinkOptions::default()).expect("a link");
    add_addresses(&left, &right);
    // A socket that holds a packet or two, and as many packets as the wire takes.
    let arguments = format!(
        "--dst 10.0.0.2:9 --sink {}:eth0 --sink-buffer 2304 --rate 100000 --duration 0.5",
        right.namespace()
    );
    let (report, failed) = measure(&left, &arguments);
    assert!(failed && report.balance.missing > 0, "{report}");
    assert_eq!(report.balance.unexplained, 0, "{report}");
    assert!(report.failures.iter().any(|failure| failure.contains("more than 0")), "{report}");
    let (name, drops) = report.account.losses.first_key_value().expect("a counted loss");
    assert!(name.ends_with("eth0 socket drops"), "{name}");
    assert_eq!(*drops, report.balance.missing);

    let (report, failed) = measure(&left, &format!("{arguments} --max-loss 1"));
    assert!(!failed && report.balance.missing > 0, "{report}");
}

#[test]
fn what_cannot_be_measured_is_said_by_name() {
    if weir_lab::skipped() {
        return;
    }
    let lab = Lab::new("pktgenerr").expect("a lab");
    let (left, right) = hosts(&lab);
    lab.link(&left, "eth0", &right, "eth0", &LinkOptions::default()).expect("a link");
    add_addresses(&left, &right);
    let sink = format!("{}:eth0", right.namespace());
    let error = |arguments: &str| {
        let words = format!("run --rate 1000 --duration 0.1 {arguments}");
        let words = std::iter::once(PROGRAM).chain(words.split_whitespace());
        let Output { status, stderr, .. } = left.output(words).expect("it starts");
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(!status.success(), "{said}");
        said
    };
    let missing = |what: &str, interface: &str| {
        error(&format!("--interface {interface} --dst 10.0.0.2:9 --sink {sink} {what}"))
    };
    assert!(missing("", "eth7").contains("eth7: no such interface"));
    assert!(missing("--size 64", "eth0").contains("at least 82 bytes"));
    assert!(missing("--size 1515", "eth0").contains("at most 1514 bytes"));
    assert!(missing("--watch nowhere:eth0", "eth0").contains("/run/netns/nowhere"));
    assert!(missing("--dataplane-socket /run/none.sock", "eth0").contains("/run/none.sock"));
    let lonely = error("--interface eth0 --dst 10.0.0.9:9 --sink :eth0");
    assert!(lonely.contains("10.0.0.9 on eth0 answers neither ARP nor ND"), "{lonely}");
    let away = error("--interface eth0 --dst 192.0.2.1:9 --echo");
    assert!(away.contains("no route to 192.0.2.1"), "{away}");
    let family = error("--interface eth0 --src fd00::1 --dst 10.0.0.2:9 --echo");
    assert!(family.contains("different families"), "{family}");
}

/// Pin directories of this test's processes, which are gone by now.
fn own_pins() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/fs/bpf") else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_stale = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let rest = name.as_deref().and_then(|name| name.strip_prefix("weir_pktgen_"));
        let pid = rest.and_then(|rest| rest.split('_').next());
        pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists())
    };
    paths.filter(is_stale).collect()
}
