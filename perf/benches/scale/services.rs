//! 10,000 services with 100,000 endpoints beside 100 services with 1,000: how long all of them take
//! to load from YAML, and how long one changed endpoint takes to reach the workers.
//!
//! Two nodes run at once, each with a dataplane of its own. At first the bench is their agent, so
//! that it sees the verdicts; then real agents take over and files change.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use weir_api::paths::Paths;
use weir_api::socket::{connect_dataplane, connect_observe};
use weir_api::v1::observe_client::ObserveClient;
use weir_api::v1::{
    Algorithm, BackendState, DataplaneStatus, Object, StatusRequest, Update, Verdict, object,
};
use weir_control::desired::{Desired, NodeSettings};
use weir_control::source::file::spawn_file_source;
use weir_lab::clock::Stopwatch;
use weir_lab::testbed::{NODE_NAME, Testbed, TestbedOptions};
use weir_perf::machine::kib;
use weir_perf::samples::{Group, Options};

use super::manifests::{self, ENDPOINTS, PER_FILE};

const FEW: u32 = 100;
const MANY: u32 = 10_000;
/// Changes of each kind at least.
const SAMPLES_MIN: u32 = 50;
/// Consecutive changes are this far apart, in services.
const STRIDE: u32 = 7919;
const LIMIT: Duration = Duration::from_secs(120);

pub fn measure(options: &Options) -> Result<()> {
    if !options.wants("10,000 services") {
        return Ok(());
    }
    let mut options = options.clone();
    options.samples = options.samples.max(SAMPLES_MIN);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut nodes = [Node::start(&runtime, FEW)?, Node::start(&runtime, MANY)?];
    measure_verdicts(&runtime, &nodes, &options)?;
    for node in &mut nodes {
        node.start_agent()?;
    }
    measure_files(&runtime, &nodes, &options)
}

/// A node whose state is known, and that runs a dataplane.
struct Node {
    label: String,
    services: u32,
    testbed: Testbed,
    /// Everything that the agent would send.
    objects: Vec<Object>,
}

impl Node {
    /// Writes the manifests, reads them as the agent does, and starts the dataplane.
    fn start(runtime: &Runtime, services: u32) -> Result<Node> {
        let testbed = Testbed::new(&format!("scale{services}"), TestbedOptions::default())?;
        let mut bytes = 0;
        for (name, text) in manifests::files(services) {
            bytes += text.len();
            testbed.apply(&name, &text)?;
        }
        let endpoints = services * ENDPOINTS;
        println!(
            "{services} services, {endpoints} endpoints, {} files, {:.1} MB",
            services.div_ceil(PER_FILE),
            bytes as f64 / 1e6
        );
        let objects = runtime.block_on(compile(&testbed))?;
        let mut node = Node { label: format!("{services} services"), services, testbed, objects };
        node.testbed.start_dataplane()?;
        runtime.block_on(node.load())?;
        Ok(node)
    }

    fn paths(&self) -> Paths {
        Paths { run_dir: self.testbed.run_folder(), ..Paths::default() }
    }

    /// Gives the dataplane everything, as an agent would that has just connected.
    async fn load(&self) -> Result<()> {
        let rss = || {
            let pid = self.testbed.dataplane().context("the dataplane runs")?.pid();
            kib(&format!("/proc/{pid}/status"), "VmRSS")
        };
        let before = rss()?;
        let mut session = Session::open(&self.paths()).await?;
        let watch = Stopwatch::start();
        let verdict = session.send(true, self.objects.clone()).await?;
        println!(
            "  dataplane: {} objects accepted in {:.1} ms, {:.1} ms with the way to it and back; \
             {:.1} MiB more in memory\n",
            self.objects.len(),
            verdict.apply_ns as f64 / 1e6,
            watch.elapsed_ns() as f64 / 1e6,
            (rss()? as f64 - before as f64) / 1024.0
        );
        Ok(())
    }

    /// Starts a real agent, which sends everything once more.
    fn start_agent(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        let agent = self.testbed.start_agent()?;
        agent.wait_for_output("manifests read", LIMIT)?;
        let read_ms = watch.elapsed().as_millis();
        let line = agent.wait_for_output("the dataplane runs revision", LIMIT)?;
        let all_ms = watch.elapsed().as_millis();
        let said = line.split("revision ").nth(1).unwrap_or_default();
        println!(
            "{}: agent has read all after {read_ms} ms, and is acknowledged after {all_ms} ms, \
             from its start (revision {said}); {} MiB in memory",
            self.label,
            kib(&format!("/proc/{}/status", agent.pid()), "VmRSS")? / 1024
        );
        Ok(())
    }
}

/// Reads and compiles the manifests in this process, with the agent's own code.
async fn compile(testbed: &Testbed) -> Result<Vec<Object>> {
    let watch = Stopwatch::start();
    let (sender, mut batches) = mpsc::channel(1);
    spawn_file_source(&testbed.manifests(), sender)?;
    let batch = batches.recv().await.context("the source has ended")?;
    ensure!(batch.problems.is_empty(), "{:?}", batch.problems);
    let read = watch.elapsed();
    let service_ranges = ["10.96.0.0/12".parse().map_err(anyhow::Error::msg)?].into();
    let settings = NodeSettings { name: NODE_NAME.into(), service_ranges, ..Default::default() };
    let mut desired = Desired::new(settings);
    for object in batch.upserts {
        desired.upsert(object);
    }
    desired.recompute();
    let compiled = watch.elapsed() - read;
    println!("  control: files read in {read:.1?}, compiled in {compiled:.1?}");
    Ok(desired.objects().values().cloned().collect())
}

