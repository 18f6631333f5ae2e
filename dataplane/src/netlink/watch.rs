//! Keeps a [`KernelState`] current: a dump at start, then multicast messages, and a dump again
//! whenever the kernel had to throw messages away (ENOBUFS).

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use rustix::io::Errno;
use tokio::sync::{Notify, watch};

use super::neighbour::{self, Requested};
use super::state::{Effect, MAIN_TABLE};
use super::{Error, KernelState, Netlink, route};

/// Messages are gathered this long and then published together.
const COALESCE: Duration = Duration::from_millis(5);

/// Most messages taken before a publication, so that a storm cannot hold one up.
const MESSAGES_MAX: usize = 10_000;

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchConfig {
    /// Routing tables to keep.
    pub tables: Vec<u32>,
    /// Bytes of the kernel's buffer for messages (the kernel caps it at `net.core.rmem_max`).
    pub receive_buffer: usize,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self { tables: vec![MAIN_TABLE], receive_buffer: 1 << 20 }
    }
}

/// A running watch. It ends when this and all receivers made from it are dropped.
#[derive(Clone, Debug)]
pub struct KernelWatch {
    state: watch::Receiver<Arc<KernelState>>,
    shared: Arc<Shared>,
}

/// Requests on their way to the task.
#[derive(Debug, Default)]
struct Shared {
    requested: Mutex<Requested>,
    released: Mutex<Vec<(u32, IpAddr)>>,
    wake: Notify,
}

