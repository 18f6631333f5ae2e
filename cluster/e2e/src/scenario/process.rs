//! Processor time and memory of weir's processes on a node.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};

use super::watch::field;
use crate::cluster::Cluster;

/// What a process has used until now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Of all its threads.
    pub cpu: Duration,
    /// Resident, in KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// Of a program on a node, by its name (the first of that name).
    ///
    /// # Errors
    /// It does not run there.
    pub fn of(cluster: &Cluster, node: &str, program: &str) -> Result<Self> {
        // schedstat: nanoseconds on the processor, of each thread.
        let script = r#"
            for stat in /proc/[0-9]*/comm; do
                [ "$(cat "$stat" 2>/dev/null)" = "$1" ] || continue
                folder=${stat%/comm}
                awk '/^VmRSS/ { print $2 }' "$folder/status"
                cat "$folder"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
                exit
            done"#;
        let text = field(cluster, node, &["sh", "-c", script, "sh", program])?;
        let mut numbers = text.lines().map(str::parse);
        let mut next = || numbers.next().and_then(Result::ok);
        let (resident_kib, cpu_ns) = next()
            .zip(next())
            .with_context(|| format!("{node}: no process {program}: {text:?}"))?;
        Ok(Self { cpu: Duration::from_nanos(cpu_ns), resident_kib })
    }

    /// Processor time since an earlier look at the same process.
    pub fn cpu_since(&self, before: &Self) -> Duration {
        self.cpu.saturating_sub(before.cpu)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.resident_kib / 1024;
        write!(formatter, "{mib} MiB resident, {:.2} s of CPU", self.cpu.as_secs_f64())
    }
}
