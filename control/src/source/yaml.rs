//! YAML (and JSON, which is YAML) to values, keeping the line of everything.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_saphyr::MessageFormatter;
use serde_saphyr::granit_parser::{Event, Parser};

/// One document of a file that may hold several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'text> {
    /// Lines of the file before the document's text.
    pub lines_before: usize,
    /// Line, from 1, of its first content.
    pub first_line: usize,
    text: Cow<'text, str>,
}

/// Text that is not YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line of the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Splits a file at its document markers (YAML 1.2.2, 9.1), so that one bad document does not spoil
/// the others. Documents without content are left out.
#[must_use]
pub fn split_documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut start = Start { offset: 0, line: 0, has_marker: false };
    let mut offset = 0;
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let is_start = is_marker(content, "---");
        if is_start || is_marker(content, "...") {
            documents.extend(cut_document(&text[start.offset..offset], &start));
            // What follows `---` on its line belongs to the document; `...` ends its line.
            start = if is_start {
                Start { offset, line, has_marker: true }
            } else {
                Start { offset: offset + content.len(), line: line + 1, has_marker: false }
            };
        }
        offset += content.len();
    }
    documents.extend(cut_document(&text[start.offset..], &start));
    documents
}

struct Start {
    offset: usize,
    line: usize,
    has_marker: bool,
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn cut_document<'text>(text: &'text str, start: &Start) -> Option<Document<'text>> {
    // Blanks in place of the marker keep lines and columns as they are in the file.
    let text = match text.strip_prefix("---") {
        Some(rest) if start.has_marker => Cow::Owned(format!("   {rest}")),
        _ => Cow::Borrowed(text),
    };
    let is_content = |line: &str| {
        let line = line.trim_start_matches('\u{feff}').trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
    };
    let first = text.lines().position(is_content)?;
    Some(Document { lines_before: start.line, first_line: start.line + first + 1, text })
}

impl Document<'_> {
    /// Its text, with blanks in place of a marker before it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The document as a JSON value, which is how Kubernetes reads YAML.
    ///
    /// # Errors
    /// The first syntax error, with its line in the file. Duplicate keys are errors.
    pub fn parse(&self) -> Result<Value, SyntaxError> {
        serde_saphyr::from_str_with_options(&self.text, parse_options()).map_err(|error| {
            let line = error.location().map_or(1, |it| usize::try_from(it.line()).unwrap_or(1));
            let message = serde_saphyr::UserMessageFormatter.format_message(&error);
            SyntaxError {
                line: self.lines_before + line.max(1),
                reason: message.replace(char::is_control, " "),
            }
        })
    }

    /// Finds the line of every field.
    #[must_use]
    pub fn locate_fields(&self) -> FieldLines {
        let mut walk = Walk { lines: BTreeMap::new(), stack: Vec::new(), base: self.lines_before };
        for event in Parser::new_from_str(&self.text) {
            // A syntax error ends the walk: the fields before it keep their lines.
            let Ok((event, span)) = event else { break };
            walk.step(&event, span.start.line());
        }
        FieldLines { first_line: self.first_line, lines: walk.lines }
    }
}

/// Limits against hostile input stay; those on size are raised for `kubectl get -A -o yaml`.
fn parse_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 50_000_000,
            max_total_scalar_bytes: crate::source::file::FILE_BYTES_MAX,
        },
    }
}

/// Line of every field of one document, by path (`spec.ports[0].port`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldLines {
    first_line: usize,
    lines: BTreeMap<String, usize>,
}

impl FieldLines {
    /// The line of `path`, else of the nearest thing around it that exists, from 1.
    #[must_use]
    pub fn find(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.first_line,
            }
        }
    }
}

struct Walk {
    lines: BTreeMap<String, usize>,
    stack: Vec<Level>,
    base: usize,
}

struct Level {
    path: String,
    place: Place,
}

enum Place {
    /// In a mapping; the key whose value comes next, if its key has been read.
    Mapping(Option<String>),
    /// In a sequence, before this index.
    Sequence(usize),
}

