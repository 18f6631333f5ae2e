//! What 250 idle endpoints cost beside 3: memory, idle CPU, and traffic between two others, through
//! real processes: `weir-dataplane`, `weir-agent` and `weir endpoint attach`.

use std::fs;

use anyhow::{Context, Result};
use weir_lab::clock::{Stopwatch, pause};
use weir_lab::report::{DownloadReport, GetReport};
use weir_lab::testbed::{Testbed, TestbedOptions};
use weir_lab::{Host, LinkOptions};
use weir_perf::machine::kib;
use weir_perf::samples::{Group, Options};

/// Endpoints in all, at first and in the end: two with servers, the others idle.
const FEW: u32 = 3;
const MANY: u32 = 250;
/// Bytes of one download.
const DOWNLOAD: u64 = 100_000_000;
/// Requests of one latency sample, one after another, each on a new connection.
const REQUESTS: u32 = 500;
/// How long idle CPU is watched.
const IDLE: std::time::Duration = std::time::Duration::from_secs(10);

pub fn measure(options: &Options) -> Result<()> {
    if !options.wants("250 idle endpoints") {
        return Ok(());
    }
    let mut node = Node::start()?;
    node.idle(FEW - node.endpoints)?;
    node.measure(options)?;
    let cost = node.idle(MANY - FEW)?;
    println!("{cost}\n");
    node.measure(options)
}

/// A node with two pods that talk, and a namespace that all idle ones share: weir sees a veth each,
/// and namespaces' own memory stays out of the figures.
struct Node {
    idle: Host,
    endpoints: u32,
    testbed: Testbed,
}

/// Memory in KiB at one moment.
struct Memory {
    available: u64,
    slab: u64,
    dataplane: u64,
    agent: u64,
}

impl Node {
    fn start() -> Result<Node> {
        let mut testbed = Testbed::new("scale", TestbedOptions::default())?;
        testbed.start_dataplane()?;
        testbed.start_agent()?;
        testbed.wait_until_settled()?;
        for name in ["near", "far"] {
            testbed.add_backend(name, "web")?;
        }
        testbed.wait_until_settled()?;
        let idle = testbed.lab().host("idle")?;
        Ok(Node { idle, endpoints: 2, testbed })
    }

    /// Attaches more idle endpoints, and says what they cost. Their interfaces are made before
    /// memory is looked at.
    fn idle(&mut self, count: u32) -> Result<String> {
        let numbers = self.endpoints..self.endpoints + count;
        for number in numbers.clone() {
            let ends = (format!("eth{number}"), format!("idle{number}"));
            let (lab, node) = (self.testbed.lab(), self.testbed.node());
            lab.link(&self.idle, &ends.0, node, &ends.1, &LinkOptions::default())?;
        }
        pause(std::time::Duration::from_secs(1));
        let (before, watch) = (self.memory()?, Stopwatch::start());
        for number in numbers {
            let mac = self.idle.interface(&format!("eth{number}"))?.mac;
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let name = format!("default/idle-{number}");
            let interface = format!("idle{number}");
            let address = format!("10.244.{}.{}", 100 + number / 200, 1 + number % 200);
            let words = ["endpoint", "attach", &name, "--interface", &interface];
            self.testbed.weir(&[&words[..], &["--mac", &mac, "--address", &address]].concat())?;
        }
        let elapsed_ms = watch.elapsed_ns() / 1_000_000;
        self.testbed.wait_until_settled()?;
        pause(std::time::Duration::from_secs(1));
        let after = self.memory()?;
        self.endpoints += count;
        let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(count);
        Ok(format!(
            "{count} endpoints attached, one by one, in {elapsed_ms} ms; KiB per endpoint:\n  \
               available memory  {:9.1}\n  slab              {:9.1}\n  \
               dataplane, RSS    {:9.1} of {}\n  agent, RSS        {:9.1} of {}",
            -each(before.available, after.available),
            each(before.slab, after.slab),
            each(before.dataplane, after.dataplane),
            after.dataplane,
            each(before.agent, after.agent),
            after.agent,
        ))
    }

    fn measure(&self, options: &Options) -> Result<()> {
        let endpoints = self.endpoints;
        let before = self.cpu_ns()?;
        let watch = Stopwatch::start();
        pause(IDLE);
        let elapsed = watch.elapsed_ns() as f64;
        for ((name, before), (_, after)) in before.iter().zip(self.cpu_ns()?) {
            let percent = (after - before) as f64 / elapsed * 100.0;
            println!("{endpoints} endpoints, idle CPU of {name:9} {percent:6.3} % of a core");
        }
        println!();
        let heading = format!("{endpoints} endpoints, TCP between two of them");
        let mut group = Group::new(&heading, "Gbit/s, us");
        group.case("one download, Gbit/s", || self.download().expect("a download"));
        group.case("request on a new connection, p50, us", || {
            self.requests().expect("requests").latency.p50 as f64
        });
        group.case("request on a new connection, p99, us", || {
            self.requests().expect("requests").latency.p99 as f64
        });
        group.measure(options).print();
        Ok(())
    }

    /// Gbit/s of one download.
    fn download(&self) -> Result<f64> {
        let path = format!("bytes/{DOWNLOAD}");
        let text = self.client(&["download", "--json", "--url", &self.url(&path)?])?;
        let report: DownloadReport = serde_json::from_str(&text)?;
        Ok(report.bytes as f64 * 8.0 / report.elapsed_ms as f64 / 1e6)
    }

    fn requests(&self) -> Result<GetReport> {
        let count = REQUESTS.to_string();
        let text =
            self.client(&["get", "--json", "--requests", &count, "--url", &self.url("")?])?;
        Ok(serde_json::from_str(&text)?)
    }

    fn url(&self, path: &str) -> Result<String> {
        let address = self.testbed.pod("far")?.addresses().v4;
        Ok(format!("http://{address}:{}/{path}", weir_lab::testbed::HTTP_PORT))
    }

    fn client(&self, words: &[&str]) -> Result<String> {
        let program = weir_lab::program("weir-lab-http")?;
        let program = program.to_string_lossy().into_owned();
        Ok(self.testbed.pod("near")?.host().run([&[&*program], words].concat())?)
    }

    /// Processor time of each process so far, all threads.
    fn cpu_ns(&self) -> Result<Vec<(&'static str, u64)>> {
        let time = |(name, pid): (&'static str, u32)| {
            let mut sum = 0;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(task?.path().join("schedstat"))?;
                sum += text.split(' ').next().context("three numbers")?.parse::<u64>()?;
            }
            Ok((name, sum))
        };
        self.pids()?.into_iter().map(time).collect()
    }

    fn memory(&self) -> Result<Memory> {
        let rss = |pid| kib(&format!("/proc/{pid}/status"), "VmRSS");
        let [(_, dataplane), (_, agent)] = self.pids()?;
        Ok(Memory {
            available: kib("/proc/meminfo", "MemAvailable")?,
            slab: kib("/proc/meminfo", "Slab")?,
            dataplane: rss(dataplane)?,
            agent: rss(agent)?,
        })
    }

    fn pids(&self) -> Result<[(&'static str, u32); 2]> {
        let dataplane = self.testbed.dataplane().context("the dataplane runs")?;
        let agent = self.testbed.agent().context("the agent runs")?;
        Ok([("dataplane", dataplane.pid()), ("agent", agent.pid())])
    }
}
