//! Whether this process may build labs here, and why not.

use std::{fs, io::Write, panic::Location, process, sync::OnceLock};

use crate::{command, namespace};

/// Bits of CapEff in /proc/self/status (capabilities(7)).
const NEEDED: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN")];

/// Tries once per process whether namespaces can be made.
///
/// # Errors
/// The reason, in words for a human, why a test that needs a lab must be skipped.
pub fn privileged() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(try_everything).clone()
}

/// True when the calling test cannot run here; the reason goes to stderr even under the test
/// harness, which hides what passing tests print.
#[track_caller]
#[must_use]
pub fn skipped() -> bool {
    let Err(reason) = privileged() else { return false };
    let place = Location::caller();
    let line = format!("SKIPPED {}:{}: {reason}\n", place.file(), place.line());
    let _ = std::io::stderr().write_all(line.as_bytes());
    true
}

fn try_everything() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status")
        .map_err(|error| format!("cannot read /proc/self/status: {error}"))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let effective = effective.ok_or("no CapEff in /proc/self/status")?;
    for (bit, name) in NEEDED {
        if effective & (1 << bit) == 0 {
            return Err(format!("{name} is missing: run as root"));
        }
    }
    let probe = format!("weir-probe-{}-0", process::id());
    let made = namespace::add(&probe).and_then(|()| {
        command::ip(&format!("-n {probe} link add name probe0 type veth peer name probe1"))?;
        namespace::enter(&probe, || ())
    });
    let removed = namespace::delete(&probe);
    made.and(removed).map_err(|error| format!("cannot make network namespaces and veths: {error}"))
}