impl Walk {
    fn step(&mut self, event: &Event<'_>, line: usize) {
        match event {
            Event::Scalar(text, ..) => self.visit_node(Some(text), line, None),
            Event::Alias(_) | Event::UnresolvedAlias(_) => self.visit_node(None, line, None),
            Event::MappingStart(..) => self.visit_node(None, line, Some(Place::Mapping(None))),
            Event::SequenceStart(..) => self.visit_node(None, line, Some(Place::Sequence(0))),
            Event::MappingEnd | Event::SequenceEnd => {
                self.stack.pop();
            }
            _ => {}
        }
    }

    fn visit_node(&mut self, scalar: Option<&str>, line: usize, opens: Option<Place>) {
        let path = match self.stack.last_mut() {
            None => Some(String::new()),
            Some(Level { path, place: Place::Sequence(index) }) => {
                let item = format!("{path}[{index}]");
                *index += 1;
                self.lines.insert(item.clone(), self.base + line);
                Some(item)
            }
            Some(Level { path, place: Place::Mapping(key) }) => match key.take() {
                Some(field) => Some(field),
                None => {
                    let name = scalar.unwrap_or("?");
                    let field =
                        if path.is_empty() { name.into() } else { format!("{path}.{name}") };
                    self.lines.insert(field.clone(), self.base + line);
                    *key = Some(field);
                    None
                }
            },
        };
        if let Some(place) = opens {
            // A mapping as a key has no path of its own.
            self.stack.push(Level { path: path.unwrap_or_else(|| "?".into()), place });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_lines() {
        let text = "# top\n---\na: 1\n--- # second\nb: |\n  --- not a marker\n...\n%YAML 1.2\n---\n\
                    \nc: [1,\n---\n--- {d: 2}\n---x: 1\n";
        let documents = split_documents(text);
        let lines: Vec<usize> = documents.iter().map(|it| it.first_line).collect();
        assert_eq!(lines, [3, 5, 11, 13]);
        assert_eq!(documents[0].parse().unwrap(), serde_json::json!({"a": 1}));
        assert_eq!(documents[1].parse().unwrap(), serde_json::json!({"b": "--- not a marker\n"}));
        assert!(documents[2].parse().unwrap_err().line >= 11);
        assert_eq!(documents[3].parse().unwrap_err().line, 14);
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark_are_fine() {
        let documents = split_documents("\u{feff}a: 1\r\n---\r\nb: 2\r\n");
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].parse().unwrap(), serde_json::json!({"a": 1}));
        assert_eq!(documents[1].first_line, 3);
    }

    #[test]
    fn duplicate_keys_are_refused_with_their_line() {
        let error = split_documents("x: 1\n---\na: 1\nb: 2\na: 3\n")[1].parse().unwrap_err();
        assert_eq!(error.line, 5, "{error:?}");
    }

    #[test]
    fn fields_are_found_by_path() {
        let text = "---\nspec:\n  ports:\n  - name: http\n    port: 80\n  - {name: x,\n     port: \
                    81}\nstatus: &s\n  a: b\nother: *s\n";
        let fields = split_documents(text)[0].locate_fields();
        assert_eq!(fields.find("spec.ports[0].port"), 5);
        assert_eq!(fields.find("spec.ports[1].port"), 7);
        assert_eq!(fields.find("spec.ports[1].missing"), 6);
        assert_eq!(fields.find("spec.ports[9].missing"), 3);
        assert_eq!(fields.find("other.a"), 10);
        assert_eq!(fields.find("nothing"), 2);
    }

    #[test]
    fn scalars_are_read_as_kubernetes_reads_them() {
        let value = split_documents("a: yes\nb: None\nc: 1.10\nd: ~\ne: \"on\"\nf: 0x10\n")[0]
            .parse()
            .unwrap();
        assert_eq!(value["a"], serde_json::json!("yes"));
        assert_eq!(value["b"], serde_json::json!("None"));
        assert_eq!(value["d"], Value::Null);
        assert_eq!(value["e"], serde_json::json!("on"));
    }
}
