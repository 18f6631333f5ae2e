//! The house rules that neither the compiler nor clippy checks, over every Rust file and manifest
//! of the workspace. Each rule is also tried on a snippet that breaks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 600;
/// Of a file that is not a test.
const SOURCE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;
/// Of a test: a table of cases, or a story told in order.
const TEST_FUNCTION_LINES_MAX: usize = 120;

/// Sources over [`SOURCE_LINES_MAX`] lines, and why they are not two files.
const LONG_SOURCES: [(&str, &str); 2] = [
    ("dataplane/src/device/faulty.rs", "one device, half of it its own tests"),
    ("dataplane/src/server/node.rs", "the start of a node, in the order in which it happens"),
];

/// The files that may be `unsafe`, and for what.
const UNSAFE_FILES: [(&str, &str); 18] = [
    ("dataplane/src/device/xsk/device.rs", "descriptors of AF_XDP rings"),
    ("dataplane/src/device/xsk/socket.rs", "AF_XDP sockets and one socket option"),
    ("dataplane/src/device/xsk/umem.rs", "the base address of a UMEM"),
    ("dataplane/src/flow/huge.rs", "where a mapping lies, and advice on memory"),
    ("dataplane/src/flow/index.rs", "prefetch"),
    ("dataplane/src/flow/store.rs", "a file mapped into memory"),
    ("dataplane/src/memory/umem.rs", "chunks of one region, each with one owner"),
    ("dataplane/src/netlink/announce.rs", "sending on a packet socket"),
    ("dataplane/src/netlink/offload.rs", "the ethtool ioctl"),
    ("dataplane/tests/alloc.rs", "a global allocator that counts"),
    ("perf/benches/af_xdp/bpf.rs", "the bpf system call"),
    ("perf/benches/af_xdp/forwarder.rs", "AF_XDP without the dataplane"),
    ("xdp-redirect/ebpf/src/main.rs", "eBPF programs"),
    ("xdp-redirect/ebpf/src/maps.rs", "eBPF programs"),
    ("xdp-redirect/ebpf/src/packet.rs", "eBPF programs"),
    ("xdp-redirect/ebpf/src/port.rs", "eBPF programs"),
    ("xdp-redirect/ebpf/src/trunk.rs", "eBPF programs"),
    ("xdp-redirect/tests/support/worker.rs", "AF_XDP without the dataplane"),
];

/// What a crate's own code may use of weir; tests (`dev-dependencies`) may use more. Crates that
/// are not here may use everything.
const ARROWS: [(&str, &[&str]); 13] = [
    ("api", &[]),
    ("cluster", &["weir-deploy", "weir-lab"]),
    ("cluster/e2e", &["weir-lab"]),
    ("cni", &["weir-api"]),
    ("control", &["weir-api", "weir-tables"]),
    ("dataplane", &["weir-api", "weir-packet", "weir-tables", "weir-xdp-redirect"]),
    ("dataplane/packet", &[]),
    ("dataplane/tables", &["weir-packet"]),
    ("deploy", &["weir-api"]),
    ("ipam", &["weir-api", "weir-control"]),
    ("lab", &[]),
    ("pktgen", &["weir-api", "weir-dataplane", "weir-packet", "weir-tables", "weir-xdp-redirect"]),
    ("xdp-redirect", &[]),
];

/// What a folder's code must not name, so that it stays pure and arrows inside the crate never
/// point back.
const PURE_FOLDERS: [(&str, &[&str]); 4] = [
    (
        "dataplane/src/pipeline/",
        &["crate::device", "crate::worker", "crate::clock", "std::time", "rustix::", "libc::"],
    ),
    ("dataplane/src/flow/", &["crate::device", "crate::worker", "crate::pipeline", "std::time"]),
    ("dataplane/src/device/", &["crate::worker", "crate::pipeline", "crate::flow"]),
    ("dataplane/tables/src/", &["std::fs", "std::net::Tcp", "std::net::Udp", "std::time"]),
];

/// One text file of the workspace.
struct File {
    /// From the workspace's folder.
    path: String,
    text: String,
}

impl File {
    fn finding(&self, line: usize, what: impl AsRef<str>) -> String {
        format!("{}:{}: {}", self.path, line + 1, what.as_ref())
    }

