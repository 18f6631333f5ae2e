//! Where everything is: programs in the cache, and one folder of state per cluster.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};

/// What is kept between runs: `$WEIR_CACHE`, or `weir` in the user's cache.
pub fn cache() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("WEIR_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("weir")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/weir")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/weir"))
}

/// A program that `cluster/go/build` built.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = cache().join("cluster/bin").join(name);
    fs::metadata(&path)
        .with_context(|| format!("{} is not built: run `scripts/cluster build`", path.display()))?;
    Ok(path)
}

/// The state of one cluster, gone after `down`.
#[derive(Clone, Debug)]
pub struct State {
    pub name: String,
    pub folder: PathBuf,
}

impl State {
    pub fn of(name: &str) -> Self {
        Self { name: name.into(), folder: Self::parent().join(name) }
    }

    /// The folder of all clusters' states.
    pub fn parent() -> PathBuf {
        cache().join("cluster/state")
    }

    /// What the supervisor made, once it has; see [`crate::cluster::Cluster`].
    pub fn cluster(&self) -> PathBuf {
        self.folder.join("cluster.json")
    }

    /// Which process supervises.
    pub fn supervisor(&self) -> PathBuf {
        self.folder.join("supervisor.json")
    }

    /// Where the supervisor listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("supervisor.sock")
    }

    /// Of a program, by its name.
    pub fn log(&self, program: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{program}.log"))
    }

    pub fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// Of a user: `admin`, `scheduler`, `node-1`...
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    /// What a node has of its own.
    pub fn node(&self, node: &str) -> PathBuf {
        self.folder.join(node)
    }

    /// Below each controller's mount: all of this cluster's processes on its nodes.
    pub fn cgroup(&self) -> String {
        format!("weir-cluster-{}", self.name)
    }

    /// Of the lab that holds the namespaces and links.
    pub fn lab(&self) -> String {
        format!("cluster{}", self.name)
    }
}
