//! The agent: one loop that owns all state, and the servers and the link around it.

mod core;
mod health;
mod report;
mod service;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tracing::info;
use weir_api::MESSAGE_BYTES_MAX;
use weir_api::paths::Paths;
use weir_api::socket::{MODE_GROUP, bind};
use weir_api::v1::agent_server::AgentServer;

pub use core::{Core, Inputs, Request};
pub use service::{AgentHealth, AgentService};

use crate::clock::Clock;
use crate::desired::{Desired, NodeSettings};
use crate::endpoints::{EndpointStore, KernelInterfaces, read_boot_id};
use crate::http;
use crate::link::run_link;
use crate::source::file::spawn_file_source;

/// What the agent is started with.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Sockets and files.
    pub paths: Paths,
    /// The directory of manifests.
    pub manifests: PathBuf,
    /// This node.
    pub node: NodeSettings,
    /// Where `/metrics`, `/healthz` and `/livez` are; `None` for nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// How long `AttachEndpoint` waits for the dataplane.
    pub attach_timeout: Duration,
}

/// Runs the agent until `shutdown` is done.
///
/// # Errors
/// It cannot start: manifests, sockets, endpoint store. Once it runs, only `shutdown` ends it.
pub async fn run_agent(
    config: AgentConfig,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let boot_id = read_boot_id().context("cannot read this boot's identity")?;
    let interfaces = Box::new(KernelInterfaces);
    let endpoints = EndpointStore::open(&config.paths.endpoints(), &boot_id, interfaces)?;
    let incoming = bind(&config.paths.agent_socket(), MODE_GROUP)?;
    let listener = match config.metrics_address {
        Some(address) => Some(http::listen(address).await?),
        None => None,
    };

    let (batches, batch_receiver) = mpsc::unbounded_channel();
    let (events, event_receiver) = mpsc::unbounded_channel();
    let (requests, request_receiver) = mpsc::channel(256);
    spawn_file_source(&config.manifests, batches)?;
    let inputs =
        Inputs { batches: batch_receiver, link: event_receiver, requests: request_receiver };
    let socket = config.paths.dataplane_socket();
    let clock = Clock::start();
    let core = Core::new(Desired::new(config.node.clone()), endpoints, socket.clone(), clock);
    let service = AgentService::new(requests, config.attach_timeout);

    info!(
        "weir-agent {} for node {}: manifests {}, socket {}",
        env!("CARGO_PKG_VERSION"),
        config.node.name,
        config.manifests.display(),
        config.paths.agent_socket().display()
    );
    let (stop, stopped) = watch::channel(false);
    let wait_for_stop = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone: stop as well.
        let _ = stopped.wait_for(|it| *it).await;
    };
    let link = tokio::spawn(run_link(socket, events));
    let serve_http = listener.map(|it| tokio::spawn(http::serve(it, service.clone())));
    let server = AgentServer::new(service).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let grpc = tonic::transport::Server::builder()
        .add_service(server)
        .serve_with_incoming_shutdown(incoming, wait_for_stop(stopped.clone()));
    let grpc = tokio::spawn(grpc);
    let core = tokio::spawn(core.run(inputs, wait_for_stop(stopped)));

    shutdown.await;
    info!("stopping; the dataplane keeps what it has");
    let _ = stop.send(true);
    core.await.context("the agent's loop panicked")?;
    link.abort();
    if let Some(task) = serve_http {
        task.abort();
    }
    // Callers that hold the socket open do not hold up the end.
    let _ = tokio::time::timeout(Duration::from_secs(1), grpc).await;
    Ok(())
}
