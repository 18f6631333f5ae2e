//! The text of one manifest file to model objects and problems.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tracing::debug;

use super::kubernetes::convert;
use super::yaml::{Document, FieldLines, split_documents};
use crate::model::{Kind, Name, Object, ObjectKey, Origin, Problem, Severity};

/// What one file defines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// Objects that apply, with where they start.
    pub objects: BTreeMap<ObjectKey, (Origin, Object)>,
    /// Objects that are there and do not apply.
    pub refused: BTreeSet<ObjectKey>,
    /// Part of the file is no object at all: it may be any object that the file defined before.
    pub is_broken: bool,
    /// What is wrong, in the order of the lines.
    pub problems: Vec<Problem>,
    /// Documents that are one object, or mean nothing to weir, and have no problem: the same text
    /// need not be read again.
    pub(super) plain: BTreeMap<Digest, Option<ObjectKey>>,
}

/// Reads all documents of a file; a bad one does not hinder the others.
#[must_use]
pub fn read_manifest(file: &Arc<PathBuf>, text: &str) -> Manifest {
    read_changed_manifest(file, text, &Manifest::default())
}

/// As [`read_manifest`], with the cost of the documents that are not in `earlier`, which is the
/// same file before a change. A list is one document.
#[must_use]
pub fn read_changed_manifest(file: &Arc<PathBuf>, text: &str, earlier: &Manifest) -> Manifest {
    let mut reader = Reader { file, manifest: Manifest::default(), last: None };
    for document in split_documents(text) {
        let digest = digest(document.text());
        if !reader.take_over(&document, digest, earlier) {
            reader.read_noting(&document, digest);
        }
    }
    reader.manifest
}

/// Stands for a text: two of one file that differ have the same once in 2^128.
pub(super) type Digest = [u64; 2];

fn digest(text: &str) -> Digest {
    [0, 1].map(|salt| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(text.as_bytes());
        hasher.finish()
    })
}

struct Reader<'a> {
    file: &'a Arc<PathBuf>,
    manifest: Manifest,
    /// The object that was added last.
    last: Option<ObjectKey>,
}

impl Reader<'_> {
    /// Takes what the same text meant before; false where that is not known.
    fn take_over(&mut self, document: &Document<'_>, digest: Digest, earlier: &Manifest) -> bool {
        let Some(key) = earlier.plain.get(&digest) else { return false };
        if let Some(key) = key {
            let is_taken = self.manifest.objects.contains_key(key);
            let Some((_, object)) = earlier.objects.get(key).filter(|_| !is_taken) else {
                return false;
            };
            let origin = Origin::new(self.file.clone(), document.first_line);
            let object = object.clone().with_origin(origin.clone());
            self.manifest.objects.insert(key.clone(), (origin, object));
        }
        self.manifest.plain.insert(digest, key.clone());
        true
    }

    fn read_noting(&mut self, document: &Document<'_>, digest: Digest) {
        let (objects, problems) = (self.manifest.objects.len(), self.manifest.problems.len());
        self.last = None;
        self.read_document(document);
        let is_one_at_most = self.manifest.objects.len() <= objects + 1;
        if is_one_at_most && self.manifest.problems.len() == problems {
            self.manifest.plain.insert(digest, self.last.take());
        }
    }

    fn read_document(&mut self, document: &Document<'_>) {
        let value = match document.parse() {
            Ok(value) => value,
            Err(error) => return self.report_broken(error.line, error.reason),
        };
        let kind = text_at(&value, "kind");
        let items = value.get("items").and_then(Value::as_array);
        match (kind.strip_suffix("List"), items) {
            (Some(item_kind), Some(items)) => {
                let lines = document.locate_fields();
                let api_version = text_at(&value, "apiVersion");
                for (i, item) in items.iter().enumerate() {
                    let place =
                        Place { path: format!("items[{i}]"), document, lines: Some(&lines) };
                    // Items of typed lists (ServiceList) name no kind of their own.
                    self.read_object(item, api_version, item_kind, &place);
                }
            }
            _ => {
                let place = Place { path: String::new(), document, lines: None };
                self.read_object(&value, "", "", &place);
            }
        }
    }

    fn read_object(&mut self, value: &Value, api_version: &str, kind: &str, place: &Place<'_>) {
        let own = |field, inherited| match text_at(value, field) {
            "" => inherited,
            own => own,
        };
        let (api_version, kind) = (own("apiVersion", api_version), own("kind", kind));
        let line = place.first_line();
        if api_version.is_empty() || kind.is_empty() {
            let reason = "not a Kubernetes object: it needs apiVersion, kind and metadata.name";
            return self.report_broken(line, reason.into());
        }
        let file = self.file.display();
        let metadata = value.get("metadata").unwrap_or(&Value::Null);
        let name = text_at(metadata, "name");
        let Some(known) = Kind::parse(api_version, kind) else {
            debug!("{file}:{line}: {api_version} {kind}: not a kind that weir reads: ignored");
            // Somebody relies on it.
            if kind.ends_with("NetworkPolicy") {
                let object = format!("{kind} {name}");
                let reason = format!("{api_version} is not read: this policy is not enforced");
                let location = Some(Origin::new(self.file.clone(), line));
                let severity = Severity::Refused;
                self.manifest.problems.push(Problem { location, object, reason, severity });
            }
            return;
        };
        let kind = known;
        let namespace = match text_at(metadata, "namespace") {
            _ if !kind.is_namespaced() => "",
            "" => "default",
            own => own,
        };
        if !is_name(name) || (kind.is_namespaced() && !is_name(namespace)) {
            let reason = format!(
                "{} {namespace:?}/{name:?}: metadata.name and metadata.namespace must be \
                 lower-case letters, digits, '-' and '.'",
                kind.as_str()
            );
            return self.report_broken(line, reason);
        }
        let key = ObjectKey { kind, name: Name::new(namespace, name) };
        self.add_object(key, value, place);
    }

    fn add_object(&mut self, key: ObjectKey, value: &Value, place: &Place<'_>) {
        let origin = Origin::new(self.file.clone(), place.first_line());
        if let Some((first, _)) = self.manifest.objects.get(&key) {
            let reason = format!("already defined at {first}: the first one stays");
            return self.report(origin, &key, reason, Severity::Refused);
        }
        let converted = convert(key.kind, key.name.clone(), Some(origin.clone()), value);
        let mut lines = None;
        for finding in converted.findings {
            let lines = lines.get_or_insert_with(|| place.document.locate_fields());
            let path = place.join(&finding.path);
            let at = Origin::new(self.file.clone(), lines.find(&path));
            let reason = match path.as_str() {
                "" => finding.reason,
                path => format!("{path}: {}", finding.reason),
            };
            self.report(at, &key, reason, finding.severity);
        }
        match converted.object {
            Some(object) => {
                self.last = Some(key.clone());
                self.manifest.objects.insert(key, (origin, object));
            }
            None if lines.is_some() => {
                self.manifest.refused.insert(key);
            }
            None => debug!("{origin}: {key}: belongs to no service: ignored"),
        }
    }

    fn report_broken(&mut self, line: usize, reason: String) {
        self.manifest.is_broken = true;
        self.manifest.problems.push(Problem {
            location: Some(Origin::new(self.file.clone(), line)),
            object: String::new(),
            reason,
            severity: Severity::Refused,
        });
    }

    fn report(&mut self, at: Origin, key: &ObjectKey, reason: String, severity: Severity) {
        let object = key.to_string();
        self.manifest.problems.push(Problem { location: Some(at), object, reason, severity });
    }
}

