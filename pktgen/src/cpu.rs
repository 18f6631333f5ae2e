//! Pinning threads to CPUs.

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Binds the calling thread, and threads that it starts from now on, to a CPU, if one is given.
///
/// # Errors
/// If this machine has no such CPU.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    ensure!(cpu < CpuSet::MAX_CPU, "CPU {cpu}: there is no such CPU");
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("CPU {cpu}: see `nproc`"))
}