/// The bench as the agent of a dataplane.
struct Session {
    updates: mpsc::Sender<Update>,
    verdicts: Streaming<Verdict>,
    revision: u64,
}

impl Session {
    async fn open(paths: &Paths) -> Result<Session> {
        let mut client = connect_dataplane(&paths.dataplane_socket()).await?;
        let (updates, receiver) = mpsc::channel(1);
        let verdicts = client.sync(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Session { updates, verdicts, revision: 0 })
    }

    async fn send(&mut self, resync: bool, upserts: Vec<Object>) -> Result<Verdict> {
        self.revision += 1;
        let update = Update { revision: self.revision, resync, upserts, deletes: Vec::new() };
        self.updates.send(update).await?;
        let verdict = self.verdicts.message().await?.context("the dataplane hung up")?;
        ensure!(verdict.rejected.is_empty(), "{:?}", verdict.rejected);
        Ok(verdict)
    }
}

/// Backend sets that change one after another: an endpoint begins to terminate, or no longer does.
struct Changes {
    sets: Vec<Object>,
    next: u32,
}

impl Changes {
    fn new(objects: &[Object], algorithm: Algorithm) -> Changes {
        let is_one = |object: &&Object| {
            matches!(&object.kind, Some(object::Kind::BackendSet(set))
                if set.algorithm() == algorithm)
        };
        Changes { sets: objects.iter().filter(is_one).cloned().collect(), next: 0 }
    }

    fn step(&mut self) -> Object {
        let at = self.next * STRIDE % self.sets.len() as u32;
        self.next += 1;
        let set = &mut self.sets[at as usize];
        if let Some(object::Kind::BackendSet(set)) = &mut set.kind {
            let backend = &mut set.backends[3];
            backend.set_state(match backend.state() {
                BackendState::Active => BackendState::Terminating,
                _ => BackendState::Active,
            });
        }
        set.clone()
    }
}

/// One changed endpoint at the dataplane alone.
fn measure_verdicts(runtime: &Runtime, nodes: &[Node; 2], options: &Options) -> Result<()> {
    for (algorithm, name) in [
        (Algorithm::Hash, "a ClusterIP (hash)"),
        (Algorithm::Maglev, "a LoadBalancer (its Maglev table is built again)"),
    ] {
        let heading = format!("one endpoint of {name} changes, at the dataplane");
        let round_trips = [const { Cell::new(0.0) }; 2];
        let mut group = Group::new(&heading, "us");
        for (node, round_trip) in nodes.iter().zip(&round_trips) {
            let mut changes = Changes::new(&node.objects, algorithm);
            let mut session = runtime.block_on(async {
                let mut session = Session::open(&node.paths()).await?;
                session.send(true, node.objects.clone()).await?;
                anyhow::Ok(session)
            })?;
            group.case(format!("{}, receipt to acknowledgement", node.label), move || {
                let object = changes.step();
                let watch = Stopwatch::start();
                let verdict = runtime.block_on(session.send(false, vec![object]));
                round_trip.set(watch.elapsed_ns() as f64 / 1e3);
                verdict.expect("an accepted change").apply_ns as f64 / 1e3
            });
            group.case(format!("{}, sent to verdict", node.label), || round_trip.get());
        }
        group.measure(options).print();
    }
    Ok(())
}

/// One changed endpoint in a file, as an operator or a tool would write it.
fn measure_files(runtime: &Runtime, nodes: &[Node; 2], options: &Options) -> Result<()> {
    let mut group = Group::new("one endpoint in a file of 100 services changes", "ms");
    for node in nodes {
        let mut files = manifests::files(node.services);
        let mut client = runtime.block_on(connect_observe(&node.paths().dataplane_socket()))?;
        let mut changes = 0;
        group.case(format!("{}, file to the workers", node.label), move || {
            let at = changes * STRIDE as usize % files.len();
            changes += 1;
            let (name, text) = &mut files[at];
            let (from, to) = match changes % 2 {
                1 => ("ready: true", "ready: false"),
                _ => ("ready: false", "ready: true"),
            };
            // In a small set of files every second change undoes the one before.
            let (from, to) = if text.contains(from) { (from, to) } else { (to, from) };
            *text = text.replacen(from, to, 1);
            let before = runtime.block_on(status(&mut client)).expect("a status");
            let watch = Stopwatch::start();
            node.testbed.apply(name, text).expect("a manifest is written");
            let accepted = runtime.block_on(wait_for(&mut client, before.accepted_revision + 1));
            accepted.expect("the change arrives");
            watch.elapsed_ns() as f64 / 1e6
        });
    }
    group.measure(options).print();
    Ok(())
}

async fn status(client: &mut ObserveClient<Channel>) -> Result<DataplaneStatus> {
    Ok(client.status(StatusRequest {}).await?.into_inner())
}

/// Waits until every worker runs what was accepted as `revision`, looking every half millisecond.
async fn wait_for(client: &mut ObserveClient<Channel>, revision: u64) -> Result<()> {
    let watch = Stopwatch::start();
    while watch.elapsed() < LIMIT {
        let now = status(client).await?;
        let runs_it =
            |it: &weir_api::v1::WorkerStatus| it.snapshot_revision >= now.snapshot_revision;
        if now.accepted_revision >= revision && now.workers.iter().all(runs_it) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    bail!("the workers do not run revision {revision} after {} s", LIMIT.as_secs())
}
