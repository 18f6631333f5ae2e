//! Tells the neighbours on a link whose an address is now: a gratuitous ARP (RFC 5227 section 2.3)
//! or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6), straight onto the wire.
#![allow(unsafe_code)] // `sendto` with the address of a packet socket.

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use weir_packet::{Addr, Mac, arp, nd};

/// Longest frame: an advertisement.
const FRAME_MAX: usize = 128;

/// A socket for announcements on any device of this network namespace. Needs CAP_NET_RAW.
#[derive(Debug)]
pub struct Announcer(OwnedFd);

impl Announcer {
    /// A socket that receives nothing.
    ///
    /// # Errors
    /// The kernel's; `EPERM` without CAP_NET_RAW.
    pub fn open() -> io::Result<Announcer> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Announcer(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?))
    }

    /// Says once, to everybody on the link of a device, that `address` is at `mac`.
    ///
    /// # Errors
    /// The kernel's: the device is gone or down.
    pub fn announce(&self, ifindex: u32, mac: [u8; 6], address: IpAddr) -> io::Result<()> {
        let mut frame = [0; FRAME_MAX];
        let length = emit(&mut frame, Addr::from(address), Mac(mac));
        let frame = length.and_then(|length| frame.get(..length));
        self.send(ifindex, frame.ok_or(io::ErrorKind::InvalidInput)?)
    }

    fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all zeros are a valid value of this plain C struct.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex.cast_signed();
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&frame[..6]);
        to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
        // SAFETY: frame and address outlive the call, with these lengths; the kernel only reads.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The frame that announces an address of either family.
fn emit(buf: &mut [u8], address: Addr, mac: Mac) -> Option<usize> {
    if address.is_v4() {
        return arp::emit_announcement(buf, address, mac);
    }
    let to_all =
        nd::Solicitation { source: Addr::unspecified(false), source_mac: mac, target: address };
    nd::emit_advertisement(buf, &to_all, mac, false)
}
