//! What is wrong with objects, told in the cluster: events on the objects, and the condition
//! `Valid` of `cilium.io` policies. For the operator that leads; agents all know the same.
//!
//! Rights that it takes: `get` of the kinds that weir reads, `list` of the two `cilium.io`
//! policies, `create` and `patch` of `events.k8s.io` events, `patch` of the policies' `status`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter as Controller};
use serde_json::{Value, json};
use thiserror::Error;
use tracing::debug;

use super::resources::Resource;
use crate::clock::wall_time;
use crate::model::{Kind, Name, ObjectKey, Problem, Severity};

/// Who writes events and conditions.
const MANAGER: &str = "weir-operator";
/// Objects told of in one call: the API server has other work.
const OBJECTS_MAX: usize = 10;
/// Longest `note` of an event (events.k8s.io API: 1 kB).
const NOTE_BYTES_MAX: usize = 1000;
/// Accepted objects that are remembered, to tell one that is refused again and again as a series.
const ACCEPTED_MAX: usize = 1000;
const PAGE_OBJECTS: u32 = 500;

/// Something could not be told; the next call tries again.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The API server refuses.
    #[error("cannot {what} of {key}: {error}: see ClusterRole weir-operator")]
    Request {
        /// `read`, `write an event`, `write the status`.
        what: &'static str,
        /// The object, or a kind.
        key: String,
        /// Why.
        error: Box<kube::Error>,
    },
}

/// Tells the cluster what is wrong with its objects, and what is not any more.
pub struct Reporter {
    client: kube::Client,
    controller: Controller,
    told: BTreeMap<ObjectKey, Told>,
    /// How often in a row it could not be told.
    failures: BTreeMap<ObjectKey, u64>,
    has_adopted: bool,
}

/// What was said of one object.
struct Told {
    /// Its last note; it groups events of the same note into a series.
    recorder: Recorder,
    note: String,
    is_accepted: bool,
}

/// What is to be said of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    severity: Severity,
    note: String,
}

impl Reporter {
    /// Reports as `reporting_instance`, the name of the operator's pod.
    #[must_use]
    pub fn new(client: kube::Client, reporting_instance: String) -> Self {
        let controller =
            Controller { controller: MANAGER.into(), instance: Some(reporting_instance) };
        let (told, failures) = (BTreeMap::new(), BTreeMap::new());
        Self { client, controller, told, failures, has_adopted: false }
    }

    /// Tells what differs from what was told: `problems` are all that there are. Returns whether
    /// everything has been told; if not, call again in a second.
    ///
    /// # Errors
    /// The API server refuses, or is away: call again later. What it refuses of one object, as in
    /// a namespace that ends, holds up no other; the first error is returned.
    pub async fn update(&mut self, problems: &[Problem]) -> Result<bool, ReportError> {
        if !self.has_adopted {
            self.adopt().await?;
            self.has_adopted = true;
        }
        let verdicts = collect_verdicts(problems);
        let pending = self.list_pending(&verdicts);
        let mut result = Ok(pending.len() <= OBJECTS_MAX);
        for key in pending.into_iter().take(OBJECTS_MAX) {
            match self.tell(&key, verdicts.get(&key)).await {
                Ok(()) => {
                    self.failures.remove(&key);
                }
                Err(error) => {
                    *self.failures.entry(key).or_default() += 1;
                    result = result.and(Err(error));
                }
            }
        }
        self.failures.retain(|key, _| verdicts.contains_key(key) || self.told.contains_key(key));
        if self.told.len() > verdicts.len() + ACCEPTED_MAX {
            self.told.retain(|_, told| !told.is_accepted);
        }
        result
    }

    /// Objects that something is to be told of, first those that failed least often: those that
    /// fail for ever, however many, take turns with each other alone.
    fn list_pending(&self, verdicts: &BTreeMap<ObjectKey, Verdict>) -> Vec<ObjectKey> {
        let is_told = |key: &ObjectKey, verdict: &Verdict| {
            self.told.get(key).is_some_and(|it| !it.is_accepted && it.note == verdict.note)
        };
        let news = verdicts.iter().filter(|(key, verdict)| !is_told(key, verdict));
        let is_solved =
            |key: &ObjectKey, told: &Told| !told.is_accepted && !verdicts.contains_key(key);
        let solved = self.told.iter().filter(|(key, told)| is_solved(key, told));
        let news = news.map(|(key, _)| key.clone());
        let mut pending: Vec<ObjectKey> = news.chain(solved.map(|(key, _)| key.clone())).collect();
        pending.sort_by_key(|key| self.failures.get(key).copied().unwrap_or_default());
        pending
    }

