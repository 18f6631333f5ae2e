//! The test cluster, through its command `weir-cluster` (`scripts/cluster`).

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weir_lab::clock::{Stopwatch, pause};

/// Between looks at objects, each a run of kubectl.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// An annotation of weir's namespace: which build runs.
const BUILD: &str = "weir-e2e-build";

/// A cluster that is up, or can be brought up.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The `weir-cluster` of this build.
    program: PathBuf,
    /// Its name.
    name: String,
    /// The workspace's folder.
    pub root: PathBuf,
}

impl Cluster {
    /// Finds the program.
    ///
    /// # Errors
    /// It is not built.
    pub fn new(name: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().context("the workspace's folder")?;
        Ok(Self { program: weir_lab::program("weir-cluster")?, name: name.into(), root })
    }

    /// The folder of everything that is kept between runs.
    ///
    /// # Errors
    /// There is neither `WEIR_CACHE` nor `XDG_CACHE_HOME` nor `HOME`.
    pub fn cache() -> Result<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let find = |name| set(name).map(PathBuf::from);
        find("WEIR_CACHE")
            .or_else(|| find("XDG_CACHE_HOME").map(|cache| cache.join("weir")))
            .or_else(|| find("HOME").map(|home| home.join(".cache/weir")))
            .context("neither WEIR_CACHE nor XDG_CACHE_HOME nor HOME is set")
    }

    /// A program that the cluster's build made.
    ///
    /// # Errors
    /// It is not there.
    pub fn built(name: &str) -> Result<PathBuf> {
        let path = Self::cache()?.join("cluster/bin").join(name);
        let fix = if name == "e2e.test" { "cluster/go/build --e2e" } else { "cluster/go/build" };
        ensure!(path.exists(), "{} is not built: run {fix}", path.display());
        Ok(path)
    }

    /// A call of `weir-cluster`.
    pub fn call<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--name", &self.name]).args(arguments);
        command
    }

    /// Starts a cluster with this build of weir as its only network, unless one of that size and
    /// build is up.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn up(&self, nodes: u8, build: &str, image: Option<&Path>) -> Result<()> {
        let found = self.nodes().unwrap_or_default().len();
        if found == usize::from(nodes) && self.build().is_ok_and(|it| it == build) {
            println!("the cluster with {nodes} nodes and weir {build} is up");
            return Ok(());
        }
        self.down()?;
        let mut up = self.call(["up", "--nodes", &nodes.to_string()]);
        if let Some(image) = image {
            up.arg("--image-tar").arg(image);
        }
        let status = up.status().context("cannot run weir-cluster")?;
        ensure!(status.success(), "weir-cluster up: {status}");
        let mark = format!("{BUILD}={build}");
        self.kubectl(&["annotate", "namespace", "weir-system", "--overwrite", &mark]).map(drop)
    }

    /// Which build of weir it was started with; empty if it was not started here.
    ///
    /// # Errors
    /// The API server does not answer, or weir is not installed.
    pub fn build(&self) -> Result<String> {
        let path = "-o=jsonpath={.metadata.annotations.weir-e2e-build}";
        self.kubectl(&["get", "namespace", "weir-system", path])
    }

    /// Ends the cluster.
    ///
    /// # Errors
    /// Something of it is left.
    pub fn down(&self) -> Result<()> {
        let status = self.call(["down"]).status().context("cannot run weir-cluster")?;
        ensure!(status.success(), "weir-cluster down: {status}");
        Ok(())
    }

    /// A program beside the control plane, outside the cluster, with `KUBECONFIG` set. The process
    /// is the program itself: weir-cluster and nsenter become it.
    pub fn outside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.call(["run", "--"]);
        command.arg(program);
        command
    }

    /// A program on a node.
    pub fn on_node(&self, node: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.call(["exec", node, "--"]);
        command.arg(program);
        command
    }

    /// kubectl's output.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output_of(self.call(["kubectl", "--"]).args(arguments))
    }

    /// `kubectl VERB -f -` with objects as JSON.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn send(&self, verb: &str, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let mut command = self.call(["kubectl", "--", verb, "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run kubectl")?;
        let mut input = child.stdin.take().context("a pipe was asked for")?;
        // Written at once: kubectl reads all of it before it says anything.
        input.write_all(list.to_string().as_bytes()).context("kubectl does not read")?;
        drop(input);
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {verb}: {}", said.trim());
        Ok(())
    }

    /// The names of the nodes.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let text = self.kubectl(&["get", "nodes", "-o", "name", "--request-timeout=5s"])?;
        let names = text.lines().filter_map(|line| line.strip_prefix("node/"));
        Ok(names.map(str::to_owned).collect())
    }

    /// Kills the API server.
    ///
    /// # Errors
    /// The cluster's supervisor does not answer.
    pub fn stop_api(&self) -> Result<()> {
        output_of(&mut self.call(["control-plane", "stop"])).map(drop)
    }

    /// Starts the API server again.
    ///
    /// # Errors
    /// The cluster's supervisor does not answer.
    pub fn start_api(&self) -> Result<()> {
        output_of(&mut self.call(["control-plane", "start"])).map(drop)
    }

    /// The ids of a node's running containers that a filter of containerd's names.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn running(&self, node: &str, filter: &str) -> Result<Vec<String>> {
        let mut list = self.on_node(node, "ctr");
        let ids = output_of(list.args(["-n", "k8s.io", "containers", "list", "-q", filter]))?;
        let mut tasks = self.on_node(node, "ctr");
        let tasks = output_of(tasks.args(["-n", "k8s.io", "tasks", "list"]))?;
        let is_running =
            |id: &&str| tasks.lines().any(|line| line.starts_with(*id) && line.contains("RUNNING"));
        Ok(ids.lines().filter(is_running).map(str::to_owned).collect())
    }

    /// Waits until `ready` gives a value.
    ///
    /// # Errors
    /// It does not within `timeout`; `ready` fails.
    pub fn wait<T>(
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let watch = Stopwatch::start();
        loop {
            if let Some(value) = ready()? {
                return Ok(value);
            }
            if watch.elapsed() > timeout {
                bail!("waited {} s for {what}", timeout.as_secs());
            }
            pause(LOOK_INTERVAL);
        }
    }
}

/// Standard output of a command that must succeed.
///
/// # Errors
/// It cannot be run or fails; with what it said.
pub fn output_of(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
