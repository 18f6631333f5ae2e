//! `/metrics` and `/healthz` of the dataplane.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use weir_api::metrics::{self, Page};
use weir_tables::policy::Direction;

use super::observe;
use super::shared::Shared;
use crate::clock::{Clock, MonotonicClock};
use crate::verdicts::ROWS;

/// Asked with each scrape: what only the eBPF maps know, as (outcome, packets).
pub type XdpOutcomes = dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync;

/// How often an address is tried that another process has, as the one before this may for a moment.
const BIND_AGAIN: Duration = Duration::from_millis(500);
/// After an error of a connection, as for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until the process ends. An address that cannot be had is tried again for as long.
pub async fn serve(address: SocketAddr, shared: Arc<Shared>, outcomes: Arc<XdpOutcomes>) {
    let listener = bind(address).await;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let (shared, outcomes) = (Arc::clone(&shared), Arc::clone(&outcomes));
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = respond(&request, &shared, &*outcomes);
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that goes away in the middle is its own business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "/metrics and /healthz are served");
                return listener;
            }
            Err(error) if !is_told => {
                tracing::warn!(%error, %address, "/metrics is not served yet: trying again");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

fn respond<B>(
    request: &Request<B>,
    shared: &Shared,
    outcomes: &XdpOutcomes,
) -> Response<Full<Bytes>> {
    let (status, kind, body) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, metrics::CONTENT_TYPE, page(shared, outcomes)),
        "/healthz" => match observe::degraded(shared).as_slice() {
            [] => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            problems => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", problems.join("\n") + "\n"),
        },
        _ => (StatusCode::NOT_FOUND, "text/plain", "try /metrics or /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn page(shared: &Shared, outcomes: &XdpOutcomes) -> String {
    let mut page = Page::default();
    let now = MonotonicClock.now();
    page.add(&metrics::BUILD_INFO, &["dataplane", env!("CARGO_PKG_VERSION")], 1);
    page.add_float(&metrics::UPTIME, &[], (now.0 - shared.started.0) as f64 / 1e9);
    for (reason, packets) in observe::drops(shared) {
        page.add(&metrics::DROPS, &[reason.name()], packets);
    }
    for (outcome, packets) in outcomes() {
        page.add(&metrics::XDP_OUTCOMES, &[outcome], packets);
    }
    add_devices(&mut page, shared);
    add_workers(&mut page, shared, now.0);
    add_verdicts(&mut page, shared);
    add_tables(&mut page, shared);
    page.render()
}

fn add_devices(page: &mut Page, shared: &Shared) {
    let packets =
        [&metrics::RX_PACKETS, &metrics::RX_BYTES, &metrics::TX_PACKETS, &metrics::TX_BYTES];
    for device in &shared.devices {
        let queue = device.queue.to_string();
        let labels = [device.name.as_str(), queue.as_str()];
        let values: Vec<u64> = device.read().map(|(_, value)| value).collect();
        for (metric, value) in packets.into_iter().zip(&values) {
            page.add(metric, &labels, *value);
        }
        // The six of the kernel follow two of our own, which are drops and counted there.
        for (metric, value) in metrics::XSK_STATISTICS.into_iter().zip(&values[6..]) {
            page.add(metric, &labels, *value);
        }
    }
}

fn add_workers(page: &mut Page, shared: &Shared, now_ns: u64) {
    let (mut originated, mut punted) = (0, 0);
    for (worker, view) in shared.workers.iter().enumerate() {
        let counters = view.counters.read();
        let worker = worker.to_string();
        let label = [worker.as_str()];
        originated += counters.originated;
        punted += counters.punted;
        page.add(&metrics::WORKER_TURNS, &label, counters.turns);
        page.add(&metrics::SNAPSHOT_REVISION, &label, counters.revision.into());
        page.add(&metrics::FLOW_TABLE_ENTRIES, &label, counters.flows.into());
        page.add(&metrics::FLOW_TABLE_LIMIT, &label, view.flows_max.into());
        page.add(&metrics::FLOW_TABLE_EVICTED, &label, counters.evicted);
        let in_use = view.frames_home.saturating_sub(counters.frames_free);
        page.add(&metrics::POLICY_COUNTS, &label, view.verdicts.rows_used() as u64);
        page.add(&metrics::POLICY_COUNTS_LIMIT, &label, ROWS as u64);
        page.add(&metrics::POLICY_VERDICTS_UNCOUNTED, &label, view.verdicts.uncounted());
        page.add(&metrics::POOL_FRAMES, &[&worker, "free"], counters.frames_free.into());
        page.add(&metrics::POOL_FRAMES, &[&worker, "in_use"], in_use.into());
        let age_ns = now_ns.saturating_sub(counters.last_turn_ns);
        page.add_float(&metrics::WORKER_HEARTBEAT_AGE, &label, age_ns as f64 / 1e9);
    }
    page.add(&metrics::ORIGINATED, &[], originated);
    page.add(&metrics::PUNTS, &["kernel"], punted);
}

fn add_verdicts(page: &mut Page, shared: &Shared) {
    let mut totals = BTreeMap::new();
    for view in &shared.workers {
        for (direction, kind, total) in view.verdicts.totals() {
            *totals.entry((direction, kind)).or_insert(0) += total;
        }
    }
    for ((direction, kind), total) in totals {
        let direction = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        page.add(&metrics::POLICY_VERDICTS, &[direction, kind.name()], total);
    }
}

fn add_tables(page: &mut Page, shared: &Shared) {
    let snapshot = shared.snapshots.load();
    page.add(&metrics::ACCEPTED_REVISION, &[], shared.accepted_revision.load(Ordering::Relaxed));
    page.add(&metrics::ADOPTED_FLOWS, &[], shared.adopted_flows.into());
    page.add(&metrics::STATE_FROM_DISK, &[], shared.from_disk.load(Ordering::Relaxed).into());
    page.add(&metrics::AGENT_CONNECTED, &[], shared.agent_connected.load(Ordering::Relaxed).into());
    for (table, size, limit) in snapshot.sizes() {
        page.add(&metrics::TABLE_ENTRIES, &[table], size as u64);
        page.add(&metrics::TABLE_LIMIT, &[table], limit as u64);
    }
}
