//! Network namespaces: entered by threads, because sockets stay where they were made.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its namespaces.
const NAMED: &str = "/run/netns";
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A network namespace, kept alive by this handle.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// The one of the calling thread. Its name is empty.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn current() -> Result<Namespace> {
        Self::open_file(String::new(), Path::new(CURRENT))
    }

    /// A namespace by its path, or by its name for `ip netns`; an empty name is the current one.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open(name: &str) -> Result<Namespace> {
        match name {
            "" => Self::current(),
            path if path.contains('/') => {
                let last = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
                Self::open_file(last.into_owned(), Path::new(path))
            }
            name => Self::open_file(name.into(), &PathBuf::from(NAMED).join(name)),
        }
    }

    fn open_file(name: String, path: &Path) -> Result<Namespace> {
        let file = File::open(path)
            .with_context(|| format!("network namespace {}: see `ip netns`", path.display()))?;
        Ok(Namespace { name, file: Arc::new(file) })
    }

    /// Moves the calling thread here.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn move_in(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering network namespace {self} (CAP_SYS_ADMIN)"))
    }

    /// Does `work` on a thread inside.
    ///
    /// # Errors
    /// If the thread cannot get in, or the work's own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.move_in()?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.name.is_empty() { "(current)" } else { &self.name })
    }
}

/// An interface in a namespace: `NAMESPACE:INTERFACE`, or `INTERFACE` in the current one.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: Namespace,
    pub interface: String,
}

impl Place {
    /// Opens the namespace; the interface is not looked at.
    ///
    /// # Errors
    /// If there is no such namespace.
    pub fn parse(text: &str) -> Result<Place> {
        let (namespace, interface) = text.rsplit_once(':').unwrap_or(("", text));
        Ok(Place { namespace: Namespace::open(namespace)?, interface: interface.into() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.name.as_str() {
            "" => f.write_str(&self.interface),
            name => write!(f, "{name}:{}", self.interface),
        }
    }
}