impl KernelWatch {
    /// Subscribes, reads everything once, and keeps it current in a task of the current runtime.
    ///
    /// # Errors
    /// If a socket cannot be opened or the first dump is refused.
    pub async fn start(config: WatchConfig) -> Result<Self, Error> {
        let events = subscribe(config.receive_buffer).map_err(Error::Open)?;
        let netlink = Netlink::open()?;
        let state = read_all(&netlink, &config.tables).await?;
        let (publisher, receiver) = watch::channel(Arc::new(state.clone()));
        let shared = Arc::new(Shared::default());
        let task = Task { netlink, events, config, state, publisher, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            if let Err(error) = task.run().await {
                tracing::error!(%error, "the watch of the kernel's routes and neighbours stopped");
            }
        });
        Ok(Self { state: receiver, shared })
    }

    /// A receiver of every new state; it is closed if the watch fails.
    pub fn subscribe(&self) -> watch::Receiver<Arc<KernelState>> {
        self.state.clone()
    }

    /// The state as last published.
    pub fn current(&self) -> Arc<KernelState> {
        self.state.borrow().clone()
    }

    /// Makes the kernel resolve the neighbour and keep it resolved, across loss of the link, until
    /// it is released or its interface is deleted. Asking again is free. The outcome shows in the
    /// state; a refusal by the kernel is logged and tried again every few seconds.
    ///
    /// # Errors
    /// [`Error::TooManyNeighbours`], [`Error::Stopped`].
    pub fn request_neighbour(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        if self.state.has_changed().is_err() {
            return Err(Error::Stopped);
        }
        if lock(&self.shared.requested).insert(ifindex, address)? {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Ends [`Self::request_neighbour`]: the kernel's entry is deleted.
    pub fn release_neighbour(&self, ifindex: u32, address: IpAddr) {
        if lock(&self.shared.requested).remove(ifindex, address) {
            lock(&self.shared.released).push((ifindex, address));
            self.shared.wake.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Task {
    netlink: Netlink,
    events: TokioSocket,
    config: WatchConfig,
    state: KernelState,
    publisher: watch::Sender<Arc<KernelState>>,
    shared: Arc<Shared>,
}

impl Task {
    async fn run(mut self) -> Result<(), Error> {
        let mut refresh = tokio::time::interval(neighbour::REFRESH);
        let wake = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                event = self.events.recv_from_full() => {
                    let effect = self.take(event)?;
                    self.gather(effect).await?;
                }
                () = wake.wake.notified() => {}
                _ = refresh.tick() => lock(&self.shared.requested).repeat(&self.state, true),
                () = self.publisher.closed() => return Ok(()),
            }
            self.tell_requests().await;
        }
    }

    /// Waits for the rest of a burst, takes it, and publishes.
    async fn gather(&mut self, first: Option<Effect>) -> Result<(), Error> {
        tokio::time::sleep(COALESCE).await;
        let mut total = first;
        for _ in 0..MESSAGES_MAX {
            let event = self.events.socket_ref().recv_from_full();
            if matches!(&event, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
            total = match (total, self.take(event)?) {
                (Some(a), Some(b)) => Some(Effect {
                    is_changed: a.is_changed || b.is_changed,
                    needs_routes: a.needs_routes || b.needs_routes,
                }),
                _ => None,
            };
        }
        let is_changed = match total {
            Some(effect) => {
                let mut is_changed = effect.is_changed;
                if effect.needs_routes {
                    let dump = route::dump(&self.netlink.handle).await?;
                    is_changed |= self.state.replace_routes(&dump, &self.config.tables);
                }
                is_changed
            }
            None => {
                let resyncs = self.state.resyncs + 1;
                tracing::warn!(resyncs, "netlink messages were lost; reading everything anew");
                let downs = self.state.downs + 1;
                self.state = read_all(&self.netlink, &self.config.tables).await?;
                (self.state.resyncs, self.state.downs) = (resyncs, downs);
                true
            }
        };
        if is_changed {
            lock(&self.shared.requested).repeat(&self.state, false);
            self.publisher.send_replace(Arc::new(self.state.clone()));
        }
        Ok(())
    }

    /// Applies a datagram; `None` if messages were lost.
    fn take(&mut self, event: io::Result<(Vec<u8>, SocketAddr)>) -> Result<Option<Effect>, Error> {
        let datagram = match event {
            Ok((datagram, _)) => datagram,
            Err(e) if e.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => return Ok(None),
            Err(error) => return Err(Error::Open(error)),
        };
        let mut total = Effect::default();
        for message in messages(&datagram) {
            let effect = self.state.apply(&message);
            total.is_changed |= effect.is_changed;
            total.needs_routes |= effect.needs_routes;
        }
        Ok(Some(total))
    }

    async fn tell_requests(&mut self) {
        let handle = &self.netlink.handle;
        let released = std::mem::take(&mut *lock(&self.shared.released));
        let untold = lock(&self.shared.requested).take_untold();
        for (ifindex, address) in released {
            if let Err(error) = neighbour::release(handle, ifindex, address).await {
                tracing::warn!(%error, "neighbour");
            }
        }
        for (ifindex, address) in untold {
            if let Err(error) = neighbour::resolve(handle, ifindex, address).await {
                tracing::warn!(%error, "neighbour; trying again later");
            }
        }
    }
}

/// The messages of a datagram. One that cannot be parsed (a newer kernel's) is logged and skipped:
/// its length is still known.
fn messages(datagram: &[u8]) -> Vec<RouteNetlinkMessage> {
    let mut parsed = Vec::new();
    let mut rest = datagram;
    while let Some(bytes) = rest.first_chunk::<4>() {
        let len = u32::from_ne_bytes(*bytes) as usize;
        if len < 16 || len > rest.len() {
            break;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..len]) {
            Ok(message) => {
                if let NetlinkPayload::InnerMessage(inner) = message.payload {
                    parsed.push(inner);
                }
            }
            Err(error) => tracing::debug!(%error, "netlink message not understood"),
        }
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    parsed
}

fn subscribe(receive_buffer: usize) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    inner.set_rx_buf_sz(receive_buffer as u32)?;
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    inner.bind(&SocketAddr::new(0, mask))?;
    Ok(socket)
}

/// Dumps everything. Changes meanwhile come as messages afterwards, and are applied again.
async fn read_all(netlink: &Netlink, tables: &[u32]) -> Result<KernelState, Error> {
    let handle = &netlink.handle;
    let mut state = KernelState::default();
    let links: Vec<_> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list", "links"))?;
    let addresses: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list", "addresses"))?;
    let neighbours: Vec<_> = handle
        .neighbours()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(Error::refused("list", "neighbours"))?;
    let messages = (links.into_iter().map(RouteNetlinkMessage::NewLink))
        .chain(addresses.into_iter().map(RouteNetlinkMessage::NewAddress))
        .chain(neighbours.into_iter().map(RouteNetlinkMessage::NewNeighbour));
    for message in messages {
        state.apply(&message);
    }
    state.replace_routes(&route::dump(handle).await?, tables);
    Ok(state)
}
