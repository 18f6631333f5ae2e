//! Offloads and driver of a link, through the ethtool ioctl.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::Error;

/// An offload that the kernel lets us switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offload {
    /// Checksums may leave unfinished (`tx`); off, the kernel finishes them before the device.
    TxChecksum,
    /// Received packets are merged (`gro`).
    Gro,
}

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`: the name of the driver, and what is of no interest here.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

impl Offload {
    /// Name in ethtool, and the commands that read and write it (`linux/ethtool.h`).
    const fn commands(self) -> (&'static str, u32, u32) {
        match self {
            Self::TxChecksum => ("tx", 0x16, 0x17),
            Self::Gro => ("gro", 0x2b, 0x2c),
        }
    }
}

/// Switches an offload of `device` on or off, and sees that it is.
pub(super) fn set(device: &str, offload: Offload, on: bool) -> Result<(), Error> {
    let (feature, read, write) = offload.commands();
    let failed = |source| Error::Offload { device: device.into(), feature, source };
    if call(device, read, 0).map_err(failed)? == u32::from(on) {
        return Ok(());
    }
    call(device, write, u32::from(on)).map_err(failed)?;
    if call(device, read, 0).map_err(failed)? != u32::from(on) {
        return Err(failed(io::Error::other("the kernel kept its old value")));
    }
    Ok(())
}

fn call(device: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    // SAFETY: for these commands the kernel reads and writes one ethtool_value.
    unsafe { ethtool(device, (&raw mut value).cast()) }?;
    Ok(value.data)
}

/// Name of the driver behind a device: `veth`, `ena`.
pub fn driver(device: &str) -> io::Result<String> {
    /// `ETHTOOL_GDRVINFO` of `linux/ethtool.h`.
    const READ_DRIVER: u32 = 3;
    let mut info = DriverInfo { command: READ_DRIVER, driver: [0; 32], rest: [0; 160] };
    // SAFETY: for this command the kernel writes one ethtool_drvinfo.
    unsafe { ethtool(device, (&raw mut info).cast()) }?;
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// # Safety
/// `value` must point at what the command in its first four bytes reads and writes.
unsafe fn ethtool(device: &str, value: *mut libc::c_char) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value;
    // SAFETY: the name ends in 0, and the caller answers for the value, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