    fn is_test(&self) -> bool {
        ["/tests/", "/benches/", "/fuzz/"].iter().any(|folder| self.path.contains(folder))
            || self.path.ends_with("/tests.rs")
    }

    /// The lines without their comments.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(|line| line.split("//").next().unwrap_or(line))
    }
}

fn check_header(file: &File) -> Vec<String> {
    match file.text.starts_with("//!") {
        true => Vec::new(),
        false => vec![file.finding(0, "begin with //! and say what the file is for")],
    }
}

fn check_columns(file: &File) -> Vec<String> {
    let lines = file.text.lines().enumerate();
    let long = lines.filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    long.map(|(number, _)| file.finding(number, format!("over {COLUMNS_MAX} columns"))).collect()
}

fn check_length(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let is_listed = LONG_SOURCES.iter().any(|(path, _)| *path == file.path);
    let is_long_source = lines > SOURCE_LINES_MAX && !file.is_test();
    if lines > LINES_MAX {
        vec![file.finding(LINES_MAX, format!("{lines} lines: split it"))]
    } else if is_long_source && !is_listed {
        vec![file.finding(SOURCE_LINES_MAX, format!("{lines} lines: split it, or list why not"))]
    } else if is_listed && !is_long_source {
        vec![file.finding(0, format!("{lines} lines: LONG_SOURCES need not list it any more"))]
    } else {
        Vec::new()
    }
}

/// Relies on rustfmt: a function ends at the first `}` as far to the left as its `fn`.
fn check_functions(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    let is_test = file.is_test() || file.path.contains("/fixtures/");
    let lines_max = if is_test { TEST_FUNCTION_LINES_MAX } else { FUNCTION_LINES_MAX };
    let lines: Vec<&str> = file.text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if !is_function(line) {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| *line == end).map_or(0, |it| it + 1);
        if length > lines_max {
            findings.push(file.finding(start, format!("a function of {length} lines")));
        }
    }
    findings
}

fn is_function(line: &str) -> bool {
    const BEFORE_FN: [&str; 6] = ["pub", "const", "async", "unsafe", "extern", "\"C\""];
    let mut words = line.split_whitespace();
    let keyword = words.find(|word| !BEFORE_FN.contains(word) && !word.starts_with("pub("));
    keyword == Some("fn") && line.trim_end().ends_with(['{', '('])
}

fn check_words(file: &File) -> Vec<String> {
    // In two parts, so that this file does not find itself.
    let words = [("to", "do!("), ("unimple", "mented!("), ("FIX", "ME"), ("#[ign", "ore")];
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (head, tail) in words {
            if line.contains(&format!("{head}{tail}")) {
                findings.push(file.finding(number, format!("{head}{tail}")));
            }
        }
    }
    findings
}

/// clippy denies `unwrap` outside tests; nobody may switch that off there.
fn check_unwrap(file: &File) -> Vec<String> {
    let switch = ["clippy::unwrap", "_used"].concat();
    let lines = file.code().enumerate().filter(|(_, line)| line.contains(&switch));
    lines
        .filter(|_| !file.is_test())
        .map(|(number, _)| file.finding(number, "only tests may unwrap: use expect(\"why\")"))
        .collect()
}

fn check_unsafe(file: &File) -> Vec<String> {
    let keyword = ["un", "safe"].concat();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let uses = |line: &str| line.split(|c| !is_word(c)).any(|word| word == keyword);
    let first = file.code().position(|line| uses(line) && !line.contains('"'));
    let is_listed = UNSAFE_FILES.iter().any(|(path, _)| *path == file.path);
    match first {
        Some(line) if !is_listed => {
            vec![file.finding(line, format!("{keyword}: UNSAFE_FILES does not list this file"))]
        }
        None if is_listed => vec![file.finding(0, "UNSAFE_FILES need not list it any more")],
        _ => Vec::new(),
    }
}

