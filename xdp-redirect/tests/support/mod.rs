//! Network namespaces of a test, removed with it, and threads inside them.

#![allow(dead_code, reason = "every test binary compiles all of it and uses a part")]

pub mod worker;

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Whether this process may do what the tests need; prints why not.
pub fn is_privileged() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: network namespaces and eBPF programs need root");
    }
    root
}

/// Namespaces and a pin directory with a common unique prefix.
pub struct Lab {
    prefix: String,
    names: Vec<String>,
    pub pin_dir: PathBuf,
}

impl Lab {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("weir-{}-{number}", std::process::id());
        let pin_dir = std::env::temp_dir().join(&prefix);
        Self { prefix, names: Vec::new(), pin_dir }
    }

    /// Makes a namespace with loopback up and returns its name.
    pub fn add(&mut self, name: &str) -> String {
        let name = format!("{}-{name}", self.prefix);
        run("ip", &["netns", "add", &name]);
        self.names.push(name.clone());
        ip(&name, "link set lo up");
        name
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let flags = rustix::mount::UnmountFlags::DETACH;
        _ = rustix::mount::unmount(&self.pin_dir, flags);
        _ = std::fs::remove_dir(&self.pin_dir);
    }
}

/// Runs `ip` in a namespace.
pub fn ip(netns: &str, args: &str) -> String {
    let mut all = vec!["-n", netns];
    all.extend(args.split_whitespace());
    run("ip", &all)
}

/// Runs a command and returns its output; it must succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {stderr}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Moves the calling thread into a namespace.
pub fn enter(netns: &str) {
    let file = File::open(format!("/run/netns/{netns}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Runs a closure on a thread of its own in a namespace.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(netns);
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether one of three datagrams from `client` to `address` in `server` is answered.
pub fn udp_round_trip(client: &str, server: &str, address: SocketAddr) -> bool {
    let listener = inside(server, || {
        UdpSocket::bind(address).expect("a free address in the server's namespace")
    });
    listener.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let socket = inside(client, || {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any).unwrap()
    });
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 16];
    (0..3).any(|_| {
        _ = socket.send_to(b"weir", address);
        let Ok((len, peer)) = listener.recv_from(&mut buffer) else { return false };
        _ = listener.send_to(&buffer[..len], peer);
        socket.recv(&mut buffer).is_ok()
    })
}

/// Sends `len` bytes over a new connection; the server's count of them and their sum.
pub fn tcp_transfer(client: &str, server: &str, address: SocketAddr, len: usize) -> (usize, u64) {
    let listener = inside(server, || TcpListener::bind(address).unwrap());
    let receiver = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        (bytes.len(), sum(&bytes))
    });
    let timeout = Duration::from_secs(5);
    let mut stream = inside(client, || TcpStream::connect_timeout(&address, timeout).unwrap());
    stream.write_all(&pattern(len)).unwrap();
    drop(stream);
    receiver.join().unwrap()
}

/// What [`tcp_transfer`] sends.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Tries until a condition holds; panics after the limit.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) {
    let end_ns = now_ns() + limit.as_nanos() as u64;
    while !condition() {
        assert!(now_ns() < end_ns, "not within {limit:?}");
    }
}
