//! [`Lab`]: owns hosts, links and processes, and removes them all.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use crate::{
    Error, Host, Impairment, Link, LinkOptions, Result, cleanup, command,
    forwarder::{self, Forwarder},
    host, interrupt, link, namespace,
    process::Child,
};

/// An interface group that only a teardown uses.
const DOOMED_GROUP: u32 = 0x7765_6972;

static NUMBER: AtomicU32 = AtomicU32::new(0);
static LIVE: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// A network of hosts in one machine. Dropping it kills its processes, then removes its links,
/// then its namespaces; hosts and processes that outlive it only give errors. When dropped by a
/// panic it first prints what its processes said.
///
/// `std::process::exit` drops nothing: leave `main` by returning.
#[derive(Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

impl Lab {
    /// Starts an empty lab, after removing what runs that no longer live left behind.
    ///
    /// # Errors
    /// A name other than `[a-z0-9]{1,40}`; a folder under /run that cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        check_name("lab", name, false)?;
        cleanup::remove_stale();
        interrupt::clean_up_on_abort();
        let prefix = match NUMBER.fetch_add(1, Ordering::Relaxed) {
            0 => cleanup::prefix(name, process::id()),
            number => cleanup::prefix(&format!("{name}.{number}"), process::id()),
        };
        let folder = cleanup::folder(&prefix);
        fs::create_dir_all(&folder).map_err(|source| Error::File {
            action: "make folder",
            path: folder.clone(),
            source,
        })?;
        let inner = Arc::new(Inner {
            prefix,
            folder,
            keep: AtomicBool::new(false),
            made: Mutex::new(Some(Made::default())),
        });
        let mut live = lock(&LIVE);
        live.retain(|lab| lab.strong_count() > 0);
        live.push(Arc::downgrade(&inner));
        Ok(Self { inner })
    }

    /// A new host: a network namespace `PREFIX-NAME`, also for `ip netns exec`, with `lo` up.
    /// Addresses are usable at once (no duplicate address detection), and forwarding and reverse
    /// path filters are off whatever this machine's defaults are.
    ///
    /// # Errors
    /// A name other than `[a-z0-9-]{1,40}` or in use; missing privileges.
    pub fn host(&self, name: &str) -> Result<Host> {
        check_name("host", name, true)?;
        let namespace = format!("{}-{name}", self.inner.prefix);
        self.inner.with_made(|made| {
            if made.namespaces.contains(&namespace) {
                return Err(Error::HostExists { lab: self.prefix().into(), host: name.into() });
            }
            namespace::add(&namespace)?;
            made.namespaces.push(namespace.clone());
            Ok(())
        })?;
        let host = Host::new(self.inner.clone(), name, namespace);
        host::prepare(&host)?;
        Ok(host)
    }

    /// A veth pair: `interface_a` in host `a` and `interface_b` in host `b`, both up.
    ///
    /// # Errors
    /// What `ip link` says, for instance for a name in use or over 15 characters.
    pub fn link(
        &self,
        a: &Host,
        interface_a: &str,
        b: &Host,
        interface_b: &str,
        options: &LinkOptions,
    ) -> Result<()> {
        link::add(&self.inner, (a, interface_a), (b, interface_b), options)?;
        a.ip(&format!("link set dev {interface_a} up"))?;
        b.ip(&format!("link set dev {interface_b} up")).map(drop)
    }

    /// Like [`Lab::link`], but every frame passes a forwarder in this process that loses, delays,
    /// duplicates and reorders, decided by `seed` and the count of frames in each direction: one
    /// seed gives one history. Print the seed (the link's `Display` has it).
    ///
    /// Segmentation and checksum offloads are off at both ends, so frames are whole and complete.
    /// Fit for some 100,000 frames/s. It forwards while this process lives, [`Lab::keep`] or not.
    ///
    /// # Errors
    /// What `ip link` or `ethtool` say; an impairment outside its bounds.
    #[allow(clippy::too_many_arguments, reason = "Lab::link and what to do to its frames")]
    pub fn impaired_link(
        &self,
        a: &Host,
        interface_a: &str,
        b: &Host,
        interface_b: &str,
        options: &LinkOptions,
        seed: u64,
        impairment: Impairment,
    ) -> Result<Link> {
        let ends = [(a, interface_a), (b, interface_b)];
        forwarder::start(self, ends, options, seed, impairment)
    }

    /// What all namespaces of this lab start with: `weir-NAME-PID`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// A folder of this lab for sockets, configuration and the like, removed with the lab; the
    /// output of spawned processes is here too.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// A name for a folder of pinned eBPF objects, in the machine's bpffs. Whoever pins makes it;
    /// it is removed with the lab.
    #[must_use]
    pub fn pin_folder(&self) -> PathBuf {
        cleanup::pin_folder(&self.inner.prefix)
    }

    /// Leaves everything up when this lab is dropped, processes too, until
    /// [`remove_kept`](crate::remove_kept).
    pub fn keep(&self) {
        self.inner.keep.store(true, Ordering::Relaxed);
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.inner.print_output();
        }
        self.inner.tear_down();
    }
}

