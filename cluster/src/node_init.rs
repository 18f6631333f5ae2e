//! The first process of a node: `weir-cluster node-init`, alone in new mount, pid and UTS
//! namespaces and in the node's network namespace. It makes the node's private mounts, runs its
//! programs, starts again what ends, and collects orphans. When it is killed, the kernel kills all
//! that ran on the node, and mounts and pods' namespaces go with the last of them.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{sys::wait::waitpid, unistd::Pid};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, mount_move, unmount,
    },
    system::sethostname,
};
use serde::{Deserialize, Serialize};
use weir_lab::clock::{pause, wait_until};

/// Below a node's /run: a file per program, with its pid on the node.
pub const PIDS: &str = "/run/weir-cluster";

/// How long a program may take to be ready for the next one.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Before a program that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Kernel settings that kubelet would change for the whole machine, with what it wants: it finds
/// them so, on this node only.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What to make and run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    pub hostname: String,
    /// Below each controller's mount.
    pub cgroup: String,
    /// Gets this process's pid as the machine sees it, when all mounts are made.
    pub pid_file: PathBuf,
    /// Folders of the node's own, and where it sees them.
    pub folders: Vec<(PathBuf, PathBuf)>,
    /// In the order of their start.
    pub programs: Vec<Program>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub command: Vec<String>,
    /// Gets both outputs, at its end.
    pub log: PathBuf,
    /// Exists when the next program can start.
    pub ready: Option<PathBuf>,
}

/// Does not return while all is well.
pub fn run(spec: &Path) -> Result<()> {
    let text = fs::read(spec).with_context(|| format!("cannot read {}", spec.display()))?;
    let spec: Spec = serde_json::from_slice(&text).context("the node's specification")?;
    // Until /proc is mounted anew it shows the machine's pids.
    let pid = fs::read_link("/proc/self").context("cannot read /proc/self")?;
    let pid = pid.to_string_lossy().into_owned();
    join_cgroup(&spec.cgroup);
    sethostname(spec.hostname.as_bytes())?;
    make_mounts(&spec).context("cannot make the node's mounts")?;
    fs::create_dir_all(PIDS)?;
    let mut running = BTreeMap::new();
    for (number, program) in spec.programs.iter().enumerate() {
        running.insert(start(program)?, number);
        if let Some(ready) = &program.ready {
            let what = format!("{} to make {}", program.name, ready.display());
            wait_until(&what, READY_TIMEOUT, || ready.exists().then_some(()))?;
        }
    }
    // In one step: it is read as soon as it is there.
    let fresh = spec.pid_file.with_extension("new");
    fs::write(&fresh, pid)?;
    fs::rename(&fresh, &spec.pid_file)?;
    loop {
        // Of any child: an orphan's end needs nothing but this call.
        let ended = waitpid(None::<Pid>, None)?;
        let number = ended.pid().and_then(|pid| running.remove(&pid.as_raw().cast_unsigned()));
        if let Some(number) = number {
            let program = &spec.programs[number];
            say(&program.log, &format!("{} ended ({ended:?}); starting it again", program.name));
            pause(RESTART_PAUSE);
            running.insert(start(program)?, number);
        }
    }
}

/// Everything that the node runs starts here, so that what is left of it can be found. Some
/// controllers take no process before they are configured; one that does is enough. It is beside
/// the pods' cgroups: in version 2 only a leaf has processes.
fn join_cgroup(cgroup: &str) {
    for mount in cgroup_mounts() {
        let folder = mount.join(cgroup).join("system");
        if fs::create_dir_all(&folder).is_ok() {
            let _ = fs::write(folder.join("cgroup.procs"), "0");
        }
    }
}

/// Mount points of cgroup hierarchies, of either version.
pub fn cgroup_mounts() -> Vec<PathBuf> {
    let cgroups = mounts().into_iter().filter(|(_, kind)| kind.starts_with("cgroup"));
    cgroups.map(|(point, _)| point).collect()
}

/// Mount points and their file systems' types, in the order of mounting.
fn mounts() -> Vec<(PathBuf, String)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((PathBuf::from(words.next()?), words.next()?.to_owned()))
    });
    lines.collect()
}

fn make_mounts(spec: &Spec) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Also the copies of named network namespaces, which would keep them alive.
    detach("/run");
    mount_new("tmpfs", "/run", c"mode=0755")?;
    fs::create_dir("/run/netns")?;
    // A new /sys shows this network namespace's interfaces; the cgroups move into it.
    fs::create_dir("/run/cgroup")?;
    mount_bind_recursive("/sys/fs/cgroup", "/run/cgroup")?;
    detach("/sys");
    mount_new("sysfs", "/sys", c"")?;
    mount_move("/run/cgroup", "/sys/fs/cgroup")?;
    mount_new("bpf", "/sys/fs/bpf", c"mode=0700")?;
    detach("/proc");
    mount_new("proc", "/proc", c"")?;
    hide_sysctls()?;
    for (source, target) in &spec.folders {
        for folder in [source, target] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        mount_bind(source, target).map_err(|error| {
            anyhow!("cannot mount {} on {}: {error}", source.display(), target.display())
        })?;
    }
    // Volumes may ask for propagation, which starts from shared mounts only.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    Ok(())
}

/// Takes away what is mounted on a folder and below it, the last first. Something busy stays, and
/// what is mounted over it hides it.
fn detach(folder: &str) {
    let points = mounts().into_iter().map(|(point, _)| point);
    let below: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    for point in below.iter().rev() {
        let _ = unmount(point.as_path(), UnmountFlags::DETACH);
    }
}

fn mount_new(kind: &str, target: &str, options: &std::ffi::CStr) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(kind, target, kind, flags, options)
        .map_err(|error| anyhow!("cannot mount {kind} on {target}: {error}"))
}

fn hide_sysctls() -> Result<()> {
    let folder = Path::new("/run/sysctl");
    fs::create_dir(folder)?;
    for (key, value) in SYSCTLS {
        let target = Path::new("/proc/sys").join(key);
        if !target.exists() {
            continue;
        }
        let own = folder.join(key.replace('/', "."));
        fs::write(&own, format!("{value}\n"))?;
        mount_bind(&own, &target)
            .map_err(|error| anyhow!("cannot mount on {}: {error}", target.display()))?;
    }
    Ok(())
}

/// Gives its pid.
fn start(program: &Program) -> Result<u32> {
    let log = OpenOptions::new().create(true).append(true).open(&program.log)?;
    let (name, arguments) = program.command.split_first().context("an empty command")?;
    let child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    fs::write(Path::new(PIDS).join(format!("{}.pid", program.name)), child.id().to_string())?;
    Ok(child.id())
}

fn say(log: &Path, text: &str) {
    if let Ok(mut log) = OpenOptions::new().append(true).open(log) {
        let _ = writeln!(log, "weir-cluster: {text}");
    }
}
