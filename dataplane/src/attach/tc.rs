//! tc programs: as tcx links, or below Linux 6.6 as filters of a clsact qdisc.

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, Link, LinkError, LinkOrder},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
    util::KernelVersion,
};
use rustix::io::Errno;

use super::{
    AttachError, Interface,
    error::{chain, os_error},
    links::{Hook, Links, Role, pin_error},
};

/// Our place among the filters of a clsact qdisc: fixed, so that the next process finds it.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x77);

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    /// tcx: links that can be pinned; Linux 6.6.
    Tcx,
    /// A filter on a clsact qdisc, which stays until it is removed.
    Clsact,
}

impl TcHook {
    /// The better one that this kernel has.
    pub fn of_this_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }
}

/// Attaches a role's program to an interface, or replaces the one that is there.
pub fn attach(
    object: &mut Ebpf,
    links: &Links,
    hook: TcHook,
    role: Role,
    device: &Interface,
) -> Result<(), AttachError> {
    let program = loaded(object, role)?;
    match hook {
        TcHook::Tcx => attach_tcx(program, links, role, device),
        TcHook::Clsact => attach_clsact(program, links, role, device),
    }
}

/// The program, loaded into the kernel on first use.
fn loaded(object: &mut Ebpf, role: Role) -> Result<&mut SchedClassifier, AttachError> {
    let name = role.program();
    let error = |source| AttachError::Program { program: name, source: Box::new(source) };
    let program: &mut SchedClassifier = object
        .program_mut(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(TryInto::try_into)
        .map_err(error)?;
    if program.fd().is_err() {
        program.load().map_err(error)?;
    }
    Ok(program)
}

fn attach_tcx(
    program: &mut SchedClassifier,
    links: &Links,
    role: Role,
    device: &Interface,
) -> Result<(), AttachError> {
    let path = links.path(role, Hook::Tcx, device.ifindex);
    let failed = |error| attach_error(device, role, error);
    if let Some(link) = links.load(role, Hook::Tcx, device.ifindex)? {
        let link =
            SchedClassifierLink::try_from(link).map_err(|e| pin_error(&path, "using a link", e))?;
        match program.attach_to_link(link) {
            Ok(id) => return program.take_link(id).map(drop).map_err(failed),
            Err(error) if os_error(&error) == Some(Errno::NOLINK.raw_os_error()) => {
                links.unpin(role, Hook::Tcx, device.ifindex)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&device.name, direction(role), options).map_err(failed)?;
    let link: Result<FdLink, LinkError> = program.take_link(id).map_err(failed)?.try_into();
    let link = link.map_err(|e| pin_error(&path, "pinning a link", e))?;
    links.pin(role, Hook::Tcx, device.ifindex, link)
}

fn attach_clsact(
    program: &mut SchedClassifier,
    links: &Links,
    role: Role,
    device: &Interface,
) -> Result<(), AttachError> {
    let failed = |error| attach_error(device, role, error);
    match tc::qdisc_add_clsact(&device.name).map_err(ProgramError::from) {
        Err(error) if os_error(&error) != Some(Errno::EXIST.raw_os_error()) => {
            return Err(failed(error));
        }
        _ => {}
    }
    let link = clsact_link(role, device).map_err(|error| failed(ProgramError::IOError(error)))?;
    let id = match program.attach_to_link(link) {
        Err(error) if is_missing(&error) => {
            let options =
                NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(&device.name, direction(role), options).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    // Dropping it would remove the filter; it holds nothing else.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    links.unpin(role, Hook::Clsact, device.ifindex)?;
    let path = links.path(role, Hook::Clsact, device.ifindex);
    program.pin(&path).map_err(|e| pin_error(&path, "pinning a program", e))
}

/// Removes our filter; the interface or the filter may be gone already.
pub fn detach_clsact(role: Role, ifindex: u32) -> Result<(), AttachError> {
    let Ok(device) = Interface::by_index(ifindex) else { return Ok(()) };
    let link = clsact_link(role, &device)
        .map_err(|error| attach_error(&device, role, ProgramError::IOError(error)))?;
    match link.detach() {
        Err(error) if !is_missing(&error) => Err(attach_error(&device, role, error)),
        _ => Ok(()),
    }
}

fn clsact_link(role: Role, device: &Interface) -> std::io::Result<SchedClassifierLink> {
    let direction = direction(role);
    SchedClassifierLink::attached(&device.name, direction, CLSACT_PRIORITY, CLSACT_HANDLE, None)
}

fn direction(role: Role) -> TcAttachType {
    if role == Role::PortOut { TcAttachType::Egress } else { TcAttachType::Ingress }
}

/// What the kernel says when there is no such filter, chain or qdisc.
fn is_missing(error: &ProgramError) -> bool {
    let errno = os_error(error).map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::INVAL))
}

fn attach_error(device: &Interface, role: Role, source: ProgramError) -> AttachError {
    let hint = match os_error(&source).map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => "CAP_BPF and CAP_NET_ADMIN are needed",
        Some(Errno::NODEV) => "the interface is gone",
        Some(Errno::EXIST | Errno::BUSY) => "another program has our place on its tc hook",
        _ => "the kernel refused",
    };
    AttachError::Attach {
        device: device.clone(),
        program: role.program(),
        reason: format!("{hint} ({})", chain(&source)),
        source: Box::new(source),
    }
}
