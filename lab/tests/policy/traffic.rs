//! Traffic that goes on while policies change: a connection that echoes, and datagrams that count.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use weir_lab::{Host, clock::pause};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at a socket, and between two datagrams.
const STEP: Duration = Duration::from_micros(500);
const PIECE: [u8; 512] = [b'w'; 512];

/// A TCP connection to a prober that echoes, kept busy by a thread.
pub struct Transfer {
    echoed_bytes: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Transfer {
    /// From inside `host`.
    pub fn start(host: &Host, to: SocketAddr) -> Result<Self> {
        let stream = host.enter(|| TcpStream::connect_timeout(&to, CONNECT_TIMEOUT))?;
        let stream = stream.with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nonblocking(true)?;
        let echoed_bytes = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (count, stop) = (Arc::clone(&echoed_bytes), Arc::clone(&is_over));
        let thread = thread::spawn(move || pump(stream, &count, &stop));
        Ok(Self { echoed_bytes, is_over, thread: Some(thread) })
    }

    /// What came back until now.
    pub fn echoed_bytes(&self) -> u64 {
        self.echoed_bytes.load(Ordering::Relaxed)
    }

    /// Fails if the connection broke.
    pub fn finish(mut self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished once")?;
        thread.join().expect("the pump does not panic")
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pump(mut stream: TcpStream, echoed_bytes: &AtomicU64, is_over: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 4096];
    while !is_over.load(Ordering::Relaxed) {
        match stream.write(&PIECE) {
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            Err(error) => return Err(error).context("while writing"),
        }
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => anyhow::bail!("closed by its server"),
                Ok(bytes) => drop(echoed_bytes.fetch_add(bytes as u64, Ordering::Relaxed)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("while reading"),
            }
        }
        pause(STEP);
    }
    Ok(())
}

/// A socket inside `host`, at any port unless one is given.
pub fn bind_udp(host: &Host, address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = host.enter(|| UdpSocket::bind((address, port)))??;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Datagrams from one socket to another, one every half millisecond.
pub struct Stream {
    received: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Stream {
    pub fn start(from: UdpSocket, to: UdpSocket) -> Result<Self> {
        let target = to.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (count, stop) = (Arc::clone(&received), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let (mut sent, mut buffer) = (0, [0; 64]);
            while !stop.load(Ordering::Relaxed) {
                sent += u64::from(from.send_to(b"weir", target).is_ok());
                while to.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                pause(STEP);
            }
            sent
        });
        Ok(Self { received, is_over, thread: Some(thread) })
    }

    /// How many arrived until now.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends it: how many were sent, and how many arrived.
    pub fn finish(mut self) -> Result<(u64, u64)> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished once")?;
        let sent = thread.join().expect("the stream does not panic");
        Ok((sent, self.received()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