/// Tears down every lab of this process: it is about to die without dropping them.
pub(crate) fn tear_down_all() {
    let live: Vec<_> = lock(&LIVE).iter().filter_map(Weak::upgrade).collect();
    for lab in live {
        lab.tear_down();
    }
}

/// A lab as its hosts, links and processes see it.
#[derive(Debug)]
pub(crate) struct Inner {
    prefix: String,
    folder: PathBuf,
    keep: AtomicBool,
    /// None once torn down. Whatever is made is made under this lock, so that nothing can appear
    /// behind a teardown.
    made: Mutex<Option<Made>>,
}

/// Everything to remove, in the order of its making.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) namespaces: Vec<String>,
    /// One end of each veth pair: (namespace, interface).
    pub(crate) links: Vec<(String, String)>,
    pub(crate) children: Vec<Arc<Child>>,
    pub(crate) forwarders: Vec<Arc<Forwarder>>,
    /// How many `wire` namespaces have been named.
    pub(crate) wires: usize,
}

impl Inner {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn keeps(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }

    /// Makes something and notes it in one step.
    pub(crate) fn with_made<T>(&self, make: impl FnOnce(&mut Made) -> Result<T>) -> Result<T> {
        let mut made = lock(&self.made);
        match made.as_mut() {
            Some(made) => make(made),
            None => Err(Error::TornDown { lab: self.prefix.clone() }),
        }
    }

    fn print_output(&self) {
        if let Some(made) = lock(&self.made).as_ref() {
            for child in &made.children {
                eprintln!("--- {} said:\n{}", child.label(), child.output_tail());
            }
        }
    }

    /// Idempotent, never fails: what cannot be removed is named on stderr. Who comes second waits
    /// until the first is done: after it the process may end.
    fn tear_down(&self) {
        let mut guard = lock(&self.made);
        let Some(made) = guard.take() else { return };
        for forwarder in &made.forwarders {
            forwarder.stop();
        }
        if self.keeps() {
            cleanup::mark_kept(&self.folder);
            return;
        }
        for child in &made.children {
            child.kill();
        }
        namespace::kill_inside(&made.namespaces);
        cleanup::unpin(&self.prefix);
        delete_links(&made.links);
        for name in &made.namespaces {
            if let Err(error) = namespace::delete(name) {
                eprintln!("lab {}: {error}", self.prefix);
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("lab {}: cannot remove {}: {error}", self.prefix, self.folder.display());
        }
    }
}

/// Removes veths now, not when the kernel gets round to a dead namespace: a socket that is still
/// open somewhere keeps a namespace, and everything in it, alive. All of a host go as one group:
/// each alone would wait some 15 ms for the kernel's readers.
fn delete_links(links: &[(String, String)]) {
    let mut batches: BTreeMap<&str, String> = BTreeMap::new();
    for (namespace, interface) in links {
        let batch = batches.entry(namespace).or_default();
        let _ = writeln!(batch, "link set dev {interface} group {DOOMED_GROUP}");
    }
    for (namespace, lines) in batches {
        let lines = format!("{lines}link delete group {DOOMED_GROUP}\n");
        command::ip_batch_ignoring_errors(namespace, &lines);
    }
}

fn check_name(what: &'static str, name: &str, dash: bool) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || (dash && c == '-');
    if (1..=40).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    Err(Error::Name { what, name: name.into(), extra: if dash { " and -" } else { "" } })
}

/// Locks also after a panic elsewhere: cleaning up matters more then, not less.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
