//! The agent: one loop that owns all state, and the servers and the link around it.

mod attach;
mod core;
mod health;
mod report;
mod service;
mod source;
mod standby;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tracing::info;
use weir_api::MESSAGE_BYTES_MAX;
use weir_api::health::Health;
use weir_api::lock::{Attempt, Lock};
use weir_api::paths::Paths;
use weir_api::socket::{MODE_GROUP, bind};
use weir_api::v1::agent_server::AgentServer;
use weir_api::v1::cni_server::CniServer;

pub(crate) use core::Answer;
pub use core::{Core, Inputs, Request};
pub use service::{AgentHealth, AgentService};

use self::source::Source;
use crate::clock::Clock;
use crate::cni::{
    CniConf, CniService, CniState, LeaseStore, PodCidrIpam, run_conf, run_garbage_collector,
};
use crate::desired::{Desired, NodeSettings};
use crate::endpoints::{EndpointStore, KernelInterfaces, read_boot_id};
use crate::http;
use crate::link::run_link;
use crate::source::kube::KubeConfig;

/// What the agent is started with.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Sockets and files.
    pub paths: Paths,
    /// Where objects come from.
    pub source: SourceConfig,
    /// This node.
    pub node: NodeSettings,
    /// Where `/metrics`, `/healthz` and `/livez` are; `None` for nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// How long `AttachEndpoint` waits for the dataplane.
    pub attach_timeout: Duration,
    /// The file that tells container runtimes to use weir; `None`: not written.
    pub cni_conf: Option<CniConf>,
    /// Wait while another agent runs, instead of failing.
    pub is_standby: bool,
    /// Where probes ask; `None` for nowhere.
    pub health_socket: Option<PathBuf>,
}

/// Where objects come from.
#[derive(Debug, Clone)]
pub enum SourceConfig {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// The API server.
    Kubernetes(KubeConfig),
}

/// The source, as it is told.
#[derive(Debug, Clone)]
pub struct SourceInfo {
    /// `manifests /dir` or `kubernetes https://192.0.2.1:6443`.
    pub name: String,
    /// What is wrong or missing; empty where nothing is.
    pub state: watch::Receiver<String>,
}

/// Runs the agent until `shutdown` is done.
///
/// # Errors
/// It cannot start: manifests, sockets, endpoint store. Once it runs, only `shutdown` ends it.
pub async fn run_agent(
    config: AgentConfig,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (readiness, current) = watch::channel(Health::NotReady("starting".into()));
    let _health = match &config.health_socket {
        Some(path) => Some(weir_api::health::serve(path, move || current.borrow().clone())?),
        None => None,
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let (_lock, source) = tokio::select! {
        started = start(&config, &readiness) => started?,
        () = &mut shutdown => return Ok(()),
    };
    run_alone(config, source, readiness, shutdown).await
}

/// Starts the source, and waits until no other agent of the node runs.
async fn start(
    config: &AgentConfig,
    readiness: &watch::Sender<Health>,
) -> anyhow::Result<(Lock, Source)> {
    let path = config.paths.agent_lock();
    let attempt = standby::try_lock(&path, config.is_standby)?;
    let mut source = Source::start(config).await?;
    let lock = match attempt {
        Attempt::Taken(lock) => lock,
        Attempt::Held(waiting) => {
            info!("another weir-agent runs (pid {}): waiting for its end", waiting.holder);
            // Only looked at: the file is the other's.
            open_endpoints(config)?;
            let lock = standby::wait(&path, &mut source, readiness).await?;
            info!("the other weir-agent has ended: starting");
            readiness.send_replace(Health::NotReady("starting".into()));
            lock
        }
    };
    Ok((lock, source))
}

fn open_endpoints(config: &AgentConfig) -> anyhow::Result<(EndpointStore, String)> {
    let boot_id = read_boot_id().context("cannot read this boot's identity")?;
    let interfaces = Box::new(KernelInterfaces);
    let endpoints = EndpointStore::open(&config.paths.endpoints(), &boot_id, interfaces)?;
    Ok((endpoints, boot_id))
}

/// Runs while no other agent of the node does.
async fn run_alone(
    config: AgentConfig,
    mut source: Source,
    readiness: watch::Sender<Health>,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (endpoints, boot_id) = open_endpoints(&config)?;
    let leases = LeaseStore::open(&config.paths.leases(), &boot_id, endpoints.iter())?;
    let cni = CniState::new(leases, Box::<PodCidrIpam>::default());
    let cni = if config.cni_conf.is_some() { cni.with_conf() } else { cni };
    let incoming = bind(&config.paths.agent_socket(), MODE_GROUP)?;
    let listener = match config.metrics_address {
        Some(address) => Some(http::listen(address).await?),
        None => None,
    };

    let (events, event_receiver) = mpsc::unbounded_channel();
    let (requests, request_receiver) = mpsc::channel(256);
    let gathered = source.take_gathered();
    let Source { info: source, batches, .. } = source;
    let inputs = Inputs { batches, link: event_receiver, requests: request_receiver };
    let socket = config.paths.dataplane_socket();
    let clock = Clock::start();
    let core = Core::new(Desired::new(config.node.clone()), endpoints, socket.clone(), clock)
        .with_source(source.clone(), gathered)
        .with_cni(cni)
        .with_readiness(readiness);
    let service = AgentService::new(requests, config.attach_timeout);

    info!(
        "weir-agent {} for node {}: {}, socket {}",
        env!("CARGO_PKG_VERSION"),
        config.node.name,
        source.name,
        config.paths.agent_socket().display()
    );
    let (stop, stopped) = watch::channel(false);
    let wait_for_stop = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone: stop as well.
        let _ = stopped.wait_for(|it| *it).await;
    };
    let link = tokio::spawn(run_link(socket, events));
    let serve_http = listener.map(|it| tokio::spawn(http::serve(it, service.clone())));
    let garbage_collector = tokio::spawn(run_garbage_collector(service.clone()));
    let conf = config.cni_conf.map(|it| tokio::spawn(run_conf(it, service.clone())));
    let cni_server = CniServer::new(CniService::new(service.clone()));
    let server = AgentServer::new(service).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let grpc = tonic::transport::Server::builder()
        .add_service(server)
        .add_service(cni_server)
        .serve_with_incoming_shutdown(incoming, wait_for_stop(stopped.clone()));
    let grpc = tokio::spawn(grpc);
    let core = tokio::spawn(core.run(inputs, wait_for_stop(stopped)));

    shutdown.await;
    info!("stopping; the dataplane keeps what it has");
    let _ = stop.send(true);
    core.await.context("the agent's loop panicked")?;
    link.abort();
    garbage_collector.abort();
    for task in [serve_http, conf].into_iter().flatten() {
        task.abort();
    }
    // Callers that hold the socket open do not hold up the end.
    let _ = tokio::time::timeout(Duration::from_secs(1), grpc).await;
    Ok(())
}
