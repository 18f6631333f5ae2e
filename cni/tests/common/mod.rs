//! A node that runs weir, and the plugin called as a container runtime calls it.
#![allow(dead_code, reason = "every test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_lab::clock::{Stopwatch, wait_until};
use weir_lab::testbed::{NODE, NODE_NAME};
use weir_lab::{Host, Testbed, TestbedOptions, program, skipped};

/// For whatever must happen, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Workers need the cores: one node at a time.
static SERIAL: Mutex<()> = Mutex::new(());

/// A node whose pods have addresses of these ranges.
pub struct Node {
    pub testbed: Testbed,
    pub version: &'static str,
}

/// One container: what a runtime knows of it.
#[derive(Clone)]
pub struct Container {
    pub id: String,
    pub netns: PathBuf,
    pub pod: String,
    pub runtime_config: Value,
}

/// What the plugin said.
#[derive(Debug)]
pub struct Answer {
    pub is_ok: bool,
    pub json: Value,
    pub stderr: String,
    pub took: Duration,
}

/// Runs a test on a node with these ranges, alone; one that fails shows what every program said.
#[track_caller]
pub fn with_node(name: &str, ranges: &[&str], test: impl FnOnce(&mut Node) -> Result<()>) {
    if skipped() {
        return;
    }
    let _alone = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = start(name, ranges).map(|mut node| match test(&mut node) {
        Ok(()) => (),
        // Before the node goes: it prints what its processes said.
        Err(error) => panic!("{name}: {error:#}"),
    });
    if let Err(error) = outcome {
        panic!("{name}: {error:#}");
    }
}

fn start(name: &str, ranges: &[&str]) -> Result<Node> {
    let mut testbed = Testbed::new(name, TestbedOptions::default())?;
    testbed.apply("node", &node_yaml(ranges))?;
    let folder = conf_folder(&testbed);
    let health = testbed.lab().folder().join("health.sock");
    testbed.change_agent_flags(&[
        &format!("--cni-conf-dir={}", folder.display()),
        &format!("--health-socket={}", health.display()),
    ]);
    testbed.start_dataplane()?;
    testbed.start_agent()?;
    testbed.wait_until_settled()?;
    Ok(Node { testbed, version: "1.1.0" })
}

pub fn conf_folder(testbed: &Testbed) -> PathBuf {
    testbed.lab().folder().join("net.d")
}

