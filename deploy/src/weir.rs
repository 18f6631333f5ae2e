//! weir's image: its programs in `/usr/local/bin`, the libraries that they need, and no shell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ImageError;
use crate::archive::{self, Image};
use crate::layer::Layer;
use crate::libraries::{find_libraries, libraries_of};

/// The programs of the image.
pub const PROGRAMS: [&str; 5] =
    ["weir", "weir-agent", "weir-cni", "weir-dataplane", "weir-operator"];

/// The one that the installation copies to the host, and that runs there.
const ON_THE_HOST: &str = "weir-cni";

const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Writes the image of the programs in a folder; gives its digest.
///
/// # Errors
/// A program is not there, or a library that it needs; the file cannot be written.
pub fn write(
    folder: &Path,
    name: &str,
    is_compressed: bool,
    path: &Path,
) -> Result<String, ImageError> {
    let programs = PROGRAMS.map(|name| folder.join(name));
    check_static(&folder.join(ON_THE_HOST))?;
    // Libraries change seldom: a layer of their own is not loaded again with each new version.
    let blob = |layer: Layer| layer.to_blob(is_compressed).map_err(ImageError::of_file(path));
    let (base, binaries) = (blob(base(&programs)?)?, blob(binaries(&programs)?)?);
    let image = Image {
        names: &[name],
        entrypoint: &[],
        arguments: &[],
        environment: &["PATH=/usr/local/bin"],
        labels: &[
            ("org.opencontainers.image.title", "weir"),
            ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
            ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
        ],
        layers: &[&base, &binaries],
    };
    Ok(archive::write(path, &[image])?.concat())
}

fn check_static(program: &Path) -> Result<(), ImageError> {
    fs::metadata(program).map_err(ImageError::of_file(program))?;
    match libraries_of(program)?.first() {
        None => Ok(()),
        Some(library) => Err(ImageError::NotStatic {
            path: program.to_owned(),
            needs: library.display().to_string(),
        }),
    }
}

fn base(programs: &[PathBuf]) -> Result<Layer, ImageError> {
    let mut layer = Layer::default();
    layer.add_directory("/tmp", 0o1777);
    for folder in ["/dev", "/proc", "/run", "/sys", "/var/lib"] {
        layer.add_directory(folder, 0o755);
    }
    layer.add_file("/etc/passwd", 0o644, PASSWD.into()).add_file("/etc/group", 0o644, GROUP.into());
    for library in find_libraries(programs)? {
        layer.add_copy(&library.to_string_lossy(), 0o755, &library)?;
    }
    Ok(layer)
}

fn binaries(programs: &[PathBuf]) -> Result<Layer, ImageError> {
    let mut layer = Layer::default();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        layer.add_file(&format!("/usr/local/bin/{name}"), 0o755, strip(program)?);
    }
    Ok(layer)
}

/// The program without what only debuggers read; names of functions stay, for backtraces.
fn strip(program: &Path) -> Result<Vec<u8>, ImageError> {
    let mut aside = program.as_os_str().to_owned();
    aside.push(format!(".stripped-{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let mut command = Command::new("strip");
    let output = command.arg("--strip-debug").arg("-o").arg(&aside).arg(program).output();
    let output = output.map_err(|error| ImageError::Run { program: "strip", error })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let path = program.to_owned();
        return Err(ImageError::Failed { program: "strip", path, output: said });
    }
    let content = fs::read(&aside).map_err(ImageError::of_file(&aside));
    fs::remove_file(&aside).map_err(ImageError::of_file(&aside))?;
    content
}
