//! How a worker sleeps and is woken: `poll` over its devices and an eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Most devices of one worker: its trunk and a few uplink queues.
pub const FDS_MAX: usize = 15;

/// Wakes one worker. Cloned to everybody who gives it work.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    is_asleep: AtomicBool,
}

/// The sleeping side of a [`Waker`].
#[derive(Debug)]
pub struct Sleeper {
    shared: Arc<Shared>,
}

impl Sleeper {
    /// A sleeper and its waker.
    pub fn new() -> io::Result<(Sleeper, Waker)> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { event, is_asleep: AtomicBool::new(false) });
        Ok((Sleeper { shared: Arc::clone(&shared) }, Waker { shared }))
    }

    /// Says that wakes are needed from now on. Look for work once more after this.
    pub fn announce(&self) {
        self.shared.is_asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that wakes are not needed any more.
    pub fn retract(&self) {
        self.shared.is_asleep.store(false, Ordering::Relaxed);
    }

    /// Waits until a device has input, a waker calls, or `timeout_ms` has passed.
    pub fn wait(&mut self, devices: &[Option<BorrowedFd<'_>>; FDS_MAX], timeout_ms: u32) {
        let event = self.shared.event.as_fd();
        // Only IN: in copy mode `poll` for OUT would drive transmission here.
        let mut fds: [PollFd<'_>; FDS_MAX + 1] =
            std::array::from_fn(|_| PollFd::from_borrowed_fd(event, PollFlags::IN));
        let mut count = 1;
        for fd in devices.iter().flatten() {
            fds[count] = PollFd::from_borrowed_fd(*fd, PollFlags::IN);
            count += 1;
        }
        let timeout = Timespec {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
        };
        // An interrupted or failed poll only means an early turn.
        let _ = poll(&mut fds[..count], Some(&timeout));
        let _ = rustix::io::read(&self.shared.event, &mut [0_u8; 8]);
    }
}

impl Waker {
    /// Wakes the worker if it sleeps; a store and a load if it does not.
    pub fn wake(&self) {
        // Pairs with the fence in `announce`: either the sleeper sees the work, or we see it
        // asleep.
        fence(Ordering::SeqCst);
        if self.shared.is_asleep.swap(false, Ordering::Relaxed) {
            let _ = rustix::io::write(&self.shared.event, &1_u64.to_ne_bytes());
        }
    }
}

/// Tells the control thread that something waits for it.
#[derive(Clone, Debug)]
pub struct Doorbell {
    socket: Arc<UnixDatagram>,
}

impl Doorbell {
    /// A doorbell, and the socket that becomes readable when it is rung.
    pub fn new() -> io::Result<(Doorbell, UnixDatagram)> {
        let (near, far) = UnixDatagram::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        Ok((Doorbell { socket: Arc::new(near) }, far))
    }

    /// Rings. Rare: once per new snapshot, and when a next hop is unknown. A full socket has been
    /// rung.
    pub fn ring(&self) {
        let _ = self.socket.send(&[1]);
    }
}
