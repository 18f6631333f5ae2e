//! What figures were taken on.

use std::fs;

/// Prints processor, kernel, memory and load: figures mean nothing without.
pub fn print() {
    let cpus = field("/proc/cpuinfo", "model name");
    let count = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory_kb: u64 =
        field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    println!("machine   {count} x {cpus}, {} MiB, Linux {}", memory_kb / 1024, kernel.trim());
    let load = read("/proc/loadavg");
    let busy = load.split_whitespace().next().and_then(|load| load.parse().ok());
    println!("load      {} (1, 5, 15 min)", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    if busy.is_some_and(|load: f64| load > 0.5) {
        println!("          something else runs here: read the least, not the median");
    }
    if cfg!(debug_assertions) {
        println!("          not an optimised build: these figures mean nothing");
    }
    println!();
}

/// Pins this thread to the last CPU: the first one takes most interrupts.
pub fn pin() {
    if let Some(last) = core_affinity::get_core_ids().and_then(|cores| cores.last().copied()) {
        core_affinity::set_for_current(last);
    }
}

/// KiB of a line `name: N kB` of a file below `/proc`.
///
/// # Errors
/// There is no such line.
pub fn kib(path: &str, name: &str) -> anyhow::Result<u64> {
    let value = field(path, name);
    let number = value.trim_end_matches(" kB").parse();
    number.map_err(|_| anyhow::anyhow!("no {name} in {path}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first `name: value` line of a file.
fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, v)| v.trim().into())
}
