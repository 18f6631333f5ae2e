//! Echoes over TCP and UDP, and what arrives that has no answer.

use std::{cell::RefCell, collections::BTreeSet, io, net::SocketAddr, rc::Rc};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::spawn_local,
};
use weir_lab::probe::{Listener, Protocol};

use crate::packet::{self, Raw};

/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Of what a connection says at once.
const PIECE_BYTES_MAX: usize = 16_384;

/// What this host answers.
pub struct Server {
    /// Numbers of questions that arrived, SCTP and odd types of ICMP.
    seen: Rc<RefCell<Vec<u32>>>,
    listeners: RefCell<BTreeSet<Listener>>,
}

impl Server {
    /// Watches for what has no answer, from now on.
    pub fn start() -> anyhow::Result<Self> {
        let seen = Rc::new(RefCell::new(Vec::new()));
        for raw in [Raw::Sctp, Raw::Icmp] {
            for is_v4 in [true, false] {
                let socket = packet::open(raw, is_v4, false);
                let socket = socket.with_context(|| format!("no raw socket for {raw:?}"))?;
                spawn_local(watch(socket, raw, is_v4, Rc::clone(&seen)));
            }
        }
        Ok(Self { seen, listeners: RefCell::default() })
    }

    /// Echoes there until the process is killed; it may be told so again.
    pub async fn listen(&self, listeners: &[Listener]) -> anyhow::Result<()> {
        for it @ Listener { protocol, at } in listeners {
            if !self.listeners.borrow_mut().insert(*it) {
                continue;
            }
            let started = match protocol {
                Protocol::Tcp => listen_tcp(*at).await,
                _ => listen_udp(*at).await,
            };
            started.with_context(|| format!("cannot listen on {protocol:?} {at}"))?;
        }
        Ok(())
    }

    /// What arrived since the last time.
    pub fn take_seen(&self) -> Vec<u32> {
        self.seen.take()
    }
}

/// Notes the questions that arrive, until the process is killed.
async fn watch(socket: UdpSocket, raw: Raw, is_v4: bool, seen: Rc<RefCell<Vec<u32>>>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = match socket.recv(&mut buffer).await {
            Ok(length) => length,
            Err(error) => {
                eprintln!("{raw:?}: {error}");
                continue;
            }
        };
        let body = packet::skip_header(&buffer[..length], is_v4).unwrap_or_default();
        let id = match raw {
            Raw::Sctp => packet::read_init(body),
            Raw::Icmp => packet::read_icmp(body).map(|(_, id)| id),
        };
        seen.borrow_mut().extend(id);
    }
}

async fn listen_tcp(at: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(at).await?;
    spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(spawn_local(echo(stream))),
                Err(error) => eprintln!("{at}: {error}"),
            }
        }
    });
    Ok(())
}

/// Until the other end closes, or resets: that is its affair.
async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn listen_udp(at: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(at).await?;
    spawn_local(async move {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            // An error is an ICMP error for an earlier answer.
            if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&buffer[..length], peer).await;
            }
        }
    });
    Ok(())
}
