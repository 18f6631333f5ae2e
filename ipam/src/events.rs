//! Events about Services.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::debug;

use crate::allocator::{Claim, Outcome};

/// Longest note that the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// Writes events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// In the name of this instance of the operator.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        let controller = crate::MANAGER.to_owned();
        Self { recorder: Recorder::new(client, Reporter { controller, instance: Some(instance) }) }
    }

    /// Tells what came of a Service's wish. Events are for people: one that is lost is no error.
    pub async fn tell(&self, claim: &Claim, outcome: &Outcome, has_new_address: bool) {
        if has_new_address && !outcome.addresses.is_empty() {
            let addresses: Vec<String> =
                outcome.addresses.iter().map(ToString::to_string).collect();
            let note = format!("load balancer address {}", addresses.join(", "));
            self.publish(claim, EventType::Normal, "Allocated", note).await;
        }
        for problem in &outcome.problems {
            let (reason, note) = (problem.reason(), problem.to_string());
            self.publish(claim, EventType::Warning, reason, note).await;
        }
    }

    async fn publish(&self, claim: &Claim, type_: EventType, reason: &str, mut note: String) {
        while note.len() > NOTE_BYTES_MAX {
            note.pop();
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "AllocateLoadBalancerAddress".into(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(claim.name.namespace.clone()),
            name: Some(claim.name.name.clone()),
            uid: Some(claim.uid.clone()),
            ..ObjectReference::default()
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            debug!("Service {}: event {reason}: {error}", claim.name);
        }
    }
}
