//! The images that every cluster has: what upstream's end-to-end tests ask for, from static
//! programs and this machine's own tools, under upstream's names (`test/utils/image/manifest.go`
//! of Kubernetes 1.36). The archive is made as weir's own is, without a container engine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use weir_deploy::{
    archive::{self, Image},
    layer::{Blob, Layer, digest},
    libraries::libraries_of,
};

use crate::{node_config::PAUSE_IMAGE, paths};

/// Of the programs in every image.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin:/sbin:/";

/// Built, and static.
const PROGRAMS: [&str; 4] = ["pause", "agnhost", "coredns", "regression-issue-74839"];

/// Static.
const BUSYBOX: &str = "/bin/busybox";

/// What upstream's image of agnhost has beside it. busybox has the rest.
const TOOLS: [&str; 12] = [
    "/bin/bash",
    "/usr/bin/curl",
    "/usr/bin/dig",
    "/usr/bin/getent",
    "/usr/bin/host",
    "/usr/bin/iperf",
    "/usr/bin/nslookup",
    "/bin/nc.openbsd",
    "/bin/ip",
    "/bin/ss",
    "/bin/ping",
    // The one of a static busybox crashes when it looks up a host.
    "/usr/bin/wget",
];

const AGNHOST: [&str; 2] = [
    "registry.k8s.io/e2e-test-images/agnhost:2.63.0",
    "registry.k8s.io/e2e-test-images/agnhost:2.55",
];
/// Tests of DNS ask for dig, getent and a shell of glibc's.
const GLIBC_DNS: [&str; 1] = ["registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0"];
const BUSYBOX_IMAGES: [&str; 2] =
    ["registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "docker.io/library/busybox:latest"];
/// It only has to serve something on port 80.
const NGINX: [&str; 1] = ["registry.k8s.io/e2e-test-images/nginx:1.15-4"];
const REGRESSION: [&str; 1] = ["registry.k8s.io/e2e-test-images/regression-issue-74839:1.4"];
/// Named by the manifest of the cluster's DNS.
const COREDNS: [&str; 1] = ["docker.io/library/coredns:cluster"];

/// Gives the archive of them all, written anew when a program in it has changed.
pub fn write_images() -> Result<PathBuf> {
    let programs = PROGRAMS.map(paths::program).into_iter().collect::<Result<Vec<_>>>()?;
    let mut inputs = programs.clone();
    inputs.push(BUSYBOX.into());
    inputs.extend(TOOLS.map(PathBuf::from));
    inputs.push(std::env::current_exe()?);
    let folder = paths::cache().join("cluster/images");
    let path = folder.join(format!("{}.tar", identify(&inputs)?));
    if path.exists() {
        return Ok(path);
    }
    // What was made of earlier programs.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let layers = programs.iter().map(|program| single(program));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let [pause, agnhost, coredns, regression] = &layers[..] else {
        bail!("a layer of each program");
    };
    let tools = &make_tools()?;
    let web = ["/agnhost", "netexec", "--http-port=80"];
    archive::write(
        &path,
        &[
            image(&[PAUSE_IMAGE], &[pause], &["/pause"], &[]),
            image(&AGNHOST, &[tools, agnhost, coredns], &["/agnhost"], &["pause"]),
            image(&GLIBC_DNS, &[tools, agnhost, coredns], &["sleep"], &["infinity"]),
            image(&BUSYBOX_IMAGES, &[tools], &[], &["sh"]),
            image(&NGINX, &[tools, agnhost], &web, &[]),
            image(&REGRESSION, &[regression], &["/regression-issue-74839"], &[]),
            image(&COREDNS, &[coredns], &["/coredns"], &[]),
        ],
    )?;
    Ok(path)
}

fn image<'a>(
    names: &'a [&'a str],
    layers: &'a [&'a Blob],
    entrypoint: &'a [&'a str],
    arguments: &'a [&'a str],
) -> Image<'a> {
    Image { names, entrypoint, arguments, environment: &[PATH], labels: &[], layers }
}

/// By path, size and time of change.
fn identify(inputs: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    for input in inputs {
        let metadata = fs::metadata(input)
            .with_context(|| format!("{}: run scripts/setup-cluster", input.display()))?;
        text += &format!("{input:?} {} {:?}\n", metadata.len(), metadata.modified()?);
    }
    Ok(digest(text.as_bytes())[..16].to_owned())
}

/// A layer of one static program, at `/NAME`.
fn single(program: &Path) -> Result<Blob> {
    let name = program.file_name().context("a program's name")?.to_string_lossy().into_owned();
    let mut layer = Layer::default();
    layer.add_copy(&name, 0o755, program)?;
    if name == "agnhost" {
        // Upstream's has it twice, for a test that tells them apart.
        layer.add_link("agnhost-2", "agnhost");
        // It serves HTTPS with these; nobody checks them.
        let names = vec!["localhost".to_owned()];
        let pair = rcgen::generate_simple_self_signed(names).context("a certificate")?;
        layer.add_file("localhost.crt", 0o644, pair.cert.pem().into_bytes());
        layer.add_file("localhost.key", 0o644, pair.signing_key.serialize_pem().into_bytes());
    }
    Ok(layer.to_blob(false)?)
}

/// Everything at the paths where this machine has it, for libraries name their own.
fn make_tools() -> Result<Blob> {
    let mut layer = Layer::default();
    layer.add_directory("/tmp", 0o1777).add_directory("/root", 0o700);
    let output = Command::new(BUSYBOX).arg("--list").output().context("cannot run busybox")?;
    let applets = String::from_utf8_lossy(&output.stdout).into_owned();
    if applets.lines().count() < 50 {
        bail!("{BUSYBOX} --list names no programs");
    }
    for applet in applets.lines() {
        layer.add_link(&format!("/bin/{applet}"), "busybox");
    }
    layer.add_copy(BUSYBOX, 0o755, Path::new(BUSYBOX))?;
    for tool in TOOLS {
        layer.add_copy(tool, 0o755, Path::new(tool))?;
        for library in libraries_of(Path::new(tool))? {
            layer.add_copy(&library.to_string_lossy(), 0o755, &library)?;
        }
    }
    layer.add_link("/bin/nc", "nc.openbsd");
    // busybox's own would prefer what busybox has to what is in the PATH.
    layer.add_link("/bin/sh", "bash");
    layer.add_file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n".to_vec());
    layer.add_file("/etc/group", 0o644, b"root:x:0:\n".to_vec());
    // As busybox's, it asks once.
    layer.add_file("/etc/wgetrc", 0o644, b"tries = 1\n".to_vec());
    layer.add_file("/etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    Ok(layer.to_blob(false)?)
}
