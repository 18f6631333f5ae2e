//! `up`: from nothing to a cluster whose nodes are Ready.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weir_lab::clock::{Stopwatch, wait_until};

use crate::{
    cluster::Cluster,
    images::write_images,
    install,
    kubeconfig::write_kubeconfig,
    leftovers, load,
    paths::State,
    pki::{self, Authority, write_secret},
    plan::{self, CONTROL, NodePlan},
    process::Identity,
    routes, supervisor,
};

const START_TIMEOUT: Duration = Duration::from_secs(90);
const REGISTER_TIMEOUT: Duration = Duration::from_secs(90);

/// What other programs must be there; scripts/setup-cluster installs them.
const PROGRAMS: [&str; 6] = ["containerd", "runc", "nsenter", "unshare", "ip", "ldd"];

/// How many inotify instances root may have: each node and the control plane use some.
const INOTIFY_LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";
const INOTIFY_CONTROL: u32 = 20;
const INOTIFY_NODE: u32 = 10;

/// The flags of `up`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 2)]
    pub nodes: u8,
    /// Leaves the nodes without a network: they register and stay NotReady
    #[arg(long)]
    pub without_weir: bool,
    /// Of weir, as `docker save` writes it; without it, `scripts/image` makes one
    #[arg(long, value_name = "PATH")]
    pub image_tar: Option<PathBuf>,
    /// Of the nodes' segment, in bytes
    #[arg(long)]
    pub mtu: Option<u32>,
    /// For helm, as `--set KEY=VALUE`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub values: Vec<String>,
}

pub fn run(state: &State, options: &Options) -> Result<()> {
    let watch = Stopwatch::start();
    let say = |what: &str| println!("{:5.1} s  {what}", watch.elapsed().as_secs_f64());
    plan::check_name(&state.name)?;
    let nodes = plan::plan_nodes(options.nodes)?;
    check_machine(state, options.nodes)?;
    if let Ok(supervisor) = Identity::read(&state.supervisor()) {
        let name = &state.name;
        ensure!(!supervisor.is_alive(), "cluster {name} is up already: `down` ends it");
    }
    leftovers::remove(state)?;
    let images = write_images().context("the images for the nodes")?;
    prepare(state, &nodes, options.mtu)?;
    let cluster = start(state)?;
    let left_up = "the cluster is left as it is; `down` ends it";
    fill(&cluster, options, &images, &say).context(left_up)
}

/// From running nodes to what was asked for.
fn fill(cluster: &Cluster, options: &Options, images: &Path, say: &impl Fn(&str)) -> Result<()> {
    say("control plane, containerd and kubelet run");
    load::load(cluster, images)?;
    say("images are loaded");
    wait_for_nodes(cluster)?;
    routes::add(cluster)?;
    say(&format!("{} nodes are registered", cluster.nodes.len()));
    if options.without_weir {
        print_next_step(&cluster.name);
        return Ok(());
    }
    install::install(cluster, options, say)
}

fn print_next_step(name: &str) {
    let cluster = format!("scripts/cluster --name {name}");
    let api_server = CONTROL.v4;
    println!(
        "\nThe nodes have no network yet. Install weir, for instance with\n  {cluster} load \
         \"$(scripts/image | tail -n 1)\"\n  {cluster} helm upgrade --install weir \
         deploy/helm/weir --namespace weir-system \\\n    --create-namespace --values \
         cluster/values.yaml --set apiServer.host={api_server}\nand look with\n  {cluster} \
         kubectl get nodes"
    );
}

fn check_machine(state: &State, nodes: u8) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "nodes are namespaces: run it as root");
    for hidden in ["/run", "/var/log", "/proc", "/sys"] {
        let folder = &state.folder;
        ensure!(
            !folder.starts_with(hidden),
            "{}: nodes have a {hidden} of their own: set WEIR_CACHE to another folder",
            folder.display()
        );
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in PROGRAMS {
        let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
        ensure!(found, "{program} is not installed: run scripts/setup-cluster");
    }
    let limit = fs::read_to_string(INOTIFY_LIMIT).unwrap_or_default();
    let wanted = INOTIFY_CONTROL + INOTIFY_NODE * u32::from(nodes);
    let is_enough = limit.trim().parse().is_ok_and(|limit: u32| limit >= wanted);
    ensure!(is_enough, "{INOTIFY_LIMIT} is {}: write {wanted} or more to it", limit.trim());
    Ok(())
}

/// Everything that the supervisor reads.
fn prepare(state: &State, nodes: &[NodePlan], mtu: Option<u32>) -> Result<()> {
    fs::create_dir_all(state.folder.join("logs"))?;
    let authority = Authority::new(&state.name)?;
    pki::write(&authority, &state.pki())?;
    let kubeconfig = |user: &str, name: &str, group: &str| -> Result<()> {
        let text = write_kubeconfig(&authority, name, &authority.client(name, group)?);
        write_secret(&state.kubeconfig(user), &text)
    };
    kubeconfig("admin", "admin", "system:masters")?;
    kubeconfig("controller-manager", "system:kube-controller-manager", "system:weir")?;
    kubeconfig("scheduler", "system:kube-scheduler", "system:weir")?;
    for node in nodes {
        let name = node.name();
        kubeconfig(&name, &format!("system:node:{name}"), "system:nodes")?;
    }
    let spec = supervisor::Spec { nodes: nodes.to_vec(), mtu };
    fs::write(state.folder.join("spec.json"), serde_json::to_string_pretty(&spec)?)?;
    Ok(())
}

/// Starts the supervisor, from a copy of this program that no later build replaces.
fn start(state: &State) -> Result<Cluster> {
    let program = state.folder.join("weir-cluster");
    fs::copy(std::env::current_exe()?, &program)?;
    let log = fs::File::create(state.log("supervisor"))?;
    let mut child = Command::new(program)
        .args(["--name", &state.name, "supervise"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let started = wait_until("the nodes to start", START_TIMEOUT, || {
        let ended = child.try_wait().ok().flatten();
        (ended.is_some() || state.cluster().exists()).then_some(ended)
    })?;
    if let Some(status) = started {
        let said = fs::read_to_string(state.log("supervisor")).unwrap_or_default();
        bail!("the supervisor ended ({status}): {said}\nsee {}", state.folder.display());
    }
    Cluster::find(state)
}

fn wait_for_nodes(cluster: &Cluster) -> Result<()> {
    let wanted = cluster.nodes.len();
    wait_until("nodes to register", REGISTER_TIMEOUT, || {
        // Pods need their namespace's account.
        cluster.ask(&["get", "serviceaccount", "default"]).ok()?;
        (find_nodes(cluster).ok()?.len() == wanted).then_some(())
    })
    .with_context(|| {
        let logs = State::of(&cluster.name).folder.join("logs");
        format!("see kubelet's logs in {}", logs.display())
    })
}

/// The API server's Node objects.
pub fn find_nodes(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.ask(&["get", "nodes", "-o", "json", "--request-timeout=5s"])?;
    let mut list: Value = serde_json::from_str(&list)?;
    match list["items"].take() {
        Value::Array(nodes) => Ok(nodes),
        _ => bail!("kubectl lists no nodes"),
    }
}

/// The root of the tree that this program was built in.
pub fn find_root() -> &'static Path {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().unwrap_or(folder)
}