pub fn node_yaml(ranges: &[&str]) -> String {
    let ranges = ranges.iter().map(|it| format!("\"{it}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {NODE_NAME}}}\n\
         spec: {{podCIDRs: [{ranges}]}}\nstatus:\n  addresses: [{{type: InternalIP, address: {}}}, \
         {{type: InternalIP, address: \"{}\"}}]\n",
        NODE.v4, NODE.v6
    )
}

impl Node {
    /// A container in a new network namespace, without an interface.
    pub fn container(&self, pod: &str, id: &str) -> Result<(Host, Container)> {
        let host = self.testbed.lab().host(&format!("pod-{pod}-{id}"))?;
        let container = Container {
            id: format!("{id}0123456789abcdef"),
            netns: host.namespace_path(),
            pod: pod.into(),
            runtime_config: json!({}),
        };
        Ok((host, container))
    }

    /// Calls the plugin.
    pub fn call(
        &self,
        verb: &str,
        container: &Container,
        extra: &[(&str, Value)],
    ) -> Result<Answer> {
        self.caller().call(verb, container, extra)
    }

    /// What a call needs, for threads.
    pub fn caller(&self) -> Caller {
        Caller {
            host: self.testbed.node().clone(),
            socket: self.testbed.run_folder().join("agent.sock"),
            version: self.version,
        }
    }

    /// ADD, which must succeed.
    pub fn add(&self, container: &Container) -> Result<Answer> {
        let answer = self.call("ADD", container, &[])?;
        ensure!(answer.is_ok, "ADD of {}: {answer:?}", container.pod);
        Ok(answer)
    }

    /// DEL, which must succeed.
    pub fn del(&self, container: &Container) -> Result<Answer> {
        let answer = self.call("DEL", container, &[])?;
        ensure!(answer.is_ok && answer.json.is_null(), "DEL of {}: {answer:?}", container.pod);
        Ok(answer)
    }

    /// CHECK with what ADD said.
    pub fn check(&self, container: &Container, added: &Answer) -> Result<Answer> {
        self.call("CHECK", container, &[("prevResult", added.json.clone())])
    }

    /// STATUS; 0 where it succeeds.
    pub fn status_code(&self, container: &Container) -> Result<u64> {
        let answer = self.call("STATUS", container, &[])?;
        Ok(if answer.is_ok { 0 } else { answer.code() })
    }

    /// Names of the host sides of pods.
    pub fn host_interfaces(&self) -> Result<Vec<String>> {
        let links = self.testbed.node().ip("-o link show")?;
        let names = links.lines().filter_map(|it| it.split(": ").nth(1));
        let names = names.map(|it| it.split('@').next().unwrap_or(it).to_owned());
        Ok(names.filter(|it| it.starts_with("weirp")).collect())
    }

    /// Names of the endpoints that the agent knows.
    pub fn endpoints(&self) -> Result<Vec<String>> {
        let endpoints: Value = self.testbed.weir_json(&["endpoint", "list"])?;
        let names = endpoints.as_array().into_iter().flatten();
        Ok(names.filter_map(|it| it["name"].as_str()).map(str::to_owned).collect())
    }

    /// What a probe of the agent is told.
    pub fn health(&self) -> Result<String> {
        let socket = self.testbed.lab().folder().join("health.sock");
        let agent = program("weir-agent")?.display().to_string();
        let check = format!("--check-health={}", socket.display());
        let output = self.testbed.node().output([agent, check])?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits until the runtime's file is there.
    pub fn wait_for_conf(&self) -> Result<PathBuf> {
        let path = conf_folder(&self.testbed).join("05-weir.conflist");
        wait_until("the configuration file", PATIENCE, || path.exists().then_some(()))?;
        Ok(path)
    }
}

/// Calls the plugin as a runtime of the node does.
#[derive(Clone)]
pub struct Caller {
    host: Host,
    socket: PathBuf,
    version: &'static str,
}

impl Caller {
    /// Calls the plugin.
    pub fn call(
        &self,
        verb: &str,
        container: &Container,
        extra: &[(&str, Value)],
    ) -> Result<Answer> {
        let mut conf = json!({
            "cniVersion": self.version,
            "name": "weir",
            "type": "weir-cni",
            "socket": self.socket,
            "runtimeConfig": container.runtime_config,
        });
        for (name, value) in extra {
            conf[*name] = value.clone();
        }
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_UID=u-{}",
            container.pod, container.id
        );
        let mut command = Command::new(program("weir-cni")?);
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_PATH", "/opt/cni/bin");
        command.env("CNI_CONTAINERID", &container.id).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", &container.netns).env("CNI_ARGS", args);
        run(&self.host, command, &conf)
    }
}

impl Answer {
    /// Of an error; 0 where there is none.
    pub fn code(&self) -> u64 {
        self.json["code"].as_u64().unwrap_or_default()
    }

    /// Of an error.
    pub fn message(&self) -> &str {
        self.json["msg"].as_str().unwrap_or_default()
    }

    /// Addresses of a result, without their lengths.
    pub fn addresses(&self) -> Vec<String> {
        let ips = self.json["ips"].as_array().into_iter().flatten();
        let ips = ips.filter_map(|it| it["address"].as_str()?.split('/').next());
        ips.map(str::to_owned).collect()
    }
}

fn run(host: &Host, mut command: Command, conf: &Value) -> Result<Answer> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let watch = Stopwatch::start();
    let output = host.enter(|| -> std::io::Result<Output> {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        stdin.map(|mut it| it.write_all(conf.to_string().as_bytes())).transpose()?;
        child.wait_with_output()
    })??;
    let took = watch.elapsed();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = match stdout.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).with_context(|| format!("it printed {text:?}"))?,
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Answer { is_ok: output.status.success(), json, stderr, took })
}

/// Pings, and fails with what ping says.
pub fn ping(from: &Host, address: &str) -> Result<()> {
    from.run(["ping", "-c", "3", "-i", "0.2", "-W", "5", address]).map(drop)?;
    Ok(())
}