    /// Takes over the policies that a leader before us called invalid.
    async fn adopt(&mut self) -> Result<(), ReportError> {
        for kind in [Kind::CiliumNetworkPolicy, Kind::CiliumClusterwideNetworkPolicy] {
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &api_resource(kind));
            let mut params = ListParams::default().limit(PAGE_OBJECTS);
            loop {
                let page = match api.list(&params).await {
                    Ok(page) => page,
                    // The CRD is not installed.
                    Err(kube::Error::Api(status)) if status.code == 404 => break,
                    Err(error) => {
                        let key = kind.as_str().to_owned();
                        let error = Box::new(error);
                        return Err(ReportError::Request { what: "list objects", key, error });
                    }
                };
                params.continue_token = page.metadata.continue_.filter(|it| !it.is_empty());
                for object in page.items.into_iter().filter(|it| is_called_invalid(&it.data)) {
                    let metadata = object.metadata;
                    let namespace = metadata.namespace.unwrap_or_default();
                    let name = Name::new(&namespace, &metadata.name.unwrap_or_default());
                    let told =
                        Told { recorder: self.recorder(), note: String::new(), is_accepted: false };
                    self.told.insert(ObjectKey { kind, name }, told);
                }
                if params.continue_token.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn tell(
        &mut self,
        key: &ObjectKey,
        verdict: Option<&Verdict>,
    ) -> Result<(), ReportError> {
        let failed = |what| {
            let key = key.to_string();
            move |error: kube::Error| ReportError::Request { what, key, error: Box::new(error) }
        };
        let api = self.api(key);
        let found = api.get_metadata_opt(&key.name.name).await.map_err(failed("read"))?;
        let Some(found) = found else {
            debug!("{key}: gone before it was told of");
            self.forget_or_wait(key, verdict);
            return Ok(());
        };
        let metadata = found.metadata;
        let known = self.told.get(key);
        let recorder = match (known, verdict) {
            (Some(told), Some(verdict)) if told.note == verdict.note => told.recorder.clone(),
            (Some(told), None) => told.recorder.clone(),
            _ => self.recorder(),
        };
        let reference = ObjectReference {
            api_version: Some(key.kind.api_version().into()),
            kind: Some(key.kind.as_str().into()),
            name: Some(key.name.name.clone()),
            namespace: metadata.namespace,
            uid: metadata.uid,
            // Part of what makes events one series.
            resource_version: None,
            field_path: None,
        };
        let event = make_event(verdict);
        recorder.publish(&event, &reference).await.map_err(failed("write an event"))?;
        let is_cilium =
            matches!(key.kind, Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy);
        if is_cilium {
            self.apply_condition(&api, key, verdict, metadata.generation)
                .await
                .map_err(failed("write the status"))?;
        }
        let note = match (verdict, self.told.get(key)) {
            (Some(verdict), _) => verdict.note.clone(),
            (None, Some(told)) => told.note.clone(),
            (None, None) => String::new(),
        };
        let told = Told { recorder, note, is_accepted: verdict.is_none() };
        self.told.insert(key.clone(), told);
        Ok(())
    }

    /// An object that is gone needs no word; whoever makes it anew starts anew.
    fn forget_or_wait(&mut self, key: &ObjectKey, verdict: Option<&Verdict>) {
        match verdict {
            None => {
                self.told.remove(key);
            }
            Some(verdict) => {
                let told = Told {
                    recorder: self.recorder(),
                    note: verdict.note.clone(),
                    is_accepted: false,
                };
                self.told.insert(key.clone(), told);
            }
        }
    }

    async fn apply_condition(
        &self,
        api: &Api<DynamicObject>,
        key: &ObjectKey,
        verdict: Option<&Verdict>,
        generation: Option<i64>,
    ) -> Result<(), kube::Error> {
        let is_valid = verdict.is_none_or(|it| it.severity == Severity::Ignored);
        let mut condition = json!({
            "type": "Valid",
            "status": if is_valid { "True" } else { "False" },
            "reason": if is_valid { "Accepted" } else { "Refused" },
            "message": verdict.map_or("", |it| it.note.as_str()),
            "lastTransitionTime": wall_time().to_string(),
        });
        if let Some(generation) = generation {
            condition["observedGeneration"] = generation.into();
        }
        let patch = json!({
            "apiVersion": key.kind.api_version(),
            "kind": key.kind.as_str(),
            "metadata": {"name": key.name.name},
            "status": {"conditions": [condition]},
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(&key.name.name, &params, &Patch::Apply(&patch)).await {
            Ok(_) => Ok(()),
            // Gone meanwhile, or a CRD without status.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = api_resource(key.kind);
        match key.kind.is_namespaced() {
            true => Api::namespaced_with(self.client.clone(), &key.name.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        }
    }

    fn recorder(&self) -> Recorder {
        Recorder::new(self.client.clone(), self.controller.clone())
    }
}

fn api_resource(kind: Kind) -> ApiResource {
    let resource = Resource::of(kind);
    let api_version = kind.api_version();
    ApiResource {
        group: resource.group.into(),
        version: api_version.rsplit('/').next().unwrap_or(api_version).into(),
        api_version: api_version.into(),
        kind: kind.as_str().into(),
        plural: resource.plural.into(),
    }
}

fn is_called_invalid(data: &Value) -> bool {
    let conditions = data.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|it| it["type"] == "Valid" && it["status"] == "False")
}

fn make_event(verdict: Option<&Verdict>) -> Event {
    let (type_, reason) = match verdict.map(|it| it.severity) {
        Some(Severity::Refused) => (EventType::Warning, "Refused"),
        Some(Severity::Ignored) => (EventType::Warning, "Unsupported"),
        None => (EventType::Normal, "Accepted"),
    };
    let note = verdict.map_or("it applies in full", |it| it.note.as_str());
    Event {
        type_,
        reason: reason.into(),
        note: Some(note.into()),
        action: "Apply".into(),
        secondary: None,
    }
}

/// Problems of objects, by object; others, as of the way to the API server, are no object's.
fn collect_verdicts(problems: &[Problem]) -> BTreeMap<ObjectKey, Verdict> {
    let mut reasons: BTreeMap<ObjectKey, (Severity, Vec<&str>)> = BTreeMap::new();
    for problem in problems {
        let Some(key) = parse_key(&problem.object) else { continue };
        let (severity, list) = reasons.entry(key).or_insert((problem.severity, Vec::new()));
        *severity = (*severity).min(problem.severity);
        list.push(&problem.reason);
    }
    let verdicts = reasons.into_iter().map(|(key, (severity, mut list))| {
        list.sort_unstable();
        list.dedup();
        let mut note = list.join("; ");
        if note.len() > NOTE_BYTES_MAX {
            note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX - 3));
            note += "...";
        }
        (key, Verdict { severity, note })
    });
    verdicts.collect()
}

/// `Service default/web` as [`ObjectKey`] prints it.
fn parse_key(text: &str) -> Option<ObjectKey> {
    let (kind, name) = text.split_once(' ')?;
    let kind = Kind::ALL.into_iter().find(|it| it.as_str() == kind)?;
    let name = match kind.is_namespaced() {
        true => Name::parse(name)?,
        false => Name::new("", name),
    };
    Some(ObjectKey { kind, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(object: &str, reason: &str, severity: Severity) -> Problem {
        Problem { location: None, object: object.into(), reason: reason.into(), severity }
    }

    #[test]
    fn problems_of_one_object_are_one_event() {
        let long = "x".repeat(2000);
        let verdicts = collect_verdicts(&[
            problem("Service default/web", "b", Severity::Ignored),
            problem("Service default/web", "a", Severity::Refused),
            problem("Node n1", &long, Severity::Ignored),
            problem("API server https://x", "refused", Severity::Refused),
            problem("ClusterRole weir-agent", "refused", Severity::Refused),
        ]);
        let keys: Vec<String> = verdicts.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["Service default/web", "Node n1"]);
        let web = verdicts.values().next().unwrap();
        assert_eq!((web.severity, web.note.as_str()), (Severity::Refused, "a; b"));
        let node = verdicts.values().nth(1).unwrap();
        assert_eq!(node.note.len(), NOTE_BYTES_MAX);
    }
}
