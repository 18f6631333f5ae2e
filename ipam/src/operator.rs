//! Puts the operator together: the pages, the election, and what the leader does.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::StatusCode;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;
use weir_api::health::{self, Health};
use weir_api::metrics::CONTENT_TYPE;
use weir_control::clock::Clock;
use weir_control::http::{listen, reply, serve_with};

use crate::balancers::Balancers;
use crate::events::Events;
use crate::leader::TIMING;
use crate::lease::Election;
use crate::metrics::{Counters, Gauges, PoolReport};
use crate::node_controller::run_node_controller;

/// What the operator is started with.
#[derive(Debug, Clone)]
pub struct OperatorConfig {
    /// Where the Lease and the agents are.
    pub namespace: String,
    /// The Lease.
    pub lease: String,
    /// Name of this instance; no other has it, not even an earlier one.
    pub identity: String,
    /// Services without a class want an address from weir too.
    pub is_default_class: bool,
    /// Where `/metrics`, `/healthz` and `/readyz` are; `None` for nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Where probes ask; `None` for nowhere.
    pub health_socket: Option<PathBuf>,
    /// For people; decides nothing.
    pub wall_clock: fn() -> Timestamp,
}

/// What tells of refused objects while this process leads. The future never ends, other than by
/// being dropped.
pub type Watchdog = std::pin::Pin<Box<dyn Future<Output = anyhow::Error>>>;

/// Runs until `stop` is done. `watchdog` is started with every term.
///
/// # Errors
/// The metrics address or the health socket cannot be had.
pub async fn run_operator(
    config: OperatorConfig,
    client: Client,
    watchdog: impl Fn() -> Watchdog,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let counters = Counters::default();
    let (is_leader, leader_receiver) = watch::channel(false);
    let (report, pools) = watch::channel(PoolReport::default());
    let _health = match &config.health_socket {
        Some(path) => {
            let is_leader = leader_receiver.clone();
            Some(health::serve(path, move || check(*is_leader.borrow()))?)
        }
        None => None,
    };
    let (clock, is_leader_now) = (Clock::start(), leader_receiver);
    let gauges = Gauges { counters: counters.clone(), is_leader: is_leader_now, pools, clock };
    let server = match config.metrics_address {
        Some(address) => Some(tokio::spawn(serve(listen(address).await?, gauges))),
        None => None,
    };
    let leases = Api::namespaced(client.clone(), &config.namespace);
    let election = Election::new(
        leases,
        config.lease.clone(),
        config.identity.clone(),
        TIMING,
        config.wall_clock,
        is_leader,
    );
    let work = || {
        let balancers = Balancers {
            client: client.clone(),
            is_default_class: config.is_default_class,
            events: Events::new(client.clone(), config.identity.clone()),
            wall_clock: config.wall_clock,
            counters: counters.clone(),
            report: report.clone(),
        };
        let nodes = run_node_controller(
            client.clone(),
            config.namespace.clone(),
            config.wall_clock,
            counters.clone(),
        );
        let watchdog = watchdog();
        async move {
            tokio::select! {
                () = balancers.run() => anyhow::anyhow!("the address controller has ended"),
                () = nodes => anyhow::anyhow!("the node controller has ended"),
                error = watchdog => error,
            }
        }
    };
    info!(
        "weir-operator {}: Lease {}/{}",
        env!("CARGO_PKG_VERSION"),
        config.namespace,
        config.lease
    );
    election.run(work, stop).await;
    if let Some(server) = server {
        server.abort();
    }
    Ok(())
}

/// One thread does everything here: that it answers shows that the work goes on.
async fn serve(listener: TcpListener, gauges: Gauges) {
    let answer = move |request: hyper::Request<hyper::body::Incoming>| {
        let response = match request.uri().path() {
            "/metrics" => reply(StatusCode::OK, CONTENT_TYPE, gauges.render()),
            "/healthz" | "/readyz" => {
                let state = format!("{}\n", check(*gauges.is_leader.borrow()));
                reply(StatusCode::OK, "text/plain", state)
            }
            _ => {
                let text = "see /metrics, /healthz and /readyz\n";
                reply(StatusCode::NOT_FOUND, "text/plain", text.into())
            }
        };
        async move { response }
    };
    serve_with(listener, "metrics", answer).await;
}

/// A process that waits for its turn is as healthy as one that leads.
fn check(is_leader: bool) -> Health {
    match is_leader {
        true => Health::Ready,
        false => Health::Standby("does not lead: another process does, or none can".into()),
    }
}
