//! Everything comes and goes: on drop, on a panic, after a run that was killed, and when kept.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use weir_lab::{Error, Interface, Lab, LinkOptions, Result, clock::wait_until, skipped};

use crate::{SOON, pair, two_hosts};

fn namespaces_starting(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// A process that was killed counts as gone even where nobody has waited for it (state Z).
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

/// What a test leaves for the assertions after its lab is gone.
struct Traces {
    prefix: String,
    folder: PathBuf,
    pids: Vec<u32>,
}

impl Traces {
    fn of(lab: &Lab) -> Self {
        Self { prefix: lab.prefix().into(), folder: lab.folder().into(), pids: Vec::new() }
    }

    fn assert_gone(&self) {
        assert_eq!(namespaces_starting(&self.prefix), Vec::<String>::new());
        assert!(!self.folder.exists(), "{}", self.folder.display());
        for pid in &self.pids {
            assert!(!is_alive(*pid), "process {pid} is still there");
        }
    }
}

#[test]
fn a_lab_comes_and_goes() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("comes")?;
    let (left, right) = pair(&lab)?;
    let mut traces = Traces::of(&lab);
    assert_eq!(namespaces_starting(lab.prefix()).len(), 2);
    let process = left.spawn(sleeper())?;
    // A grandchild of its own session, which nobody waits for.
    let mut shell = Command::new("sh");
    shell.args(["-c", "setsid sleep 1000 & echo started $!"]);
    let line = right.spawn(shell)?.wait_for_output("started", SOON)?;
    traces.pids = vec![process.pid(), line.replace("started ", "").parse().unwrap()];
    assert!(traces.pids.iter().all(|pid| is_alive(*pid)));
    // A thread of this process keeps a namespace alive: the veth must go all the same.
    let (go, wait) = mpsc::channel();
    let survivor = left.enter(|| {
        thread::spawn(move || {
            let interfaces = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let before = interfaces();
            wait.recv().unwrap();
            (before, interfaces())
        })
    })?;
    drop(lab);
    traces.assert_gone();
    assert!(!process.is_running());
    go.send(()).unwrap();
    let (before, after) = survivor.join().unwrap();
    assert!(before.contains("lo:") && before.contains("eth0:"), "{before}");
    assert!(after.contains("lo:") && !after.contains("eth0:"), "{after}");
    assert!(matches!(left.spawn(sleeper()), Err(Error::TornDown { .. })));
    assert!(matches!(left.enter(|| ()), Err(Error::Enter { .. })));
    Ok(())
}

#[test]
fn a_panic_leaves_nothing() {
    if skipped() {
        return;
    }
    let mut traces = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("panics").unwrap();
        let (left, right) = pair(&lab).unwrap();
        let link = LinkOptions::default();
        lab.impaired_link(&left, "eth1", &right, "eth1", &link, 1, Default::default()).unwrap();
        let process = left.spawn(sleeper()).unwrap();
        traces = Some(Traces { pids: vec![process.pid()], ..Traces::of(&lab) });
        left.enter(|| panic!("in the middle, inside a namespace")).unwrap();
    }));
    let message = panicked.unwrap_err().downcast::<&str>().unwrap();
    assert_eq!(*message, "in the middle, inside a namespace");
    traces.unwrap().assert_gone();
}

/// Where the child below says what it made.
const CHILD_REPORT: &str = "WEIR_LAB_CHILD_REPORT";

/// What the child process does: make a lab, say so, and wait to be killed.
fn live_until_killed(report: &str) -> Result<()> {
    weir_lab::clean_up_on_signal()?;
    let lab = Lab::new("killed")?;
    let (left, _) = two_hosts(&lab)?;
    let process = left.spawn(sleeper())?;
    let text = format!("{}\n{}\n{}\n", lab.prefix(), lab.folder().display(), process.pid());
    fs::write(format!("{report}.new"), text).expect("the parent's folder");
    fs::rename(format!("{report}.new"), report).expect("the parent's folder");
    wait_until("killed", Duration::from_secs(60), || None)
}

/// Starts this program again, for the one test below, and ends it with `signal` once its lab is up.
fn run_and_end_child(lab: &Lab, signal: &str) -> Result<Traces> {
    let report = lab.folder().join("report");
    let mut command = Command::new(env::current_exe().expect("tests run from a file"));
    command.args(["--exact", "lifecycle::sigterm_tears_down", "--nocapture"]);
    command.env(CHILD_REPORT, &report);
    let child = lab.host("parent")?.spawn(command)?;
    let text = wait_until("the child's lab", SOON, || fs::read_to_string(&report).ok())?;
    let lines: Vec<_> = text.lines().collect();
    let traces = Traces {
        prefix: lines[0].into(),
        folder: lines[1].into(),
        pids: vec![lines[2].parse().expect("a pid")],
    };
    assert_eq!(namespaces_starting(&traces.prefix).len(), 2);
    assert!(is_alive(traces.pids[0]));
    child.signal(signal)?;
    let status = child.wait(SOON)?;
    let wanted: Signal = signal.parse().expect("a signal");
    assert_eq!(status.signal(), Some(wanted as i32), "{status}");
    Ok(traces)
}

