//! The objects of many manifest files together: who defines what, and what stays while a file is
//! broken. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Batch;
use super::manifest::{Manifest, read_changed_manifest};
use crate::model::{Object, ObjectKey, Origin, Problem, Severity};

/// Files and the objects that follow from them.
#[derive(Debug, Default)]
pub struct ManifestStore {
    files: BTreeMap<Arc<PathBuf>, Manifest>,
    /// Files that define a key; the first in order of the path counts.
    definers: BTreeMap<ObjectKey, BTreeSet<Arc<PathBuf>>>,
    contested: BTreeSet<ObjectKey>,
    /// What was last reported by [`Self::settle`].
    live: BTreeMap<ObjectKey, Object>,
    touched: BTreeSet<ObjectKey>,
}

impl ManifestStore {
    /// Takes the new text of a file, or why it cannot be read.
    ///
    /// An object that the file defined before and now defines wrongly keeps its earlier version,
    /// and so does everything that may be hidden in a broken part: saving half a file withdraws
    /// nothing.
    pub fn put_file(&mut self, path: &Path, text: Result<&str, String>) {
        let path = Arc::new(path.to_owned());
        let old = self.files.remove(&path).unwrap_or_default();
        let mut new = match text {
            Ok(text) => read_changed_manifest(&path, text, &old),
            Err(reason) => unreadable(&path, reason),
        };
        keep_earlier(&old, &mut new);
        for key in old.objects.keys().filter(|key| !new.objects.contains_key(key)) {
            self.remove_definer(key, &path);
        }
        for (key, (_, object)) in &new.objects {
            if old.objects.get(key).is_none_or(|(_, earlier)| earlier != object) {
                self.touched.insert(key.clone());
            }
            let definers = self.definers.entry(key.clone()).or_default();
            definers.insert(path.clone());
            if definers.len() > 1 {
                self.contested.insert(key.clone());
            }
        }
        self.files.insert(path, new);
    }

    /// Forgets a file that is gone, and its objects.
    pub fn remove_file(&mut self, path: &Path) {
        let path = Arc::new(path.to_owned());
        let old = self.files.remove(&path).unwrap_or_default();
        for key in old.objects.keys() {
            self.remove_definer(key, &path);
        }
    }

    /// What changed since the last call, and every problem that exists now.
    pub fn settle(&mut self) -> Batch {
        let mut batch = Batch { problems: self.list_problems(), ..Batch::default() };
        for key in std::mem::take(&mut self.touched) {
            let object = self.definition(&key).map(|(_, object)| object.clone());
            match object {
                Some(object) if self.live.get(&key) != Some(&object) => {
                    self.live.insert(key, object.clone());
                    batch.upserts.push(object);
                }
                Some(_) => {}
                None => {
                    if self.live.remove(&key).is_some() {
                        batch.removes.push(key);
                    }
                }
            }
        }
        batch
    }

    fn remove_definer(&mut self, key: &ObjectKey, path: &Arc<PathBuf>) {
        self.touched.insert(key.clone());
        let Some(definers) = self.definers.get_mut(key) else { return };
        definers.remove(path);
        if definers.len() < 2 {
            self.contested.remove(key);
        }
        if definers.is_empty() {
            self.definers.remove(key);
        }
    }

    fn definition(&self, key: &ObjectKey) -> Option<&(Origin, Object)> {
        self.files.get(self.definers.get(key)?.first()?)?.objects.get(key)
    }

    fn list_problems(&self) -> Vec<Problem> {
        let in_files = self.files.values().flat_map(|file| file.problems.iter().cloned());
        let mut problems: Vec<Problem> = in_files.collect();
        for key in &self.contested {
            let Some((first, _)) = self.definition(key) else { continue };
            for path in self.definers[key].iter().skip(1) {
                let origin = self.files[path].objects[key].0.clone();
                problems.push(Problem {
                    location: Some(origin),
                    object: key.to_string(),
                    reason: format!("already defined at {first}: that one stays"),
                    severity: Severity::Refused,
                });
            }
        }
        problems.sort();
        problems
    }
}

fn unreadable(path: &Path, reason: String) -> Manifest {
    let object = path.display().to_string();
    let problem = Problem { location: None, object, reason, severity: Severity::Refused };
    Manifest { is_broken: true, problems: vec![problem], ..Manifest::default() }
}

fn keep_earlier(old: &Manifest, new: &mut Manifest) {
    let mut kept = Vec::new();
    for (key, earlier) in &old.objects {
        let is_hidden = new.is_broken || new.refused.contains(key);
        if is_hidden && !new.objects.contains_key(key) {
            new.objects.insert(key.clone(), earlier.clone());
            kept.push(key.to_string());
        }
    }
    if kept.is_empty() {
        return;
    }
    let names: BTreeSet<&String> = kept.iter().collect();
    for problem in &mut new.problems {
        let is_refusal = problem.severity == Severity::Refused;
        if is_refusal && names.contains(&problem.object) {
            problem.reason += "; the version before stays";
        } else if is_refusal && new.is_broken && is_about_text(problem) {
            problem.reason += &format!("; staying as before: {}", list_some(&kept));
        }
    }
}

/// Not about an object that could be identified.
fn is_about_text(problem: &Problem) -> bool {
    problem.object.is_empty() || problem.location.is_none()
}

fn list_some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
