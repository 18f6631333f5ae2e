//! The agent's gRPC service: passes calls to the loop and waits for its answers.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tonic::{Request as Call, Response, Status};
use weir_api::metrics::Page;
use weir_api::v1::agent_server::Agent;
use weir_api::v1::{
    AgentStatus, AgentStatusRequest, AttachEndpointReply, AttachEndpointRequest,
    DetachEndpointReply, DetachEndpointRequest, EndpointsReply, EndpointsRequest, ServicesReply,
    ServicesRequest,
};

use super::core::{Core, Request};

/// How the agent is.
#[derive(Debug, Clone)]
pub struct AgentHealth {
    /// The source has been read.
    pub is_synced: bool,
    /// The dataplane listens.
    pub is_connected: bool,
    /// The node is about to go: load balancers shall drain it, while it forwards all it gets.
    pub is_node_deleting: bool,
    /// A line for people.
    pub state: String,
}

/// A handle to the loop, for servers.
#[derive(Debug, Clone)]
pub struct AgentService {
    requests: mpsc::Sender<Request>,
    timeout: Duration,
}

impl AgentService {
    /// Calls wait at most `timeout` for the dataplane.
    #[must_use]
    pub fn new(requests: mpsc::Sender<Request>, timeout: Duration) -> Self {
        Self { requests, timeout }
    }

    /// Reads the loop's state.
    ///
    /// # Errors
    /// The agent is stopping.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (sender, receiver) = oneshot::channel();
        let request = Request::Read(Box::new(move |core| {
            // A caller that has gone needs no answer.
            let _ = sender.send(read(core));
        }));
        self.requests.send(request).await.map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())
    }

    /// Changes the loop's state.
    ///
    /// # Errors
    /// The agent is stopping.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (sender, receiver) = oneshot::channel();
        let request = Request::Change(Box::new(move |core| {
            // A caller that has gone needs no answer.
            let _ = sender.send(change(core));
        }));
        self.requests.send(request).await.map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())
    }

    /// The metrics, as OpenMetrics text.
    ///
    /// # Errors
    /// The agent is stopping.
    pub async fn render_metrics(&self) -> Result<String, Status> {
        let fill = |core: &Core| {
            let mut page = Page::default();
            core.fill_metrics(&mut page);
            page
        };
        Ok(self.read(fill).await?.render())
    }

    /// How the agent is.
    ///
    /// # Errors
    /// The agent is stopping.
    pub async fn check_health(&self) -> Result<AgentHealth, Status> {
        self.read(|core| {
            let (is_synced, is_connected) = (core.is_synced, core.publisher.is_connected());
            let state = if is_synced && is_connected { "ok".into() } else { core.explain_wait() };
            let is_node_deleting = core.desired.own_node().is_some_and(|it| it.is_deleting);
            AgentHealth { is_synced, is_connected, is_node_deleting, state }
        })
        .await
    }

    /// Makes a request and waits for the dataplane; `what` has happened already, for messages.
    pub(crate) async fn wait<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, Status>>,
        what: &str,
    ) -> Result<Response<T>, Status> {
        self.requests.send(request).await.map_err(|_| stopping())?;
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => answer.map(Response::new),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => {
                let reason = self.read(Core::explain_wait).await?;
                let waited = self.timeout.as_secs_f64();
                let message = format!("{what}, but after {waited} s {reason}");
                Err(Status::deadline_exceeded(message))
            }
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("weir-agent is stopping")
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn attach_endpoint(
        &self,
        call: Call<AttachEndpointRequest>,
    ) -> Result<Response<AttachEndpointReply>, Status> {
        let (sender, receiver) = oneshot::channel();
        let request = call.into_inner();
        let what = format!("endpoint {} is stored", request.name);
        self.wait(Request::Attach(request, sender), receiver, &what).await
    }

    async fn detach_endpoint(
        &self,
        call: Call<DetachEndpointRequest>,
    ) -> Result<Response<DetachEndpointReply>, Status> {
        let (sender, receiver) = oneshot::channel();
        let name = call.into_inner().name;
        let what = format!("endpoint {name} is forgotten");
        self.wait(Request::Detach(name, sender), receiver, &what).await
    }

    async fn endpoints(
        &self,
        _: Call<EndpointsRequest>,
    ) -> Result<Response<EndpointsReply>, Status> {
        let endpoints = self.read(Core::endpoint_states).await?;
        Ok(Response::new(EndpointsReply { endpoints }))
    }

    async fn status(&self, _: Call<AgentStatusRequest>) -> Result<Response<AgentStatus>, Status> {
        self.read(Core::status).await.map(Response::new)
    }

    async fn services(&self, _: Call<ServicesRequest>) -> Result<Response<ServicesReply>, Status> {
        let services = self.read(Core::services).await?;
        Ok(Response::new(ServicesReply { services }))
    }
}
