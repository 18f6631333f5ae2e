//! `/metrics`, `/healthz` and `/livez`, and how small pages are served.

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use weir_api::metrics;

use crate::agent::AgentService;

/// Scrapers and probes at one time; more wait.
const CONNECTIONS_MAX: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often, and how soon, a port that is in use is tried again.
const LISTEN_RETRIES: u32 = 30;
const LISTEN_RETRY: Duration = Duration::from_millis(100);

/// Opens the port.
///
/// # Errors
/// It is in use, or not ours.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let mut retries = LISTEN_RETRIES;
    loop {
        match TcpListener::bind(address).await {
            // In a rolling update the process before this one is just ending.
            Err(error) if error.kind() == ErrorKind::AddrInUse && retries > 0 => retries -= 1,
            bound => {
                return bound
                    .with_context(|| format!("--metrics-address {address}: cannot listen"));
            }
        }
        tokio::time::sleep(LISTEN_RETRY).await;
    }
}

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, service: AgentService) {
    let answer = move |request| {
        let service = service.clone();
        async move { answer(request, &service).await }
    };
    serve_with(listener, "metrics", answer).await;
}

/// Serves `answer` on a port until the task is dropped; `what` names it in the log.
pub async fn serve_with<A, F>(listener: TcpListener, what: &'static str, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: do not spin.
                warn!("{what}: cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let answer = service_fn(|request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                debug!("{what}: {error}");
            }
        });
    }
}

async fn answer(request: Request<Incoming>, service: &AgentService) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".into());
    }
    match request.uri().path() {
        "/metrics" => match service.render_metrics().await {
            Ok(text) => reply(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(status) => unavailable(status.message()),
        },
        // As kube-proxy: /healthz for load balancers that look for nodes that forward, /livez for
        // whoever restarts this process, which helps the dataplane nothing.
        path @ ("/healthz" | "/livez") => match service.check_health().await {
            Ok(health) if health.is_node_deleting && path == "/healthz" => unavailable(
                "the node is being deleted: load balancers shall send it no new connections",
            ),
            Ok(health) if health.is_synced && (health.is_connected || path == "/livez") => {
                reply(StatusCode::OK, "text/plain", health.state + "\n")
            }
            Ok(health) => unavailable(&health.state),
            Err(status) => unavailable(status.message()),
        },
        _ => {
            reply(StatusCode::NOT_FOUND, "text/plain", "see /metrics, /healthz and /livez\n".into())
        }
    }
}

fn unavailable(reason: &str) -> Response<Full<Bytes>> {
    reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{reason}\n"))
}

/// A small page.
pub fn reply(status: StatusCode, type_: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(type_));
    response
}
