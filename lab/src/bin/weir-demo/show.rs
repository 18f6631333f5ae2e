//! How the demo looks: headings, bars, figures, the summary and the tour.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, io::IsTerminal, path::PathBuf};

use weir_lab::{Testbed, report::LatencyUs};

const WIDTH: usize = 78;
const BAR_WIDTH: usize = 30;
/// Lines of each log that a failure shows.
const LOG_LINES: usize = 25;

/// `text` in bold, where the output is a terminal.
fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
}

/// A failure's headline.
pub fn failure(text: &str) -> String {
    let line = format!("FAILED: {text}");
    if std::io::stderr().is_terminal() { format!("\x1b[1;31m{line}\x1b[0m") } else { line }
}

pub fn print_heading(number: u32, title: &str) {
    let line = format!("── {number}. {title} ");
    let rest = WIDTH.saturating_sub(line.chars().count());
    println!("\n{}\n", bold(&format!("{line}{}", "─".repeat(rest))));
}

/// Every line of `text`, indented.
pub fn print_indented(text: &str) {
    for line in text.trim_end().lines() {
        println!("    {}", line.trim_end());
    }
}

/// 1234567 as 1,234,567.
pub fn group(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar of `part` in `whole`; what is there at all shows.
pub fn bar(part: f64, whole: f64) -> String {
    let length = (part / whole.max(f64::MIN_POSITIVE) * BAR_WIDTH as f64).round() as usize;
    "█".repeat(length.clamp(usize::from(part > 0.0), BAR_WIDTH))
}

/// How a number of things was divided.
pub fn print_split(counts: &BTreeMap<String, u64>) {
    let total: u64 = counts.values().sum();
    let largest = counts.values().copied().max().unwrap_or(1) as f64;
    for (name, count) in counts {
        let percent = *count as f64 * 100.0 / total.max(1) as f64;
        let bar = bar(*count as f64, largest);
        println!("    {name:<8} {bar:<BAR_WIDTH$} {:>9}  {percent:4.1} %", group(*count));
    }
}

pub fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1e3)
}

pub fn latency(latency: &LatencyUs) -> String {
    let LatencyUs { p50, p99, max } = *latency;
    let [p50, p99, max] = [p50, p99, max].map(milliseconds);
    format!("latency p50 {p50}, p99 {p99}, max {max}")
}

/// What the demo found, in a line each.
#[derive(Default)]
pub struct Summary(Vec<(&'static str, String)>);

impl Summary {
    pub fn add(&mut self, what: &'static str, figures: String) {
        self.0.push((what, figures));
    }

    pub fn print(&self) {
        let line = "── Summary: every step passed ";
        println!("\n{}\n", bold(&format!("{line}{}", "─".repeat(WIDTH - line.chars().count()))));
        for (what, figures) in &self.0 {
            println!("    {what:<22} {figures}");
        }
        println!();
    }
}

/// After a failure: the end of weir's logs, and where all of them are.
pub fn print_logs(testbed: &Testbed, error: &anyhow::Error) {
    eprintln!();
    for process in testbed.processes() {
        let log = process.stderr();
        let lines: Vec<&str> = log.lines().collect();
        let name = process.stderr_path().file_name().unwrap_or_default();
        eprintln!("The end of {}:", name.display());
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            eprintln!("    {line}");
        }
    }
    match save_logs(testbed, error) {
        Ok(folder) => eprintln!("All logs: {}", folder.display()),
        Err(error) => eprintln!("The logs cannot be saved: {error}"),
    }
}

/// Copies what all programs said out of the lab's folder, which goes with the lab, beside what weir
/// says now.
fn save_logs(testbed: &Testbed, error: &anyhow::Error) -> std::io::Result<PathBuf> {
    let folder = env::temp_dir().join(format!("{}-logs", testbed.lab().prefix()));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("failure"), format!("{error:#}\n"))?;
    for entry in fs::read_dir(testbed.lab().folder())? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|it| it == "out" || it == "err") {
            fs::copy(&path, folder.join(entry.file_name()))?;
        }
    }
    for arguments in [&["status"][..], &["service", "list"], &["flow", "list"], &["drops"]] {
        let said = testbed.weir(arguments).unwrap_or_else(|error| error.to_string());
        fs::write(folder.join(format!("weir-{}", arguments.join("-"))), said)?;
    }
    let links = testbed.node().ip("-s link").unwrap_or_else(|error| error.to_string());
    fs::write(folder.join("node-links"), links)?;
    Ok(folder)
}

/// How to look around in a demo that was kept.
pub fn print_tour(testbed: &Testbed) {
    let weir = weir_lab::program("weir").map_or("weir".into(), |path| path.display().to_string());
    let run = testbed.run_folder().display().to_string();
    let mut hosts = String::new();
    let pods = testbed.pods().map(|it| it.host());
    for host in [testbed.client(), testbed.node()].into_iter().chain(pods) {
        let _ = write!(hosts, "\n    {}", host.namespace());
    }
    let client = testbed.client().namespace();
    let web = weir_lab::testbed::Service::http().load_balancer();
    println!(
        "{}\n
    weir={weir}
    $weir --run-dir {run} status             also: service list, flow list, drops
    ip netns exec {client} curl http://{}/
    ip netns exec {client} curl 'http://[{}]/'
    {}   edit a file and save it
    {}   what the programs say\n
Namespaces:{hosts}\n
Remove it all with `./scripts/demo --clean`.",
        bold("The demo is still up. Look around:"),
        web.v4,
        web.v6,
        testbed.manifests().display(),
        testbed.lab().folder().join("*.err").display(),
    );
}
