//! Work inside another network namespace, on a thread of its own.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{CniError, INVALID_ENVIRONMENT, KERNEL};

/// A container's network namespace, open.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: String,
}

impl Namespace {
    /// Opens the file of a namespace; `None` where there is none (any more).
    ///
    /// # Errors
    /// The file is no namespace, or the one that this process is in.
    pub fn open(path: &Path) -> Result<Option<Self>, CniError> {
        let shown = path.display().to_string();
        let wrong = |reason: String, details: &str| {
            CniError::new(INVALID_ENVIRONMENT, format!("CNI_NETNS={shown}: {reason}"), details)
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(wrong(format!("cannot open: {error}"), "is it a network namespace?"));
            }
        };
        let identity = |it: io::Result<std::fs::Metadata>| it.ok().map(|it| (it.dev(), it.ino()));
        let own = identity(std::fs::metadata("/proc/self/ns/net"));
        if own.is_some() && identity(file.metadata()) == own {
            let details = "a pod with hostNetwork needs no CNI plugin: give a namespace of its own";
            return Err(wrong("is the host's own network namespace".into(), details));
        }
        Ok(Some(Self { file, path: shown }))
    }

    /// For the kernel.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` inside, in a runtime of its own.
    ///
    /// # Errors
    /// The namespace cannot be entered (a file that is none); what `work` says.
    pub fn run<T, F>(&self, work: impl FnOnce() -> F + Send) -> Result<T, CniError>
    where
        T: Send,
        F: Future<Output = Result<T, CniError>>,
    {
        let failed = |error: io::Error| {
            let message = format!("cannot enter {}: {error}", self.path);
            CniError::new(INVALID_ENVIRONMENT, message, "give the file of a network namespace")
        };
        let inside = || {
            // The thread ends with this, so nothing has to be put back.
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.file.as_fd(), network)
                .map_err(|it| failed(it.into()))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(failed)?.block_on(work())
        };
        let panicked = |_| CniError::new(KERNEL, "a thread panicked", "report this as a bug");
        thread::scope(|scope| {
            let thread = thread::Builder::new().spawn_scoped(scope, inside).map_err(failed)?;
            thread.join().map_err(panicked)?
        })
    }
}
