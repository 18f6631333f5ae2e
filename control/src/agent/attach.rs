//! Attaching and detaching endpoints: done at once, answered when the dataplane has acknowledged.

use tonic::Status;
use tracing::{info, warn};
use weir_api::v1::{AttachEndpointReply, AttachEndpointRequest, DetachEndpointReply};

use super::core::{Answer, Core};
use crate::desired::DesiredKey;
use crate::endpoints::EndpointError;

/// A caller that waits for a revision.
pub(super) struct Waiter {
    revision: u64,
    kind: WaiterKind,
}

enum WaiterKind {
    Attach(String, Answer<AttachEndpointReply>),
    Detach(Answer<DetachEndpointReply>),
}

impl Core {
    /// Attaches an endpoint and answers once the dataplane runs it.
    pub(crate) fn attach(
        &mut self,
        request: &AttachEndpointRequest,
        answer: Answer<AttachEndpointReply>,
    ) {
        let object = self.endpoints.attach(request).and_then(|endpoint| {
            let named = |error| EndpointError::Mac { name: endpoint.name.clone(), error };
            Ok((endpoint.to_object().map_err(named)?, endpoint.host_ports()))
        });
        match object {
            Ok((object, ports)) => {
                let name = object.name.clone();
                info!("endpoint {name}: attached on {}", object.interface);
                self.desired.put_endpoint(object);
                self.desired.set_port_mappings(&name, ports);
                self.wait(WaiterKind::Attach(name, answer));
            }
            Err(error) => {
                warn!("{error}");
                // A caller that has gone needs no answer.
                let _ = answer.send(Err(refuse(&error)));
            }
        }
    }

    /// Detaches an endpoint and answers once no worker knows it any more.
    pub(crate) fn detach(&mut self, name: &str, answer: Answer<DetachEndpointReply>) {
        let existed = match self.endpoints.detach(name) {
            Ok(existed) => existed,
            Err(error) => {
                warn!("{error}");
                let _ = answer.send(Err(refuse(&error)));
                return;
            }
        };
        if !existed {
            let _ = answer.send(Ok(DetachEndpointReply { existed }));
            return;
        }
        info!("endpoint {name}: detached");
        self.desired.remove_endpoint(name);
        if self.publisher.is_connected() {
            self.wait(WaiterKind::Detach(answer));
        } else {
            // A pod must be removable while the dataplane is down; the full state tells it.
            let _ = answer.send(Ok(DetachEndpointReply { existed }));
        }
    }

    fn wait(&mut self, kind: WaiterKind) {
        self.publisher.record(self.desired.recompute());
        let revision = self.publisher.covering_revision();
        self.waiters.retain(|waiter| !waiter.is_gone());
        self.waiters.push(Waiter { revision, kind });
        self.answer_waiters();
    }

    /// Answers those whose revision the dataplane runs.
    pub(super) fn answer_waiters(&mut self) {
        let acknowledged = self.publisher.acknowledged_revision();
        let done = |waiter: &mut Waiter| waiter.revision <= acknowledged;
        for waiter in self.waiters.extract_if(.., done) {
            match waiter.kind {
                WaiterKind::Detach(answer) => {
                    let _ = answer.send(Ok(DetachEndpointReply { existed: true }));
                }
                WaiterKind::Attach(name, answer) => {
                    let refusal = self.publisher.refused().get(&DesiredKey::Endpoint(name.clone()));
                    let _ = answer.send(match refusal {
                        None => Ok(AttachEndpointReply { revision: acknowledged }),
                        Some(reason) => Err(Status::failed_precondition(format!(
                            "endpoint {name}: the dataplane refuses it: {reason}"
                        ))),
                    });
                }
            }
        }
    }
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match &self.kind {
            WaiterKind::Attach(_, answer) => answer.is_closed(),
            WaiterKind::Detach(answer) => answer.is_closed(),
        }
    }
}

fn refuse(error: &EndpointError) -> Status {
    let message = error.to_string();
    match error {
        EndpointError::Store { .. } | EndpointError::Interface { .. } => Status::internal(message),
        EndpointError::Taken { .. } => Status::already_exists(message),
        EndpointError::NoInterface { .. } => Status::not_found(message),
        EndpointError::Name(_)
        | EndpointError::Mac { .. }
        | EndpointError::Address { .. }
        | EndpointError::PortMapping { .. } => Status::invalid_argument(message),
    }
}