#[test]
fn sigterm_tears_down() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    if let Ok(report) = env::var(CHILD_REPORT) {
        return live_until_killed(&report);
    }
    let lab = Lab::new("sigterm")?;
    run_and_end_child(&lab, "SIGTERM")?.assert_gone();
    Ok(())
}

#[test]
fn the_next_lab_removes_what_a_killed_run_left() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("sigkill")?;
    let traces = run_and_end_child(&lab, "SIGKILL")?;
    let _next = Lab::new("next")?;
    // Another test's lab may have begun the same before, and be at it.
    let gone = || namespaces_starting(&traces.prefix).is_empty() && !traces.folder.exists();
    wait_until("the killed run's lab to go", SOON, || gone().then_some(()))?;
    traces.assert_gone();
    Ok(())
}

#[test]
fn a_kept_lab_stays_until_it_is_removed() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    // A name of its own: labs that somebody keeps on this machine stay.
    let name = format!("kept{}", std::process::id());
    let lab = Lab::new(&name)?;
    let (left, _) = pair(&lab)?;
    let process = left.spawn(sleeper())?;
    let traces = Traces { pids: vec![process.pid()], ..Traces::of(&lab) };
    lab.keep();
    drop((process, lab));
    let _next = Lab::new("next")?;
    assert_eq!(namespaces_starting(&traces.prefix).len(), 2);
    assert!(is_alive(traces.pids[0]));
    assert!(weir_lab::remove_kept(&name).contains(&traces.prefix));
    assert_eq!(namespaces_starting(&traces.prefix), Vec::<String>::new());
    assert!(!traces.folder.exists());
    Ok(())
}

#[test]
fn links_have_what_was_asked_for() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("options")?;
    let (left, right) = two_hosts(&lab)?;
    let (mac_a, mac_b) = ([2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]);
    let options =
        LinkOptions { mtu: Some(3000), queues: Some(3), mac_a: Some(mac_a), mac_b: Some(mac_b) };
    lab.link(&left, "eth0", &right, "uplink", &options)?;
    assert_eq!(left.interface("eth0")?.mac, mac_a);
    let Interface { index, mac } = right.interface("uplink")?;
    assert_eq!(mac, mac_b);
    let shown = right.ip("-d link show uplink")?;
    for wanted in [&format!("{index}: uplink"), "mtu 3000", "numtxqueues 3 ", "numrxqueues 3 "] {
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
    right.neighbour("uplink", "10.0.0.9", mac_a)?;
    right.addr("uplink", "10.0.0.1/24")?;
    right.route("10.9.0.0/16 via 10.0.0.9")?;
    right.route("fd09::/64 via fe80::1 dev uplink")?;
    assert!(right.ip("neigh")?.contains("10.0.0.9 dev uplink lladdr 02:00:00:00:00:0a PERMANENT"));
    assert!(right.ip("route")?.contains("10.9.0.0/16 via 10.0.0.9 dev uplink"));
    right.sysctl("net.ipv4.ip_forward", "1")?;
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    assert_eq!(right.run(["cat", forwarding])?, "1\n");
    assert_eq!(left.run(["cat", forwarding])?, "0\n");
    Ok(())
}

#[test]
fn errors_name_the_object_and_the_reason() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = Lab::new("errors")?;
    let host = lab.host("host")?;
    let mut messages = Vec::new();
    messages.extend(Lab::new("Not A Name").err().map(|error| error.to_string()));
    messages.extend(lab.host("host").err().map(|error| error.to_string()));
    messages.extend(host.addr("eth9", "10.0.0.1/24").err().map(|error| error.to_string()));
    messages.extend(host.sysctl("net.no.such", "1").err().map(|error| error.to_string()));
    messages.extend(host.interface("eth9").err().map(|error| error.to_string()));
    messages.extend(host.run(["no-such-program"]).err().map(|error| error.to_string()));
    let failing = host.spawn({
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo sorry >&2; exit 3"]);
        shell
    })?;
    let ended = failing.wait_for_output("never said", SOON);
    messages.extend(ended.err().map(|error| error.to_string()));
    let wanted = [
        "\"Not A Name\"",
        "host",
        "eth9",
        "/proc/sys/net/no/such",
        "eth9",
        "no-such-program",
        "sorry",
    ];
    assert_eq!(messages.len(), wanted.len(), "{messages:#?}");
    for (message, wanted) in messages.iter().zip(wanted) {
        assert!(message.contains(wanted), "{wanted} in {message}");
    }
    Ok(())
}
