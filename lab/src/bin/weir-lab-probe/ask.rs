//! Questions, all at once, by real sockets.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    task::JoinSet,
    time::timeout,
};
use weir_lab::{
    clock::Stopwatch,
    probe::{Answer, Outcome, Protocol, Question},
};

use crate::packet::{self, Raw};

const ECHO_REQUEST: [u16; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];

/// Asks them, and waits for all outcomes.
pub async fn ask_all(questions: Vec<Question>, patience: Duration) -> Vec<Answer> {
    let mut tasks = JoinSet::new();
    for question in questions {
        tasks.spawn_local(async move {
            let watch = Stopwatch::start();
            let outcome = match timeout(patience, ask(&question, patience)).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => classify(&error),
                Err(_) => Outcome::Silent,
            };
            let elapsed_us = watch.elapsed_ns() / 1000;
            Answer { id: question.id, outcome, elapsed_us }
        });
    }
    tasks.join_all().await
}

async fn ask(question: &Question, patience: Duration) -> io::Result<Outcome> {
    let to = SocketAddr::new(question.to, question.port);
    let family = usize::from(question.to.is_ipv6());
    match question.protocol {
        Protocol::Tcp => connect(question, to).await,
        Protocol::Udp => {
            let socket = UdpSocket::bind(SocketAddr::new(question.from, 0)).await?;
            let datagram = question.id.to_be_bytes();
            exchange(&socket, to, &datagram, patience, |it| it == datagram).await
        }
        Protocol::Sctp => send(question, Raw::Sctp, &packet::make_init(question.id, to.port())),
        Protocol::Icmp | Protocol::Icmpv6 => {
            let request = packet::make_icmp(question.id, u8::try_from(to.port()).unwrap_or(0));
            if to.port() != ECHO_REQUEST[family] {
                return send(question, Raw::Icmp, &request);
            }
            let socket = packet::open_at(Raw::Icmp, question.from, true)?;
            let (to, reply) = (SocketAddr::new(question.to, 0), (ECHO_REPLY[family], question.id));
            let is_reply = |it: &[u8]| packet::read_icmp(it) == Some(reply);
            exchange(&socket, to, &request, patience, is_reply).await
        }
    }
}

async fn connect(question: &Question, to: SocketAddr) -> io::Result<Outcome> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(question.from, 0))?;
    let mut stream = socket.connect(to).await?;
    stream.write_all(b"?").await?;
    stream.read_u8().await?;
    Ok(Outcome::Answered)
}

/// Sends, and once more after half the time.
async fn exchange(
    socket: &UdpSocket,
    to: SocketAddr,
    request: &[u8],
    patience: Duration,
    is_reply: impl Fn(&[u8]) -> bool,
) -> io::Result<Outcome> {
    socket.connect(to).await?;
    let mut buffer = [0; 256];
    loop {
        socket.send(request).await?;
        let reply = timeout(patience / 2, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if is_reply(&buffer[..length]) {
                    return io::Result::Ok(Outcome::Answered);
                }
            }
        });
        if let Ok(outcome) = reply.await {
            return outcome;
        }
    }
}

/// A packet whose arrival only its destination sees.
fn send(question: &Question, raw: Raw, packet: &[u8]) -> io::Result<Outcome> {
    let socket = packet::open_at(raw, question.from, false)?;
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendto(&socket, packet, flags, &SocketAddr::new(question.to, 0))?;
    Ok(Outcome::Sent)
}

fn classify(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Outcome::Refused,
        // ICMP says "administratively prohibited": EHOSTUNREACH, and EACCES for IPv6.
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::PermissionDenied => Outcome::Prohibited,
        _ => Outcome::Failed(error.to_string()),
    }
}
