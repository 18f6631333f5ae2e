//! Runs scripts: text files of steps, and what comes out of each.
//!
//! A step is files (`-- NAME`, then the text; `-- NAME gone` removes it) and, after `==`, what then
//! comes out. Later steps change files. `UPDATE=1` in the environment writes what comes out into
//! the scripts.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What a script is about.
pub(crate) trait World {
    /// Takes a file.
    fn put(&mut self, name: &str, content: &str);
    /// Forgets a file.
    fn remove(&mut self, name: &str);
    /// What comes out now: lines, none of them blank.
    fn settle(&mut self) -> String;
}

/// Runs every `*.txt` of a folder below `tests`, each in a new world.
pub(crate) fn run_folder<W: World>(folder: &str, count_min: usize, new: impl Fn() -> W) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|it| it.extension().is_some_and(|it| it == "txt")).collect();
    paths.sort();
    assert!(paths.len() > count_min, "the scripts are gone: {paths:?}");
    let is_update = std::env::var_os("UPDATE").is_some();
    let mut failures = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let result = run_script(&text, &mut new());
        if result == text {
            continue;
        }
        if is_update {
            std::fs::write(&path, result).unwrap();
        } else {
            failures.push(format!("{}:\n{}", path.display(), show_difference(&text, &result)));
        }
    }
    assert!(failures.is_empty(), "{}\nUPDATE=1 accepts the change", failures.join("\n"));
}

/// The script with the results that come out.
fn run_script(text: &str, world: &mut impl World) -> String {
    let mut result = String::new();
    let mut file: Option<(String, String)> = None;
    let mut is_in_result = false;
    for line in text.split_inclusive('\n') {
        let header = line.strip_prefix("-- ").map(str::trim_end);
        if header.is_some() || line.trim_end() == "==" {
            if let Some((name, content)) = file.take() {
                // The blank line before the next step is not the file's.
                let content = content.strip_suffix("\n\n").unwrap_or(&content);
                world.put(&name, content);
            }
            is_in_result = false;
        }
        if let Some(header) = header {
            match header.strip_suffix(" gone") {
                Some(name) => world.remove(name),
                None => file = Some((header.to_owned(), String::new())),
            }
        }
        if line.trim_end() == "==" {
            result.push_str(line);
            result.push_str(&world.settle());
            is_in_result = true;
            continue;
        }
        // A blank line ends a result, so that steps stand apart.
        is_in_result &= !line.trim().is_empty();
        if is_in_result {
            continue;
        }
        result.push_str(line);
        if header.is_none()
            && let Some((_, content)) = &mut file
        {
            content.push_str(line);
        }
    }
    result
}

fn show_difference(expected: &str, got: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
    let mut text = String::new();
    for line in old.iter().filter(|line| !new.contains(line)) {
        writeln!(text, "  - {line}").unwrap();
    }
    for line in new.iter().filter(|line| !old.contains(line)) {
        writeln!(text, "  + {line}").unwrap();
    }
    text
}
