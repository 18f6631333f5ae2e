//! Which build of weir is judged: a fingerprint of its programs and its chart.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

const PROGRAMS: [&str; 5] = ["weir-dataplane", "weir-agent", "weir-operator", "weir-cni", "weir"];

/// Twelve hexadecimal digits that change with any program and any file of the chart.
///
/// # Errors
/// A program or a file of the chart cannot be read.
pub fn identify(root: &Path) -> Result<String> {
    // What is not built is in no image either.
    let mut files: Vec<PathBuf> =
        PROGRAMS.iter().filter_map(|program| weir_lab::program(program).ok()).collect();
    let chart = root.join("deploy/helm/weir");
    collect(&chart, &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in &files {
        let name = || file.display().to_string();
        let bytes = fs::read(file).with_context(name)?;
        hash.update(file.strip_prefix(root).unwrap_or(file).as_os_str().as_encoded_bytes());
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