/// Where in the file a value is.
struct Place<'a> {
    path: String,
    document: &'a Document<'a>,
    lines: Option<&'a FieldLines>,
}

impl Place<'_> {
    fn first_line(&self) -> usize {
        self.lines.map_or(self.document.first_line, |lines| lines.find(&self.path))
    }

    fn join(&self, field: &str) -> String {
        match (self.path.as_str(), field) {
            ("", field) => field.to_owned(),
            (path, "") => path.to_owned(),
            (path, field) => format!("{path}.{field}"),
        }
    }
}

fn text_at<'value>(value: &'value Value, field: &str) -> &'value str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A name as in RFC 1123, loosely: what makes `namespace/name` readable without quotes.
fn is_name(text: &str) -> bool {
    let is_fine = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n";
    const OTHER: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n";

    fn key(name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::Node, name: Name::new("", name) }
    }

    /// `earlier` with a mark in node a, to tell what was taken over from what was read.
    fn read(text: &str, mut earlier: Manifest) -> (Manifest, bool) {
        if let Some((_, Object::Node(node))) = earlier.objects.get_mut(&key("a")) {
            node.labels.insert("mark".into(), String::new());
        }
        let manifest = read_changed_manifest(&Arc::new("f".into()), text, &earlier);
        let is_marked = matches!(manifest.objects.get(&key("a")),
            Some((_, Object::Node(node))) if node.labels.contains_key("mark"));
        (manifest, is_marked)
    }

    #[test]
    fn documents_that_stay_the_same_are_not_read_again() {
        let (first, _) = read(&format!("{NODE}---\n{OTHER}"), Manifest::default());
        assert_eq!(first.plain.len(), 2);
        let changed = format!("{}---\n{OTHER}---\n{NODE}", NODE.replace("name: a", "name: b"));
        let (moved, is_marked) = read(&changed, first.clone());
        // Its text has a marker before it now.
        assert!(!is_marked);
        let (again, is_marked) = read(&format!("\n{changed}"), moved);
        assert!(is_marked);
        let (origin, object) = &again.objects[&key("a")];
        assert_eq!(origin.to_string(), "f:10");
        assert!(matches!(object, Object::Node(node) if node.origin.as_ref() == Some(origin)));
        assert_eq!(again.plain.len(), 3);

        let (gone, _) = read(OTHER, first.clone());
        assert_eq!((gone.objects.len(), gone.plain.len()), (0, 1));
        let (broken, is_marked) = read(&format!("{NODE}---\nkind: ["), first);
        assert!(is_marked && broken.is_broken);
        assert_eq!(broken.plain.len(), 1);
    }

    #[test]
    fn what_has_a_problem_is_read_again() {
        let twice = format!("---\n{NODE}---\n{NODE}");
        let (first, _) = read(&twice, Manifest::default());
        let (second, is_marked) = read(&twice, first.clone());
        assert!(is_marked, "the first of the two");
        assert_eq!((&second.problems, second.problems.len()), (&first.problems, 1));
        let wrong = NODE.replace('}', "}\nspec: {podCIDR: x}");
        let (first, _) = read(&wrong, Manifest::default());
        let (second, is_marked) = read(&wrong, first.clone());
        assert!(!is_marked);
        assert_eq!((&second.problems, second.problems.len()), (&first.problems, 1));
    }
}
