//! The text of one manifest file to model objects and problems.

use std::collections::{BTreeMap, BTreeSet};
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
}

/// Reads all documents of a file; a bad one does not hinder the others.
#[must_use]
pub fn read_manifest(file: &Arc<PathBuf>, text: &str) -> Manifest {
    let mut reader = Reader { file, manifest: Manifest::default() };
    for document in split_documents(text) {
        reader.read_document(&document);
    }
    reader.manifest
}

struct Reader<'a> {
    file: &'a Arc<PathBuf>,
    manifest: Manifest,
}

impl Reader<'_> {
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
        let Some(kind) = Kind::parse(api_version, kind) else {
            debug!("{file}:{line}: {api_version} {kind}: not a kind that weir reads: ignored");
            return;
        };
        let metadata = value.get("metadata").unwrap_or(&Value::Null);
        let name = text_at(metadata, "name");
        let namespace = match text_at(metadata, "namespace") {
            _ if kind == Kind::Node => "",
            "" => "default",
            own => own,
        };
        if !is_name(name) || !(is_name(namespace) || kind == Kind::Node) {
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