fn check_purity(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (folder, names) in PURE_FOLDERS {
        if !file.path.starts_with(folder) || file.is_test() {
            continue;
        }
        // Unit tests at the end of a file may use whatever they like.
        let code = file.code().take_while(|line| !line.contains("cfg(test)"));
        for (number, line) in code.enumerate() {
            let found = names.iter().filter(|name| line.contains(*name));
            findings.extend(
                found.map(|name| file.finding(number, format!("{folder} must not name {name}"))),
            );
        }
    }
    findings
}

/// Of a `Cargo.toml`: the workspace's lints, and arrows that never point back.
fn check_manifest(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    if !file.text.contains("[lints]\nworkspace = true") {
        findings.push(file.finding(0, "add [lints] workspace = true"));
    }
    let folder = file.path.trim_end_matches("/Cargo.toml");
    let allowed = ARROWS.iter().find(|(name, _)| *name == folder).map(|(_, allowed)| *allowed);
    let Some(allowed) = allowed else { return findings };
    let mut section = "";
    for (number, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or(line);
        let is_dependency = ["[dependencies]", "[build-dependencies]"].contains(&section)
            || section.starts_with("[target.") && !section.contains("dev-");
        if is_dependency && name.starts_with("weir-") && !allowed.contains(&name) {
            findings.push(file.finding(number, format!("{folder} must not depend on {name}")));
        }
    }
    findings
}

type Rule = fn(&File) -> Vec<String>;

const RULES: [Rule; 8] = [
    check_header,
    check_columns,
    check_length,
    check_functions,
    check_words,
    check_unwrap,
    check_unsafe,
    check_purity,
];

/// All files of the workspace whose name ends so, builds and what git hides excepted.
fn read_files(root: &Path, ending: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry of a folder").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                let text = fs::read_to_string(&path).expect("a text file");
                let path = path.strip_prefix(root).expect("below the root").display().to_string();
                files.push(File { path, text });
            }
        }
    }
    files
}

fn read_workspace(ending: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("dataplane has a parent");
    let files = read_files(root, ending);
    assert!(files.len() > 5, "{} of {ending} in {}", files.len(), root.display());
    files
}

fn assert_none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn rust_files_keep_the_rules() {
    let mut findings = Vec::new();
    for file in read_workspace(".rs") {
        findings.extend(RULES.iter().flat_map(|rule| rule(&file)));
    }
    findings.sort();
    assert_none(findings);
}

#[test]
fn manifests_keep_the_rules() {
    let files = read_workspace("Cargo.toml");
    let (root, members): (Vec<File>, Vec<File>) =
        files.into_iter().partition(|file| file.path == "Cargo.toml");
    let apart = |file: &File| file.path.contains("/ebpf/") || file.path.contains("/fuzz/");
    let members: Vec<File> = members.into_iter().filter(|file| !apart(file)).collect();
    assert_none(members.iter().flat_map(check_manifest).collect());
    for lint in [["un", "safe_code"].concat(), ["unwrap", "_used"].concat()] {
        assert!(root[0].text.contains(&format!("{lint} = \"deny\"")), "Cargo.toml denies {lint}");
    }
    let paths: BTreeSet<&str> = members.iter().map(|it| it.path.as_str()).collect();
    for (folder, _) in ARROWS {
        assert!(paths.contains(format!("{folder}/Cargo.toml").as_str()), "ARROWS: no {folder}");
    }
}

#[test]
fn listed_files_exist() {
    let files = read_workspace(".rs");
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for (path, _) in LONG_SOURCES.iter().chain(&UNSAFE_FILES) {
        assert!(paths.contains(path), "{path} is listed and not there");
    }
    for (folder, _) in PURE_FOLDERS {
        assert!(paths.iter().any(|path| path.starts_with(folder)), "PURE_FOLDERS: no {folder}");
    }
}

fn file(path: &str, text: impl Into<String>) -> File {
    File { path: path.into(), text: text.into() }
}

/// The rule finds something in the text, at this line.
#[track_caller]
fn assert_breaks(rule: Rule, path: &str, line: usize, text: impl Into<String>) {
    let findings = rule(&file(path, text));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with(&format!("{path}:{line}: ")), "{findings:?}");
}

#[track_caller]
fn assert_keeps(rule: Rule, path: &str, text: impl Into<String>) {
    assert_eq!(rule(&file(path, text)), [""; 0]);
}

