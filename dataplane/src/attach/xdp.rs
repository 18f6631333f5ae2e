//! XDP programs: native, or generic where the driver refuses and it makes sense.

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp,
        links::{FdLink, LinkError},
        xdp::XdpLink,
    },
};
use rustix::io::Errno;

use super::{
    AttachError, Interface,
    error::{chain, os_error},
    links::{Hook, Links, Role, pin_error},
};

/// How XDP runs on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before a packet costs a buffer of the kernel's.
    Native,
    /// In the kernel's stack, after it: slower, and works with every driver.
    Generic,
}

/// What became of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkAttachment {
    /// The mode.
    pub mode: XdpMode,
    /// Why, in words for the user.
    pub reason: String,
}

/// Attaches the steering program, in the mode of the link that is already there if there is one.
pub fn attach_uplink(
    object: &mut Ebpf,
    links: &Links,
    device: &Interface,
) -> Result<UplinkAttachment, AttachError> {
    let role = Role::Uplink;
    let program = load(object, role)?;
    for (hook, mode) in [(Hook::Native, XdpMode::Native), (Hook::Generic, XdpMode::Generic)] {
        if replace(program, links, role, hook, device)? {
            let reason = "the program of an earlier process was replaced in its mode".into();
            return Ok(UplinkAttachment { mode, reason });
        }
    }
    let refusal = match create(program, links, role, Hook::Native, device) {
        Ok(()) => {
            let reason = "the driver supports it".into();
            return Ok(UplinkAttachment { mode: XdpMode::Native, reason });
        }
        Err(AttachError::Attach { source, .. }) if is_drivers_refusal(&source) => source,
        Err(error) => return Err(error),
    };
    let reason = reason_of(&refusal);
    tracing::warn!(%device, %reason, "native XDP refused, trying generic");
    create(program, links, role, Hook::Generic, device)?;
    Ok(UplinkAttachment { mode: XdpMode::Generic, reason })
}

/// Attaches to the inner end of a trunk. A veth runs XDP natively or not at all here: generic XDP
/// would cost more than the trunk saves.
pub fn attach_trunk_in(
    object: &mut Ebpf,
    links: &Links,
    inner: &Interface,
) -> Result<(), AttachError> {
    let program = load(object, Role::TrunkIn)?;
    if replace(program, links, Role::TrunkIn, Hook::Native, inner)? {
        return Ok(());
    }
    create(program, links, Role::TrunkIn, Hook::Native, inner)
}

fn load(object: &mut Ebpf, role: Role) -> Result<&mut Xdp, AttachError> {
    let name = role.program();
    let error = |source| AttachError::Program { program: name, source: Box::new(source) };
    let program: &mut Xdp = object
        .program_mut(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(TryInto::try_into)
        .map_err(error)?;
    program.load().map_err(error)?;
    Ok(program)
}

/// Puts the program behind a pinned link, if there is one whose interface lives.
fn replace(
    program: &mut Xdp,
    links: &Links,
    role: Role,
    hook: Hook,
    device: &Interface,
) -> Result<bool, AttachError> {
    let Some(link) = links.load(role, hook, device.ifindex)? else { return Ok(false) };
    let path = links.path(role, hook, device.ifindex);
    let link = XdpLink::try_from(link).map_err(|e| pin_error(&path, "using a link", e))?;
    match program.attach_to_link(link) {
        // Our descriptor closes; the pin keeps the link.
        Ok(id) => {
            program.take_link(id).map_err(|error| attach_error(device, role, error))?;
            Ok(true)
        }
        Err(error) if os_error(&error) == Some(Errno::NOLINK.raw_os_error()) => {
            links.unpin(role, hook, device.ifindex)?;
            Ok(false)
        }
        Err(error) => Err(attach_error(device, role, error)),
    }
}

fn create(
    program: &mut Xdp,
    links: &Links,
    role: Role,
    hook: Hook,
    device: &Interface,
) -> Result<(), AttachError> {
    let mode = match hook {
        Hook::Generic => aya::programs::XdpMode::Skb,
        _ => aya::programs::XdpMode::Driver,
    };
    let id = program
        .attach_to_if_index(device.ifindex, mode)
        .map_err(|error| attach_error(device, role, error))?;
    let path = links.path(role, hook, device.ifindex);
    let link: Result<FdLink, LinkError> =
        program.take_link(id).map_err(|error| attach_error(device, role, error))?.try_into();
    let link = link.map_err(|e| pin_error(&path, "pinning an XDP link (Linux 5.9 has them)", e))?;
    links.pin(role, hook, device.ifindex, link)
}

fn attach_error(device: &Interface, role: Role, source: ProgramError) -> AttachError {
    let errno = os_error(&source).map(Errno::from_raw_os_error);
    if matches!(errno, Some(Errno::BUSY | Errno::EXIST)) {
        return AttachError::Busy { device: device.clone() };
    }
    AttachError::Attach {
        device: device.clone(),
        program: role.program(),
        reason: reason_of(&source),
        source: Box::new(source),
    }
}

/// Whether generic XDP may still work.
fn is_drivers_refusal(error: &ProgramError) -> bool {
    let errno = os_error(error).map(Errno::from_raw_os_error);
    !matches!(errno, None | Some(Errno::PERM | Errno::ACCESS | Errno::NODEV))
}

/// The kernel's error number in words. Each driver has its own: these are of veth, ENA, virtio.
fn reason_of(error: &ProgramError) -> String {
    let errno = os_error(error).map(Errno::from_raw_os_error);
    let hint = match errno {
        Some(Errno::RANGE) => {
            "the MTU is too large for native XDP: lower it, on a veth that of the peer, to 3506"
        }
        Some(Errno::NOSPC) => {
            "too few receive queues: a veth needs as many as its peer has transmit queues \
             (ethtool -L, or numrxqueues when it is made)"
        }
        Some(Errno::INVAL) => {
            "the driver refused: ENA wants an MTU of at most 3498 and at most half of the \
             queues in use (ethtool -L DEVICE combined N)"
        }
        Some(Errno::OPNOTSUPP) => "the driver has no native XDP",
        Some(Errno::NOMEM) => "too few queues or too little memory for the driver's XDP queues",
        Some(Errno::PERM | Errno::ACCESS) => "CAP_BPF and CAP_NET_ADMIN are needed",
        Some(Errno::NODEV) => "the interface is gone",
        _ => "the kernel refused",
    };
    format!("{hint} ({})", chain(error))
}
