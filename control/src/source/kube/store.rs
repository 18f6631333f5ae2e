//! What is known of the API server's objects, and what of it is news. No I/O.
//!
//! Only names, versions and digests are kept here: the objects themselves are handed on.

use std::collections::{BTreeMap, HashMap};

use super::resources::Resource;
use super::trouble::{Trouble, list_troubles};
use super::wire::Item;
use crate::model::{Kind, Object, ObjectKey, Problem, Severity};
use crate::source::Batch;
use crate::source::kubernetes::convert;

/// What the watch of one kind tells.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A list begins; one that had begun before counts for nothing but what it showed.
    ListStarted,
    /// Some of the list's objects.
    Listed(Vec<Item>),
    /// That was all, as of this version: what was not in the list is gone.
    ListDone(u64),
    /// Changes, in order.
    Changed(Vec<Change>),
    /// It works again, or does not.
    Trouble(Option<Trouble>),
    /// The server does not know the kind.
    Absent {
        /// It has said so more than once: what was known of the kind is gone.
        is_sure: bool,
    },
}

/// A line of a watch.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// Added or changed.
    Put(Item),
    /// Gone.
    Deleted(Item),
    /// Nothing changed up to this version.
    Bookmark(u64),
}

/// All kinds together.
#[derive(Debug)]
pub(super) struct Store {
    /// The API server's URL, for messages.
    server: String,
    kinds: BTreeMap<Kind, Known>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    /// What has not been handed on yet: an object, or that it is gone.
    pending: BTreeMap<ObjectKey, Option<Object>>,
    /// What was handed on last.
    reported: Vec<Problem>,
    /// There may be others than those.
    may_differ: bool,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Known {
    objects: HashMap<crate::model::Name, Mark>,
    /// Rises with every list.
    list: u32,
    /// Everything up to here has been seen.
    version: u64,
    is_synced: bool,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Mark {
    digest: u64,
    /// The last list, or the one since, that showed it.
    list: u32,
    /// It was handed on, in this version or an earlier one.
    is_live: bool,
}

impl Store {
    /// Nothing is known yet.
    pub(super) fn new(server: String, resources: &[Resource]) -> Self {
        let kinds = resources.iter().map(|it| (it.kind, Known::default())).collect();
        Self {
            server,
            kinds,
            problems: BTreeMap::new(),
            pending: BTreeMap::new(),
            reported: Vec::new(),
            may_differ: false,
        }
    }

    /// Takes what the watch of a kind tells.
    pub(super) fn apply(&mut self, kind: Kind, step: Step) {
        match step {
            Step::ListStarted => self.known(kind).list += 1,
            Step::Listed(items) => {
                for item in items {
                    self.put(kind, item);
                }
            }
            Step::ListDone(version) => {
                let known = self.known(kind);
                (known.version, known.is_synced) = (version, true);
                let list = known.list;
                self.remove_where(kind, |mark| mark.list != list);
            }
            Step::Changed(changes) => {
                for change in changes {
                    self.change(kind, change);
                }
            }
            Step::Trouble(trouble) => {
                self.may_differ = true;
                self.known(kind).trouble = trouble;
            }
            Step::Absent { is_sure } => {
                self.may_differ = true;
                let known = self.known(kind);
                if is_sure || known.objects.is_empty() {
                    (known.is_synced, known.trouble) = (true, None);
                    self.remove_where(kind, |_| true);
                } else {
                    let reason = "the server does not know the kind any more";
                    known.trouble = Some(Trouble::Failed(reason.into()));
                }
            }
        }
    }

    /// Everything has been seen once: the first batch can go. A kind that may not be read holds
    /// nothing up unless Kubernetes itself has it.
    pub(super) fn is_synced(&self) -> bool {
        self.kinds.iter().all(|(kind, it)| {
            let is_forbidden = matches!(it.trouble, Some(Trouble::Forbidden { .. }));
            it.is_synced || (is_forbidden && !Resource::of(*kind).is_builtin)
        })
    }

    /// Kinds whose objects have not all been seen.
    pub(super) fn unsynced(&self) -> impl Iterator<Item = Kind> {
        self.kinds.iter().filter(|(_, it)| !it.is_synced).map(|(kind, _)| *kind)
    }

    /// Objects that wait to be handed on.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Something waits to be handed on.
    pub(super) fn has_news(&mut self) -> bool {
        // Many watches tell of the same trouble.
        self.may_differ = self.may_differ && self.problems() != self.reported;
        !self.pending.is_empty() || self.may_differ
    }

    /// Hands on what is new.
    pub(super) fn settle(&mut self) -> Batch {
        if std::mem::take(&mut self.may_differ) {
            self.reported = self.problems();
        }
        let mut batch = Batch { problems: self.reported.clone(), ..Batch::default() };
        for (key, object) in std::mem::take(&mut self.pending) {
            match object {
                Some(object) => batch.upserts.push(object),
                None => batch.removes.push(key),
            }
        }
        batch
    }

    /// What is wrong with the way to the API server.
    pub(super) fn troubles(&self) -> Vec<Problem> {
        let troubled =
            self.kinds.iter().filter_map(|(kind, it)| Some((*kind, it.trouble.as_ref()?)));
        list_troubles(&self.server, troubled)
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.troubles();
        problems.extend(self.problems.values().flatten().cloned());
        problems.sort();
        problems
    }

    fn known(&mut self, kind: Kind) -> &mut Known {
        self.kinds.entry(kind).or_default()
    }

    /// Events come once and in order; a server that repeats itself changes nothing.
    fn change(&mut self, kind: Kind, change: Change) {
        let (Change::Put(Item { version, .. })
        | Change::Deleted(Item { version, .. })
        | Change::Bookmark(version)) = &change;
        let version = *version;
        let known = self.known(kind);
        // Without numbers there is no telling.
        if version != 0 && version <= known.version {
            return;
        }
        known.version = known.version.max(version);
        match change {
            Change::Put(item) => self.put(kind, item),
            Change::Deleted(item) => {
                let key = ObjectKey { kind, name: item.name };
                if let Some(mark) = self.known(kind).objects.remove(&key.name) {
                    self.forget(key, &mark);
                }
            }
            Change::Bookmark(_) => {}
        }
    }

    fn put(&mut self, kind: Kind, item: Item) {
        let Item { name, digest, value, .. } = item;
        let known = self.known(kind);
        let list = known.list;
        let mut was_live = false;
        if let Some(mark) = known.objects.get_mut(&name) {
            mark.list = list;
            if mark.digest == digest {
                return;
            }
            was_live = mark.is_live;
        }
        let key = ObjectKey { kind, name };
        let converted = convert(kind, key.name.clone(), None, &value);
        let is_refused = converted.object.is_none() && !converted.findings.is_empty();
        let problems = converted.findings.into_iter().map(|finding| {
            let mut reason = match finding.path.as_str() {
                "" => finding.reason,
                path => format!("{path}: {}", finding.reason),
            };
            if is_refused && was_live && finding.severity == Severity::Refused {
                reason += "; the version before stays";
            }
            Problem { location: None, object: key.to_string(), reason, severity: finding.severity }
        });
        let problems: Vec<Problem> = problems.collect();
        self.replace_problems(&key, problems);
        let is_live = match converted.object {
            Some(object) => {
                self.pending.insert(key.clone(), Some(object));
                true
            }
            None if is_refused => was_live,
            None => {
                if was_live {
                    self.pending.insert(key.clone(), None);
                }
                false
            }
        };
        let known = self.known(kind);
        known.objects.insert(key.name, Mark { digest, list, is_live });
    }

    fn remove_where(&mut self, kind: Kind, is_gone: impl Fn(&Mark) -> bool) {
        let known = self.known(kind);
        let gone: Vec<_> = known.objects.extract_if(|_, mark| is_gone(mark)).collect();
        for (name, mark) in gone {
            self.forget(ObjectKey { kind, name }, &mark);
        }
    }

    fn forget(&mut self, key: ObjectKey, mark: &Mark) {
        self.replace_problems(&key, Vec::new());
        if mark.is_live {
            self.pending.insert(key, None);
        }
    }

    fn replace_problems(&mut self, key: &ObjectKey, problems: Vec<Problem>) {
        let is_same = match self.problems.get(key) {
            Some(known) => *known == problems,
            None => problems.is_empty(),
        };
        if is_same {
            return;
        }
        self.may_differ = true;
        if problems.is_empty() {
            self.problems.remove(key);
        } else {
            self.problems.insert(key.clone(), problems);
        }
    }
}