#[test]
fn headers_columns_and_lengths_are_found() {
    assert_breaks(check_header, "a.rs", 1, "use std::fs;\n//! Late.\n");
    assert_keeps(check_header, "a.rs", "//! First.\n");
    assert_breaks(check_columns, "a.rs", 2, format!("\n{}\n", "x".repeat(101)));
    assert_keeps(check_columns, "a.rs", "é".repeat(100));
    assert_breaks(check_length, "a/src/a.rs", 401, "\n".repeat(401));
    assert_keeps(check_length, "a/tests/a.rs", "\n".repeat(401));
    assert_breaks(check_length, "a/tests/a.rs", 601, "\n".repeat(601));
    let (listed, _) = LONG_SOURCES[0];
    assert_keeps(check_length, listed, "\n".repeat(401));
    assert_breaks(check_length, listed, 1, "\n".repeat(400));
}

#[test]
fn long_functions_are_found() {
    let function =
        |head: &str, lines: usize| format!("\n{head}\n{}}}\n", "    x();\n".repeat(lines));
    assert_breaks(check_functions, "a.rs", 2, function("pub async fn long() {", 69));
    assert_keeps(check_functions, "a.rs", function("pub(crate) fn fits() {", 68));
    assert_breaks(check_functions, "a.rs", 2, function("const fn many(", 69));
    let method =
        format!("impl A {{\n    fn long() {{\n{}    }}\n}}\n", "        x();\n".repeat(69));
    assert_breaks(check_functions, "a.rs", 2, method);
}

#[test]
fn unfinished_work_is_found() {
    for (head, tail) in
        [("to", "do!()"), ("unimple", "mented!()"), ("// FIX", "ME"), ("#[ign", "ore]")]
    {
        assert_breaks(check_words, "a.rs", 2, format!("//! A.\n{head}{tail}\n"));
    }
    assert_keeps(check_words, "a.rs", "//! Ignores nothing.\n");
}

#[test]
fn unwrap_is_for_tests() {
    let switch = ["#![allow(clippy::unwrap", "_used)]\n"].concat();
    assert_breaks(check_unwrap, "a/src/a.rs", 1, switch.clone());
    assert_keeps(check_unwrap, "a/tests/a.rs", switch);
}

#[test]
fn the_list_of_unchecked_files_neither_grows_nor_shrinks() {
    let block = ["    un", "safe { x() }\n"].concat();
    assert_breaks(check_unsafe, "a/src/a.rs", 2, format!("//! A.\n{block}"));
    let words = ["//! No un", "safe.\n#![forbid(un", "safe_code)]\n"].concat();
    assert_keeps(check_unsafe, "a/src/a.rs", words.clone());
    let (listed, _) = UNSAFE_FILES[0];
    assert_keeps(check_unsafe, listed, block);
    assert_breaks(check_unsafe, listed, 1, words);
}

#[test]
fn arrows_that_point_back_are_found() {
    let line = "//! A.\nuse crate::device::Device;\n";
    assert_breaks(check_purity, "dataplane/src/pipeline/a.rs", 2, line);
    assert_keeps(check_purity, "dataplane/src/worker/a.rs", line);
    let test = format!("#[cfg(test)]\nmod tests {{\n{line}}}\n");
    assert_keeps(check_purity, "dataplane/src/pipeline/a.rs", test);

    let lints = "[lints]\nworkspace = true\n";
    let uses = |section: &str| format!("{lints}[{section}]\nweir-dataplane.workspace = true\n");
    assert_breaks(check_manifest, "control/Cargo.toml", 4, uses("dependencies"));
    assert_breaks(check_manifest, "control/Cargo.toml", 4, uses("build-dependencies"));
    assert_keeps(check_manifest, "control/Cargo.toml", uses("dev-dependencies"));
    assert_keeps(check_manifest, "perf/Cargo.toml", uses("dependencies"));
    assert_breaks(check_manifest, "perf/Cargo.toml", 1, "[dependencies]\n");
    let packet = format!("{lints}[dependencies]\nweir-tables = {{ path = \"../tables\" }}\n");
    assert_breaks(check_manifest, "dataplane/packet/Cargo.toml", 4, packet);
}
