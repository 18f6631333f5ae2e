//! Pinned links: one file per program on an interface.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::links::{FdLink, PinnedLink};
use weir_xdp_redirect::program;

use super::{AttachError, Interface, bpffs, tc};

/// What a program does on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Uplink,
    TrunkIn,
    TrunkOut,
    PortIn,
    PortOut,
}

/// How it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Native,
    Generic,
    Tcx,
    /// No link to pin: the program is pinned instead, as a note of where it sits.
    Clsact,
}

impl Role {
    const ALL: [Self; 5] =
        [Self::Uplink, Self::TrunkIn, Self::TrunkOut, Self::PortIn, Self::PortOut];

    /// The program's name in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Uplink => program::UPLINK,
            Self::TrunkIn => program::TRUNK_IN,
            Self::TrunkOut => program::TRUNK_OUT,
            Self::PortIn => program::PORT_IN,
            Self::PortOut => program::PORT_OUT,
        }
    }

    /// In the name of a pin. A bpffs allows no dots.
    const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::TrunkIn => "trunk_in",
            Self::TrunkOut => "trunk_out",
            Self::PortIn => "port_in",
            Self::PortOut => "port_out",
        }
    }
}

impl Hook {
    const ALL: [Self; 4] = [Self::Native, Self::Generic, Self::Tcx, Self::Clsact];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// The directory of pinned links.
pub struct Links {
    dir: PathBuf,
}

/// A pin's name, read back.
struct Pin {
    path: PathBuf,
    role: Role,
    hook: Hook,
    ifindex: u32,
}

impl Links {
    pub fn open(pin_dir: &Path) -> Result<Self, AttachError> {
        let dir = bpffs::links_dir(pin_dir);
        fs::create_dir_all(&dir).map_err(|e| pin_error(&dir, "making the directory", e))?;
        Ok(Self { dir })
    }

    pub fn path(&self, role: Role, hook: Hook, ifindex: u32) -> PathBuf {
        self.dir.join(format!("{}-{}-{ifindex}", role.name(), hook.name()))
    }

    /// The link that an earlier process pinned here.
    pub fn load(
        &self,
        role: Role,
        hook: Hook,
        ifindex: u32,
    ) -> Result<Option<FdLink>, AttachError> {
        let path = self.path(role, hook, ifindex);
        if !path.exists() {
            return Ok(None);
        }
        let link =
            PinnedLink::from_pin(&path).map_err(|e| pin_error(&path, "opening a link", e))?;
        Ok(Some(link.into()))
    }

    /// Pins a new link. Its descriptor is closed: only the pin keeps it.
    pub fn pin(
        &self,
        role: Role,
        hook: Hook,
        ifindex: u32,
        link: FdLink,
    ) -> Result<(), AttachError> {
        let path = self.path(role, hook, ifindex);
        link.pin(&path).map(drop).map_err(|e| pin_error(&path, "pinning a link", e))
    }

    /// Removes a pin, and with it the attachment, if no process holds the link.
    pub fn unpin(&self, role: Role, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        let path = self.path(role, hook, ifindex);
        if path.exists() {
            fs::remove_file(&path).map_err(|e| pin_error(&path, "removing a link", e))?;
        }
        Ok(())
    }

    /// Detaches whatever is on an interface.
    pub fn remove_of(&self, ifindex: u32) -> Result<(), AttachError> {
        self.pins()?.iter().filter(|pin| pin.ifindex == ifindex).try_for_each(remove)
    }

    /// Detaches everything.
    pub fn remove_all(&self) -> Result<(), AttachError> {
        self.pins()?.iter().try_for_each(remove)
    }

    /// Removes the pins of interfaces that are gone from this namespace.
    pub fn prune(&self) -> Result<(), AttachError> {
        for pin in self.pins()? {
            if let Err(AttachError::NoInterface { .. }) = Interface::by_index(pin.ifindex) {
                tracing::info!(pin = %pin.path.display(), "removed: its interface is gone");
                remove(&pin)?;
            }
        }
        Ok(())
    }

    /// All pins whose name is one of ours.
    fn pins(&self) -> Result<Vec<Pin>, AttachError> {
        Ok(bpffs::entries(&self.dir)?.into_iter().filter_map(Pin::parse).collect())
    }
}

impl Pin {
    fn parse(path: PathBuf) -> Option<Self> {
        let (role, hook, ifindex) = {
            let mut parts = path.file_name()?.to_str()?.split('-');
            (parts.next()?, parts.next()?, parts.next()?.parse().ok()?)
        };
        let role = Role::ALL.into_iter().find(|known| known.name() == role)?;
        let hook = Hook::ALL.into_iter().find(|known| known.name() == hook)?;
        Some(Self { path, role, hook, ifindex })
    }
}

fn remove(pin: &Pin) -> Result<(), AttachError> {
    if pin.hook == Hook::Clsact {
        tc::detach_clsact(pin.role, pin.ifindex)?;
    }
    fs::remove_file(&pin.path).map_err(|e| pin_error(&pin.path, "removing a link", e))
}

pub fn pin_error(
    path: &Path,
    action: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> AttachError {
    AttachError::Pin { path: path.to_owned(), action, source: Box::new(source) }
}
