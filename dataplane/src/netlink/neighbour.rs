//! Neighbours that the kernel shall resolve and keep resolved for us.
//!
//! The kernel refreshes only entries that its own packets use, and weir's packets pass it by. An
//! externally managed entry (`NTF_EXT_MANAGED`, Linux 5.16) is refreshed by the kernel itself; an
//! older kernel ignores the flag, and there it is the repeated `NTF_USE` that starts a new check of
//! whatever became stale.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::Handle;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourState,
};
use rtnetlink::packet_route::route::RouteProtocol;
use rustix::io::Errno;

use super::error::{Error, errno};
use super::{KernelState, PROTOCOL, address};

/// Most neighbours that are kept resolved.
pub const REQUESTED_MAX: usize = 1024;

/// How often all requests are repeated: for kernels that do not manage entries, and after errors.
pub(super) const REFRESH: Duration = Duration::from_secs(5);

/// The neighbours asked for, and whether the kernel was told.
#[derive(Debug, Default)]
pub(super) struct Requested(BTreeMap<(u32, IpAddr), bool>);

impl Requested {
    /// Adds a neighbour; true if it is new.
    pub(super) fn insert(&mut self, ifindex: u32, address: IpAddr) -> Result<bool, Error> {
        if self.0.contains_key(&(ifindex, address)) {
            return Ok(false);
        }
        if self.0.len() >= REQUESTED_MAX {
            return Err(Error::TooManyNeighbours { address, ifindex, max: REQUESTED_MAX });
        }
        self.0.insert((ifindex, address), false);
        Ok(true)
    }

    /// Forgets a neighbour; true if it was there.
    pub(super) fn remove(&mut self, ifindex: u32, address: IpAddr) -> bool {
        self.0.remove(&(ifindex, address)).is_some()
    }

    /// Forgets those whose interface is gone, and has the rest told to the kernel again: all of
    /// them, or only those that it no longer has although their link is up.
    pub(super) fn repeat(&mut self, state: &KernelState, all: bool) {
        self.0.retain(|(ifindex, _), _| state.links.contains_key(ifindex));
        for (key, is_told) in &mut self.0 {
            let is_up = state.links.get(&key.0).is_some_and(|link| link.up);
            if all || (is_up && !state.neighbours.contains_key(key)) {
                *is_told = false;
            }
        }
    }

    /// Those that the kernel must be told, which then count as told.
    pub(super) fn take_untold(&mut self) -> Vec<(u32, IpAddr)> {
        let untold = self.0.iter_mut().filter(|(_, is_told)| !**is_told);
        untold
            .map(|(key, is_told)| {
                *is_told = true;
                *key
            })
            .collect()
    }
}

/// Asks the kernel to resolve a neighbour now, and to manage it.
pub(super) async fn resolve(handle: &Handle, ifindex: u32, address: IpAddr) -> Result<(), Error> {
    let mut managed = plain_request(handle, ifindex, address);
    let message = managed.message_mut();
    message.header.flags |= NeighbourFlags::ExtLearned;
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    let done = match managed.execute().await {
        Err(error) if errno(&error) == Errno::INVAL.raw_os_error() => {
            plain_request(handle, ifindex, address).execute().await
        }
        done => done,
    };
    done.map_err(Error::refused("resolve", format!("{address} on interface {ifindex}")))
}

/// Deletes the entry; the kernel makes it anew when it needs it.
pub(super) async fn release(handle: &Handle, ifindex: u32, address: IpAddr) -> Result<(), Error> {
    let message = handle.neighbours().add(ifindex, address).message_mut().clone();
    address::delete_neighbour(handle, message, format!("{address} on interface {ifindex}")).await
}

fn plain_request(handle: &Handle, ifindex: u32, address: IpAddr) -> rtnetlink::NeighbourAddRequest {
    let request = handle.neighbours().add(ifindex, address).replace();
    request.state(NeighbourState::None).flags(NeighbourFlags::Use)
}

#[cfg(test)]
mod tests {
    use super::super::Link;
    use super::super::state::Neighbour;
    use super::*;

    fn state_with_link(up: bool) -> KernelState {
        let link = Link { ifindex: 2, name: "eth0".into(), mac: [2; 6], mtu: 1500, up };
        KernelState { links: [(2, link)].into(), ..KernelState::default() }
    }

    #[test]
    fn a_neighbour_is_told_once_and_again_when_the_kernel_lost_it() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut requested = Requested::default();
        assert!(requested.insert(2, address).unwrap());
        assert!(!requested.insert(2, address).unwrap());
        assert_eq!(requested.take_untold(), [(2, address)]);
        assert!(requested.take_untold().is_empty());

        let mut state = state_with_link(true);
        let known = Neighbour { mac: None, state: NeighbourState::Failed };
        state.neighbours.insert((2, address), known);
        requested.repeat(&state, false);
        assert!(requested.take_untold().is_empty());
        requested.repeat(&state_with_link(false), false);
        assert!(requested.take_untold().is_empty(), "a link that is down cannot resolve");
        requested.repeat(&state_with_link(true), false);
        assert_eq!(requested.take_untold(), [(2, address)]);
        requested.repeat(&KernelState::default(), true);
        assert!(!requested.remove(2, address), "went with its link");
    }

    #[test]
    fn there_is_a_limit() {
        let mut requested = Requested::default();
        for i in 0..REQUESTED_MAX as u32 {
            requested.insert(1, IpAddr::from(i.to_be_bytes())).unwrap();
        }
        let error = requested.insert(1, IpAddr::from([9, 9, 9, 9])).unwrap_err();
        assert!(error.to_string().contains("9.9.9.9"), "{error}");
    }
}
