//! `kubectl weir` with a `kubectl` that records what it is asked, answers with files, and for
//! `exec` runs the real `weir` against a folder of sockets named as the pod.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::WEIR;

/// Under its folder: `calls`, `pods.json`, `pod.json`, and a folder for each pod.
const SCRIPT: &str = r#"#!/bin/sh
printf '%s\n' "$*" >> "$FAKE/calls"
case " $* " in
*" get pods -l "*) exec cat "$FAKE/pods.json" ;;
*" get pod "*) exec cat "$FAKE/pod.json" ;;
*" --previous"*) echo "Error: previous terminated container \"agent\" not found" >&2; exit 1 ;;
*" logs "*) echo "a line of a log"; exit 0 ;;
*" exec "*) ;;
*" get ciliumcidrgroups "*) echo "error: no such resource type" >&2; exit 1 ;;
*) echo "items: []"; exit 0 ;;
esac
while [ "$1" != exec ]; do shift; done
pod=$2
while [ "$1" != weir ]; do shift; done
shift
if [ -e "$FAKE/$pod/hang" ]; then exec sleep 30; fi
if [ -e "$FAKE/$pod/slow" ]; then
    echo start >> "$FAKE/overlap"; sleep 0.5; echo end >> "$FAKE/overlap"
fi
"$WEIR" --run-dir "$FAKE/$pod" "$@"
code=$?
[ $code = 0 ] || echo "command terminated with exit code $code" >&2
exit $code
"#;

/// The fake, in a folder of its own.
pub struct FakeKubectl {
    folder: tempfile::TempDir,
}

impl FakeKubectl {
    /// One that knows these pods; for a pod's folder see [`Self::pod_folder`].
    pub fn new(pods: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Self { folder };
        fs::create_dir(fake.path("bin")).unwrap();
        fs::write(fake.path("bin/kubectl"), SCRIPT).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(fake.path("bin/kubectl"), mode).unwrap();
        symlink(WEIR, fake.path("kubectl-weir")).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": pods});
        fs::write(fake.path("pods.json"), list.to_string()).unwrap();
        for pod in pods {
            fs::create_dir(fake.pod_folder(pod["metadata"]["name"].as_str().unwrap())).unwrap();
        }
        fake
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the sockets of a pod's processes are.
    pub fn pod_folder(&self, pod: &str) -> PathBuf {
        self.path(pod)
    }

    /// Runs `kubectl weir ARGUMENTS`.
    pub fn weir(&self, arguments: &[&str]) -> Output {
        self.weir_in(&format!("{}:/usr/bin:/bin", self.path("bin").display()), arguments)
    }

    /// The same, with another search path.
    pub fn weir_in(&self, search_path: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.path("kubectl-weir"));
        command.args(arguments).env("PATH", search_path).env("WEIR", WEIR);
        command.env("FAKE", self.folder.path()).current_dir(self.folder.path());
        command.output().unwrap()
    }

    /// What kubectl was asked so far, a line each.
    pub fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

/// A weir pod, as kubectl shows it, whose containers are in these states.
pub fn pod(name: &str, node: &str, agent: &Value, dataplane: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "weir-system", "labels": {"a": "b"}},
        "spec": {"nodeName": node, "containers": []},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "dataplane", "ready": true, "restartCount": 0, "state": dataplane},
                {"name": "agent", "ready": true, "restartCount": 2, "state": agent},
            ],
        },
    })
}

/// One where all is well.
pub fn running_pod(name: &str, node: &str) -> Value {
    pod(name, node, &running(), &running())
}

pub fn running() -> Value {
    json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
}

/// A container that is not up.
pub fn waiting(reason: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": "see the events"}})
}

/// Standard output and standard error, without the fake's folder.
pub fn texts(fake: &FakeKubectl, output: &Output) -> (String, String) {
    let folder = |it: &Path| it.display().to_string();
    let clean = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).unwrap().replace(&folder(fake.folder.path()), "FAKE")
    };
    (clean(&output.stdout), clean(&output.stderr))
}
