//! `weir sysdump`: everything of this node that a bug report needs, in one archive.
//!
//! What cannot be collected is noted in the archive's manifest, and fails nothing. No environment
//! of any process, no Secret and nothing of pods but their names and addresses is read.

mod archive;
mod collect;
mod facts;
mod items;
mod links;

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use weir_api::paths::Paths;

pub(super) use archive::{Archive, Entry};
pub(super) use collect::Collected;

use crate::clock::wall_time;

/// Collect what a bug report needs into an archive.
///
/// On a node: what weir knows and counts, versions, the kernel's configuration, interfaces, routes,
/// rules, pins, and the sysctls that weir changes. As `kubectl weir sysdump`: that of all nodes,
/// logs of weir's pods, and the cluster's nodes, services, endpoint slices, policies and events.
/// Names and addresses of your workloads are in it; Secrets and environments are not.
#[derive(Debug, Clone, Args)]
pub struct SysdumpArgs {
    /// The archive; `-` is standard output. By default a new file in this folder.
    #[arg(long, short = 'f', value_name = "FILE.tar.gz")]
    pub file: Option<PathBuf>,
    /// At most so many MB, before compression; what comes later is left out, and noted.
    #[arg(long, default_value_t = 200, value_name = "MB")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub limit_mb: u64,
    /// At most so many flows.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub flows: u32,
}

/// Where the archive goes.
pub(super) enum Destination {
    Stdout,
    File(PathBuf),
}

impl SysdumpArgs {
    /// The file asked for, or one that is named after what it is of and when.
    pub(super) fn destination(&self, of: &str) -> Destination {
        match &self.file {
            Some(path) if path == Path::new("-") => Destination::Stdout,
            Some(path) => Destination::File(path.clone()),
            None => {
                let time = wall_time().strftime("%Y%m%dT%H%M%SZ");
                Destination::File(format!("weir-sysdump-{of}-{time}.tar.gz").into())
            }
        }
    }
}

impl Destination {
    /// Opens it; a file is readable by its owner alone.
    pub(super) fn open(&self) -> anyhow::Result<Box<dyn Write>> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = match self {
            Self::Stdout => return Ok(Box::new(stdout().lock())),
            Self::File(path) => path,
        };
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("{}: cannot be written", path.display()))?;
        Ok(Box::new(BufWriter::new(file)))
    }

    /// Tells where it is and what is missing.
    pub(super) fn tell(&self, entries: &[Entry]) {
        let failed = entries.iter().filter(|it| !it.error.is_empty()).count();
        let missing = match failed {
            0 => String::new(),
            _ => format!(", {failed} of them not collected: its manifest.json says why"),
        };
        let (items, bytes) = (entries.len(), entries.iter().map(|it| it.bytes).sum::<u64>());
        let kb = bytes.div_ceil(1000);
        if let Self::File(path) = self {
            println!("{}: {items} items, {kb} kB before compression{missing}", path.display());
        }
    }
}

/// Collects this node's.
pub(super) async fn run(paths: &Paths, args: &SysdumpArgs) -> anyhow::Result<ExitCode> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let destination = args.destination(match host.trim() {
        "" => "node",
        name => name,
    });
    let mut archive = Archive::new(destination.open()?, args.limit_mb * 1_000_000);
    for item in items::list(paths, args).await {
        let collected = item.collect().await;
        archive.add(&item.path, collected)?;
    }
    let entries = archive.finish(host.trim())?;
    destination.tell(&entries);
    Ok(ExitCode::SUCCESS)
}
