//! What the fake dataplane answers to people: what it was told to.

use tokio_stream::Empty;
use tonic::{Request, Response, Status};
use weir_api::v1::observe_server::Observe;
use weir_api::v1::{
    DataplaneStatus, DropsReply, DropsRequest, Flow, FlowsRequest, FrontendState, FrontendsRequest,
    PolicyReply, PolicyRequest, SnatUsageReply, SnatUsageRequest, StatusRequest, VerdictsReply,
    VerdictsRequest,
};

use super::FakeDataplane;

fn refuse<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the fake does not know"))
}

#[tonic::async_trait]
impl Observe for FakeDataplane {
    type FlowsStream = Empty<Result<Flow, Status>>;
    type FrontendsStream = Empty<Result<FrontendState, Status>>;

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<DataplaneStatus>, Status> {
        refuse()
    }

    async fn flows(
        &self,
        _request: Request<FlowsRequest>,
    ) -> Result<Response<Self::FlowsStream>, Status> {
        refuse()
    }

    async fn drops(&self, _request: Request<DropsRequest>) -> Result<Response<DropsReply>, Status> {
        Ok(Response::new(self.with(|told| told.drops.clone())))
    }

    async fn frontends(
        &self,
        _request: Request<FrontendsRequest>,
    ) -> Result<Response<Self::FrontendsStream>, Status> {
        refuse()
    }

    async fn policy(
        &self,
        request: Request<PolicyRequest>,
    ) -> Result<Response<PolicyReply>, Status> {
        let name = request.into_inner().endpoint;
        let mut reply = self.with(|told| told.policy.clone());
        reply.endpoints.retain(|it| name.is_empty() || it.name == name);
        match reply.endpoints.is_empty() {
            true => Err(Status::not_found(format!("endpoint {name} is not attached"))),
            false => Ok(Response::new(reply)),
        }
    }

    async fn verdicts(
        &self,
        _request: Request<VerdictsRequest>,
    ) -> Result<Response<VerdictsReply>, Status> {
        Ok(Response::new(self.with(|told| told.verdicts.clone())))
    }

    async fn snat_usage(
        &self,
        request: Request<SnatUsageRequest>,
    ) -> Result<Response<SnatUsageReply>, Status> {
        let limit = request.into_inner().limit as usize;
        let mut usage = self.with(|told| told.snat_usage.clone());
        usage.remotes.truncate(limit);
        usage.clients.truncate(limit);
        Ok(Response::new(usage))
    }
}
