//! A sink that is an ordinary UDP socket: what a pod has, behind the kernel's whole stack.
//!
//! Inside a pod only this one works: frames that `bpf_redirect_peer` puts into a namespace pass XDP
//! programs by.

use std::fs;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};

use crate::account::Counters;
use crate::arrivals::Arrivals;
use crate::clock::now_ns;
use crate::namespace::Place;

/// Datagrams per system call.
const BURST: usize = 64;
const DATAGRAM_MAX: usize = 4096;

/// One socket.
pub struct SocketSink {
    place: Place,
    socket: UdpSocket,
    is_v4: bool,
    inode: u64,
    buffers: Box<[[u8; DATAGRAM_MAX]; BURST]>,
    headers: MultiHeaders<()>,
}

impl SocketSink {
    /// Listens on `port` of all addresses of `family`'s family in the namespace of `place`.
    /// Datagrams of `buffer` bytes may wait.
    ///
    /// # Errors
    /// If the port is in use there.
    pub fn open(place: Place, family: IpAddr, port: u16, buffer: usize) -> Result<SocketSink> {
        let any: IpAddr = match family {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = place.namespace.run(|| {
            UdpSocket::bind((any, port))
                .with_context(|| format!("sink {place}: UDP port {port}; see `ss -lun` there"))
        })?;
        // The kernel allows for twice as much, for its own overhead.
        setsockopt(&socket, sockopt::RcvBufForce, &buffer)
            .context("receive buffer (CAP_NET_ADMIN)")?;
        let inode = rustix::fs::fstat(&socket).context("a socket's number")?.st_ino;
        let buffers = vec![[0; DATAGRAM_MAX]; BURST].into_boxed_slice();
        let buffers = buffers.try_into().expect("as many as there are");
        let headers = MultiHeaders::preallocate(BURST, None);
        Ok(SocketSink { place, socket, is_v4: family.is_ipv4(), inode, buffers, headers })
    }

    /// Takes what waits, one burst at most; how many.
    ///
    /// # Errors
    /// What the kernel says, but for errors of earlier answers.
    pub fn receive(&mut self, sink: usize, arrivals: &mut Arrivals) -> Result<usize> {
        let mut lengths = [0; BURST];
        let mut count = 0;
        {
            let mut slices = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
            let fd = self.socket.as_raw_fd();
            match recvmmsg(fd, &mut self.headers, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
                Ok(messages) => {
                    for message in messages {
                        lengths[count] = message.bytes;
                        count += 1;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
                Err(error) => bail!("sink {}: receiving: {error}", self.place),
            }
        }
        let now = now_ns();
        for (buffer, length) in self.buffers.iter().zip(lengths).take(count) {
            arrivals.take(sink, &buffer[..length], now);
        }
        Ok(count)
    }

    /// What to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Datagrams that the socket lost: its buffer was full, or their checksum was wrong.
    ///
    /// # Errors
    /// If the kernel's table has no line for the socket.
    pub fn losses(&self) -> Result<Counters> {
        let file = if self.is_v4 { "udp" } else { "udp6" };
        let path = format!("/proc/thread-self/net/{file}");
        let table = self.place.namespace.run(|| Ok(fs::read_to_string(&path)?))?;
        let drops = socket_drops(&table, self.inode)
            .with_context(|| format!("sink {}: its socket is not in {path}", self.place))?;
        Ok([(format!("{} socket drops", self.place), drops)].into())
    }
}

/// The last column of the line of a socket in /proc/net/udp.
fn socket_drops(table: &str, inode: u64) -> Option<u64> {
    let inode = inode.to_string();
    let mut lines = table.lines().map(|line| line.split_whitespace());
    let mut line = lines.find(|line| line.clone().nth(9) == Some(&inode))?;
    line.nth(12)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_found_by_inode() {
        let line = |inode: u64, drops: u64| {
            format!(
                "  105: 00000000:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000  \
                 1000 0 {inode} 2 0000000000000000 {drops}\n"
            )
        };
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when ...\n";
        let table = [heading.into(), line(8011, 3), line(21790, 41)].concat();
        assert_eq!(socket_drops(&table, 21790), Some(41));
        assert_eq!(socket_drops(&table, 8011), Some(3));
        assert_eq!(socket_drops(&table, 1), None);
    }
}
