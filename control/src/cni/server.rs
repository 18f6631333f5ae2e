//! The gRPC service for the CNI plugin: passes calls to the agent's loop and waits for its answers.

use std::time::Duration;

use tokio::sync::oneshot;
use tonic::{Request as Call, Response, Status};
use weir_api::cni::host_interface;
use weir_api::v1::cni_server::Cni;
use weir_api::v1::{
    AllocateReply, AllocateRequest, AttachReply, AttachRequest, CheckReply, CheckRequest,
    CollectGarbageReply, CollectGarbageRequest, ReadyReply, ReadyRequest, ReleaseReply,
    ReleaseRequest,
};

use super::mtu::find_mtu;
use super::state::read_attachment;
use crate::agent::{AgentService, Core, Request};

/// How long a release waits for the dataplane: a pod must go also while that is busy.
const RELEASE_WAIT: Duration = Duration::from_secs(3);
/// How often it looks.
const RELEASE_STEP: Duration = Duration::from_millis(2);

/// A handle to the loop.
#[derive(Debug, Clone)]
pub struct CniService {
    agent: AgentService,
}

impl CniService {
    /// In front of this agent.
    #[must_use]
    pub fn new(agent: AgentService) -> Self {
        Self { agent }
    }

    /// Waits until no worker knows any more what was released, but not for ever: what is left is in
    /// the next full state, and addresses are not given again before.
    async fn wait_until_let_go(&self) -> Result<(), Status> {
        let target = self.agent.read(|core| core.publisher.covering_revision()).await?;
        let wait = async {
            loop {
                let is_over = self.agent.read(move |core: &Core| {
                    let publisher = &core.publisher;
                    !publisher.is_connected() || publisher.acknowledged_revision() >= target
                });
                if is_over.await? {
                    return Ok(());
                }
                tokio::time::sleep(RELEASE_STEP).await;
            }
        };
        tokio::time::timeout(RELEASE_WAIT, wait).await.unwrap_or(Ok(()))
    }
}

#[tonic::async_trait]
impl Cni for CniService {
    async fn allocate(
        &self,
        call: Call<AllocateRequest>,
    ) -> Result<Response<AllocateReply>, Status> {
        let request = call.into_inner();
        let addresses = self.agent.read(|core| {
            let configured = core.desired.settings().addresses.iter().copied();
            configured.chain(core.known_node().addresses).collect()
        });
        let mtu = find_mtu(addresses.await?).await;
        self.agent.change(move |core| core.allocate(&request, mtu)).await?.map(Response::new)
    }

    async fn attach(&self, call: Call<AttachRequest>) -> Result<Response<AttachReply>, Status> {
        let (sender, receiver) = oneshot::channel();
        let request = call.into_inner();
        let change = move |core: &mut Core| core.attach_lease(request, sender);
        let request = Request::Change(Box::new(change));
        let attached = self.agent.wait(request, receiver, "the endpoint is stored").await?;
        Ok(Response::new(AttachReply { revision: attached.into_inner().revision }))
    }

    async fn check(&self, call: Call<CheckRequest>) -> Result<Response<CheckReply>, Status> {
        let request = call.into_inner();
        let check = move |core: &Core| core.check_lease(request.attachment.as_ref());
        let allocated = Some(self.agent.read(check).await??);
        Ok(Response::new(CheckReply { allocated }))
    }

    async fn release(&self, call: Call<ReleaseRequest>) -> Result<Response<ReleaseReply>, Status> {
        let attachment = read_attachment(call.into_inner().attachment.as_ref())?;
        let interface = host_interface(&attachment);
        let name = interface.clone();
        let is_known = self.agent.change(move |core| core.release_interface(&name)).await??;
        if !is_known {
            return Ok(Response::new(ReleaseReply::default()));
        }
        self.wait_until_let_go().await?;
        Ok(Response::new(ReleaseReply { host_interface: interface }))
    }

    async fn collect_garbage(
        &self,
        call: Call<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageReply>, Status> {
        let valid = call.into_inner().valid;
        let collected = self.agent.change(move |core| core.collect_garbage(&valid));
        let host_interfaces = collected.await??;
        if !host_interfaces.is_empty() {
            self.wait_until_let_go().await?;
        }
        Ok(Response::new(CollectGarbageReply { host_interfaces }))
    }

    async fn ready(&self, _: Call<ReadyRequest>) -> Result<Response<ReadyReply>, Status> {
        self.agent.read(Core::check_cni_ready).await??;
        Ok(Response::new(ReadyReply {}))
    }
}
