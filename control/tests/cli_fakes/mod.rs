//! An agent and a dataplane that only answer people, with what they are given.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod kubectl;
pub mod states;

use std::path::Path;
use std::process::{Command, Output};

use tokio::sync::oneshot;
use tokio_stream::Empty;
use tonic::{Request, Response, Status};
use weir_api::socket::{MODE_OWNER, bind};
use weir_api::v1::agent_server::{Agent, AgentServer};
use weir_api::v1::observe_server::{Observe, ObserveServer};
use weir_api::v1::{
    AgentStatus, AgentStatusRequest, AttachEndpointReply, AttachEndpointRequest, DataplaneStatus,
    DetachEndpointReply, DetachEndpointRequest, DropsReply, DropsRequest, EndpointState,
    EndpointsReply, EndpointsRequest, Flow, FlowsRequest, FrontendState, FrontendsRequest,
    PolicyReply, PolicyRequest, ServicesReply, ServicesRequest, SnatUsageReply, SnatUsageRequest,
    StatusRequest, VerdictsReply, VerdictsRequest,
};

pub const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// What both answer.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    pub agent: AgentStatus,
    pub endpoints: Vec<EndpointState>,
    pub dataplane: DataplaneStatus,
    pub policy: PolicyReply,
}

/// Which of the two is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    Both,
    AgentOnly,
    DataplaneOnly,
    Neither,
}

/// Both, until dropped.
pub struct Fakes {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fakes {
    /// Serves sockets in `folder`, as `--run-dir` has them.
    pub fn serve(folder: &Path, answers: &Answers, present: Present) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (folder, answers) = (folder.to_owned(), answers.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                if matches!(present, Present::Both | Present::AgentOnly) {
                    let incoming = bind(&folder.join("agent.sock"), MODE_OWNER).unwrap();
                    let server = tonic::transport::Server::builder();
                    let server = server.clone().add_service(AgentServer::new(answers.clone()));
                    tokio::spawn(server.serve_with_incoming(incoming));
                }
                if matches!(present, Present::Both | Present::DataplaneOnly) {
                    let incoming = bind(&folder.join("dataplane.sock"), MODE_OWNER).unwrap();
                    let server = tonic::transport::Server::builder();
                    let server = server.clone().add_service(ObserveServer::new(answers));
                    tokio::spawn(server.serve_with_incoming(incoming));
                }
                ready.send(()).unwrap();
                let _ = stopped.await;
            });
        });
        is_ready.recv().unwrap();
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `weir` against a folder of sockets.
pub fn weir(folder: &Path, arguments: &[&str]) -> Output {
    let run_dir = format!("--run-dir={}", folder.display());
    Command::new(WEIR).arg(run_dir).args(arguments).output().unwrap()
}

/// Standard output, with the folder under a name that does not change.
pub fn printed(folder: &Path, output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.replace(&folder.display().to_string(), "RUN_DIR")
}

/// Compares with a file of `tests/cli_golden`; with `UPDATE` set it is written instead.
pub fn check_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli_golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name} is otherwise; printed was:\n{text}");
}

fn refuse<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the fake does not know"))
}

#[tonic::async_trait]
impl Agent for Answers {
    async fn attach_endpoint(
        &self,
        _: Request<AttachEndpointRequest>,
    ) -> Result<Response<AttachEndpointReply>, Status> {
        refuse()
    }

    async fn detach_endpoint(
        &self,
        _: Request<DetachEndpointRequest>,
    ) -> Result<Response<DetachEndpointReply>, Status> {
        refuse()
    }

    async fn endpoints(
        &self,
        _: Request<EndpointsRequest>,
    ) -> Result<Response<EndpointsReply>, Status> {
        Ok(Response::new(EndpointsReply { endpoints: self.endpoints.clone() }))
    }

    async fn status(
        &self,
        _: Request<AgentStatusRequest>,
    ) -> Result<Response<AgentStatus>, Status> {
        Ok(Response::new(self.agent.clone()))
    }

    async fn services(
        &self,
        _: Request<ServicesRequest>,
    ) -> Result<Response<ServicesReply>, Status> {
        Ok(Response::new(ServicesReply::default()))
    }
}

#[tonic::async_trait]
impl Observe for Answers {
    type FlowsStream = Empty<Result<Flow, Status>>;
    type FrontendsStream = Empty<Result<FrontendState, Status>>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<DataplaneStatus>, Status> {
        Ok(Response::new(self.dataplane.clone()))
    }

    async fn flows(&self, _: Request<FlowsRequest>) -> Result<Response<Self::FlowsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn drops(&self, _: Request<DropsRequest>) -> Result<Response<DropsReply>, Status> {
        Ok(Response::new(DropsReply::default()))
    }

    async fn frontends(
        &self,
        _: Request<FrontendsRequest>,
    ) -> Result<Response<Self::FrontendsStream>, Status> {
        refuse()
    }

    async fn snat_usage(
        &self,
        _: Request<SnatUsageRequest>,
    ) -> Result<Response<SnatUsageReply>, Status> {
        Err(Status::internal("the ports cannot be counted"))
    }

    async fn policy(&self, _: Request<PolicyRequest>) -> Result<Response<PolicyReply>, Status> {
        Ok(Response::new(self.policy.clone()))
    }

    async fn verdicts(
        &self,
        _: Request<VerdictsRequest>,
    ) -> Result<Response<VerdictsReply>, Status> {
        Ok(Response::new(VerdictsReply::default()))
    }
}
