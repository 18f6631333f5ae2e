//! Watching one kind of object.

use std::collections::BTreeSet;
use std::fmt::Debug;

use futures::stream::{BoxStream, Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tracing::warn;
use weir_control::model::Name;

/// What happened to the objects of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<K> {
    /// New, or different.
    Put(Box<K>),
    /// Gone.
    Remove(Name),
    /// Everything that there is has been put once.
    Synced,
}

/// All objects of a kind, and then every change; it lists again and retries by itself, with
/// back-off. What disappeared while nobody watched is removed after the next list.
pub fn watch<K>(what: &'static str, api: Api<K>, labels: &str) -> BoxStream<'static, Change<K>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().labels(labels);
    // As with client-go's informers, from 0.8 s to 30 s.
    changes(what, watcher(api, config).default_backoff()).boxed()
}

fn changes<K>(
    what: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> impl Stream<Item = Change<K>> + Send + 'static
where
    K: Resource + Send + 'static,
{
    let (mut known, mut listed): (BTreeSet<Name>, BTreeSet<Name>) = Default::default();
    events.flat_map(move |event| {
        let changes = match event {
            Ok(Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(name_of(&object));
                known.insert(name_of(&object));
                vec![Change::Put(Box::new(object))]
            }
            Ok(Event::InitDone) => {
                let gone: Vec<Name> = known.difference(&listed).cloned().collect();
                known.clone_from(&listed);
                let removes = gone.into_iter().map(Change::Remove);
                removes.chain([Change::Synced]).collect()
            }
            Ok(Event::Apply(object)) => {
                known.insert(name_of(&object));
                vec![Change::Put(Box::new(object))]
            }
            Ok(Event::Delete(object)) => {
                known.remove(&name_of(&object));
                vec![Change::Remove(name_of(&object))]
            }
            Err(error) => {
                warn!("{what}: cannot watch: {error}");
                Vec::new()
            }
        };
        futures::stream::iter(changes)
    })
}

fn name_of<K: Resource>(object: &K) -> Name {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    Name { namespace, name: object.meta().name.clone().unwrap_or_default() }
}

/// `namespace/name` of any object.
#[must_use]
pub fn object_name<K: ResourceExt>(object: &K) -> Name {
    Name { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod
    }

    fn show(change: Change<Pod>) -> String {
        match change {
            Change::Put(it) => format!("+{}", it.name_any()),
            Change::Remove(it) => format!("-{it}"),
            Change::Synced => "synced".into(),
        }
    }

    #[tokio::test]
    async fn what_went_away_unseen_is_removed_after_the_next_list() {
        let events = [
            Event::Init,
            Event::InitApply(pod("a")),
            Event::InitApply(pod("b")),
            Event::InitDone,
            Event::Apply(pod("c")),
            Event::Delete(pod("b")),
            Event::Init,
            Event::InitApply(pod("c")),
            Event::InitDone,
        ];
        let events = futures::stream::iter(events.map(Ok));
        let seen: Vec<String> = changes("pods", events).map(show).collect().await;
        assert_eq!(seen, ["+a", "+b", "synced", "+c", "-b", "+c", "-a", "synced"]);
    }
}
