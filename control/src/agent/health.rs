//! The ports where load balancers ask whether a service with `externalTrafficPolicy: Local` has
//! endpoints on this node (`healthCheckNodePort`), answered as kube-proxy answers.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::info;

use crate::desired::Desired;
use crate::http::{reply, serve_with};
use crate::model::{Kind, Name, ObjectKey, Problem, Severity};

/// How many endpoints this node has, for load balancers that weigh nodes.
const WEIGHT_HEADER: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The servers, one per port.
#[derive(Debug, Default)]
pub(super) struct HealthServers {
    servers: BTreeMap<u16, Server>,
    failed: BTreeMap<u16, (Name, String)>,
    /// Version of the health checks, and whether the proxy is healthy.
    known: Option<(u64, bool)>,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Health {
    service: Name,
    local_endpoints: u32,
    /// The node forwards at all.
    is_proxy_healthy: bool,
}

/// Ends when dropped.
#[derive(Debug)]
struct Server {
    health: watch::Sender<Health>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServers {
    /// Starts, changes and stops servers as the desired state asks for.
    pub(super) fn update(&mut self, desired: &Desired, is_proxy_healthy: bool) {
        let news = Some((desired.health_version(), is_proxy_healthy));
        if self.known == news && !self.has_failed() {
            return;
        }
        self.known = news;
        let mut wanted: BTreeMap<u16, Health> = BTreeMap::new();
        for (port, service, local_endpoints) in desired.health_checks() {
            let service = service.clone();
            wanted.insert(port, Health { service, local_endpoints, is_proxy_healthy });
        }
        self.servers.retain(|port, _| wanted.contains_key(port));
        self.failed.clear();
        for (port, health) in wanted {
            if let Some(server) = self.servers.get(&port) {
                server.health.send_replace(health);
                continue;
            }
            let service = health.service.clone();
            match start(port, health) {
                Ok(server) => {
                    info!("Service {service}: health check on port {port}");
                    self.servers.insert(port, server);
                }
                Err(error) => {
                    self.failed.insert(port, (service, error.to_string()));
                }
            }
        }
    }

    /// A port that something else has may become free at any time.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Ports that cannot be opened.
    pub(super) fn problems(&self, desired: &Desired) -> Vec<Problem> {
        let explain = |(port, (service, error)): (&u16, &(Name, String))| {
            let key = ObjectKey { kind: Kind::Service, name: service.clone() };
            Problem {
                location: desired.locate(&key),
                object: key.to_string(),
                reason: format!(
                    "spec.healthCheckNodePort: cannot listen on port {port}: {error}: load \
                     balancers will not find this node; stop what has the port, or give another"
                ),
                severity: Severity::Refused,
            }
        };
        self.failed.iter().map(explain).collect()
    }
}

fn start(port: u16, health: Health) -> io::Result<Server> {
    // Listens for IPv4 as well.
    let listener = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    let listener = match listener {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            // No IPv6 on this host.
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?
        }
        result => result?,
    };
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (health, receiver) = watch::channel(health);
    let answer = move |_| {
        let response = describe(&receiver.borrow());
        async move { response }
    };
    let task = tokio::spawn(serve_with(listener, "health check", answer));
    Ok(Server { health, task })
}

/// The body, header and status of kube-proxy (`pkg/proxy/healthcheck/service_health.go`).
fn describe(health: &Health) -> Response<Full<Bytes>> {
    let Name { namespace, name } = &health.service;
    let count = health.local_endpoints;
    let body = format!(
        "{{\"service\":{{\"namespace\":\"{namespace}\",\"name\":\"{name}\"}},\
         \"localEndpoints\":{count},\"serviceProxyHealthy\":{}}}",
        health.is_proxy_healthy
    );
    let status = match count > 0 && health.is_proxy_healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = reply(status, "application/json", body);
    response.headers_mut().insert(WEIGHT_HEADER, HeaderValue::from(count));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
