//! helm, where it is built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What must be set.
const REQUIRED: &str = "apiServer.host=192.0.2.1";
const KUBERNETES: &str = "1.36.1";

/// A helm that runs.
pub struct Helm(PathBuf);

/// Finds helm where `cluster/go/build` puts it, or on the PATH; says so if there is none.
pub fn find() -> Option<Helm> {
    let cache = env::var_os("WEIR_CACHE").map(PathBuf::from).or_else(|| {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
        Some(cache?.join("weir"))
    });
    let built = cache.map(|it| it.join("cluster/bin/helm")).filter(|it| it.exists());
    let helm = built.unwrap_or_else(|| "helm".into());
    if Command::new(&helm).arg("version").output().is_err() {
        println!("skipped: helm is not there: run cluster/go/build helm");
        return None;
    }
    Some(Helm(helm))
}

impl Helm {
    /// This crate's folder.
    pub fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    pub fn chart() -> PathBuf {
        Self::root().join("helm/weir")
    }

    /// The manifests as text, or helm's complaint.
    pub fn template(&self, values: &[&str]) -> Result<String, String> {
        let mut all = vec![REQUIRED];
        all.extend(values);
        self.template_exactly(&all)
    }

    /// The same without what must be set.
    pub fn template_exactly(&self, values: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.0);
        command.args(["template", "weir"]).arg(Self::chart());
        command.args(["--namespace", "weir-system", "--kube-version", KUBERNETES]);
        command.args(values.iter().flat_map(|it| ["--set", it]));
        read(&command.output().unwrap())
    }

    /// The manifests as objects.
    pub fn render(&self, values: &[&str]) -> Result<Vec<Value>, String> {
        let text = self.template(values)?;
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|it| it.to_string())?;
        Ok(objects.into_iter().filter(|it| !it.is_null()).collect())
    }

    pub fn lint(&self) -> Result<String, String> {
        let mut command = Command::new(&self.0);
        command.args(["lint", "--strict", "--kube-version", KUBERNETES, "--set", REQUIRED]);
        let said = read(&command.arg(Self::chart()).output().unwrap())?;
        match said.contains("[WARNING]") {
            true => Err(said),
            false => Ok(said),
        }
    }
}

fn read(output: &Output) -> Result<String, String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{}{said}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// `Kind name` of an object.
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// The object of this kind and name.
pub fn pick<'a>(objects: &'a [Value], wanted: &str) -> &'a Value {
    let found = objects.iter().find(|it| name(it) == wanted);
    found.unwrap_or_else(|| panic!("no {wanted}"))
}

/// A list, empty if it is not there.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Texts of a list.
pub fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(|it| it.as_str().unwrap()).collect()
}
