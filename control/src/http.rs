//! `/metrics` and `/healthz`.

use std::convert::Infallible;
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

/// Opens the port.
///
/// # Errors
/// It is in use, or not ours.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("--metrics-address {address}: cannot listen"))
}

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, service: AgentService) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: do not spin.
                warn!("metrics: cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let answer = service_fn(|request| answer(request, &service));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                debug!("metrics: {error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    service: &AgentService,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".into()));
    }
    Ok(match request.uri().path() {
        "/metrics" => match service.render_metrics().await {
            Ok(text) => reply(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(status) => unavailable(status.message()),
        },
        "/healthz" => match service.check_health().await {
            Ok((true, state)) => reply(StatusCode::OK, "text/plain", state + "\n"),
            Ok((false, state)) => unavailable(&state),
            Err(status) => unavailable(status.message()),
        },
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "see /metrics and /healthz\n".into()),
    })
}

fn unavailable(reason: &str) -> Response<Full<Bytes>> {
    reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{reason}\n"))
}

fn reply(status: StatusCode, type_: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(type_));
    response
}
