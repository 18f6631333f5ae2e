//! [`Host`]: one network namespace and what is done inside it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use nix::ifaddrs::getifaddrs;

use crate::{Error, Process, Result, command, lab::Inner, namespace, process};

/// A handle to one host of a lab; cheap to clone, useless once the lab is gone.
#[derive(Clone, Debug)]
pub struct Host {
    lab: Arc<Inner>,
    name: String,
    namespace: String,
}

/// An interface as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub mac: [u8; 6],
}

impl Host {
    pub(crate) fn new(lab: Arc<Inner>, name: &str, namespace: String) -> Self {
        Self { lab, name: name.into(), namespace }
    }

    /// The name within the lab, such as `client`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name for `ip netns exec`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The file that stands for the namespace, for programs that take one.
    #[must_use]
    pub fn namespace_path(&self) -> PathBuf {
        namespace::path(&self.namespace)
    }

    /// `ip ARGUMENTS` in this host, split at white space: `host.ip("link set eth0 down")`.
    ///
    /// # Errors
    /// [`Error::Command`] with what `ip` said.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::ip(&format!("-n {} {arguments}", self.namespace))
    }

    /// Adds an address with its prefix length, IPv4 or IPv6, usable at once.
    ///
    /// # Errors
    /// [`Error::Command`] with what `ip` said.
    pub fn addr(&self, interface: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {interface} {nodad}")).map(drop)
    }

    /// Adds or replaces a route in `ip route` words: `"default via 10.0.0.1"`. One without any
    /// IPv6 address in it is an IPv4 route; for others use [`Host::ip`].
    ///
    /// # Errors
    /// [`Error::Command`] with what `ip` said.
    pub fn route(&self, route: &str) -> Result<()> {
        let family = if route.contains(':') { "-6" } else { "-4" };
        self.ip(&format!("{family} route replace {route}")).map(drop)
    }

    /// Adds or replaces a permanent neighbour.
    ///
    /// # Errors
    /// [`Error::Command`] with what `ip` said.
    pub fn neighbour(&self, interface: &str, address: &str, mac: [u8; 6]) -> Result<()> {
        let mac = format_mac(mac);
        let entry = format!("neigh replace {address} lladdr {mac} dev {interface} nud permanent");
        self.ip(&entry).map(drop)
    }

    /// `ethtool ARGUMENTS` in this host: `host.ethtool("-K eth0 tx off")`.
    ///
    /// # Errors
    /// [`Error::Command`] with what `ethtool` said.
    pub fn ethtool(&self, arguments: &str) -> Result<String> {
        self.run(std::iter::once("ethtool").chain(arguments.split_whitespace()))
    }

    /// Writes a sysctl of this namespace, dots or slashes: `"net.ipv4.ip_forward"`. An interface
    /// name with a dot needs slashes.
    ///
    /// # Errors
    /// [`Error::File`] naming the file under /proc/sys.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.sysctls(&[(key, value)])
    }

    /// Index and MAC address of an interface.
    ///
    /// # Errors
    /// [`Error::NoInterface`].
    pub fn interface(&self, name: &str) -> Result<Interface> {
        let found = self.enter(|| {
            let addresses = getifaddrs().ok()?;
            let mut links = addresses.filter(|entry| entry.interface_name == name);
            links.find_map(|entry| {
                let address = entry.address?;
                let link = address.as_link_addr()?;
                let index = u32::try_from(link.ifindex()).ok()?;
                Some(Interface { index, mac: link.addr()? })
            })
        })?;
        let namespace = self.namespace.clone();
        found.ok_or_else(|| Error::NoInterface { namespace, interface: name.into() })
    }

    /// Runs a program to its end and gives its standard output: `host.run(["ip", "route"])`.
    ///
    /// # Errors
    /// [`Error::Start`]; [`Error::Command`] with its standard error when it fails.
    pub fn run<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Result<String> {
        let mut command = command_of(words);
        self.enter(|| command::run(&mut command))?
    }

    /// Runs a program to its end whatever its exit status.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn output<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Result<Output> {
        let mut command = command_of(words);
        self.enter(|| command::output(&mut command))?
    }

    /// Starts a program in this host. Its standard input is empty, its outputs go to files in the
    /// lab's folder ([`Process::stdout`]).
    ///
    /// Only the network namespace changes: /sys is the machine's (and /sys/fs/bpf shared). A
    /// program that reads /sys/class/net is started as `ip netns exec NAMESPACE PROGRAM`.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::TornDown`].
    pub fn spawn(&self, command: Command) -> Result<Process> {
        process::spawn(&self.lab, &self.name, &self.namespace, command)
    }

    /// Runs `work` on a new thread inside this host. Sockets, threads and processes made by it
    /// stay in the host for good; a panic continues in the caller.
    ///
    /// # Errors
    /// [`Error::Enter`].
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        namespace::enter(&self.namespace, work)
    }

    fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                let key = if key.contains('/') { (*key).into() } else { key.replace('.', "/") };
                let path = Path::new("/proc/sys").join(key);
                fs::write(&path, value).map_err(|source| Error::File {
                    action: "write",
                    path,
                    source,
                })
            })
        })?
    }
}

/// A fresh namespace takes some IPv4 settings from the machine; a lab is the same everywhere.
pub(crate) fn prepare(host: &Host) -> Result<()> {
    host.sysctls(&[
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        // Link-local addresses too are usable at once.
        ("net.ipv6.conf.all.accept_dad", "0"),
        ("net.ipv6.conf.default.accept_dad", "0"),
    ])?;
    host.ip("link set dev lo up").map(drop)
}

/// In the form of `ip link`.
pub(crate) fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn command_of<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Command {
    let mut words = words.into_iter();
    let mut command = match words.next() {
        Some(program) => Command::new(program),
        None => Command::new(""),
    };
    command.args(words);
    command
}
