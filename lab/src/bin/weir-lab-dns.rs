//! A DNS server for the lab, over UDP and TCP: whatever TXT is asked for, it says who it is and who
//! asks. Real resolvers (`dig`) are its clients.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;

/// Of a message over TCP, whose length has 16 bits.
const MESSAGE_BYTES_MAX: usize = 65_535;
const HEADER_BYTES: usize = 12;

/// A client that says nothing must not hold its thread for good.
const SILENCE_MAX: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(name = "weir-lab-dns", about)]
struct Arguments {
    /// Address and port; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Goes into every answer.
    #[arg(long)]
    name: String,
}

fn main() -> Result<()> {
    let Arguments { listen, name } = Arguments::parse();
    let mut sockets = Vec::new();
    for address in listen {
        let advice = || format!("cannot listen on {address}");
        let udp = UdpSocket::bind(address).with_context(advice)?;
        sockets.push((udp, TcpListener::bind(address).with_context(advice)?));
        println!("listening on {address}");
    }
    thread::scope(|scope| {
        for (udp, tcp) in &sockets {
            scope.spawn(|| serve_udp(udp, &name));
            scope.spawn(|| serve_tcp(tcp, &name));
        }
    });
    Ok(())
}

/// Until the process is killed; errors are said.
fn serve_udp(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        if let Err(error) = answer_one(socket, &mut buffer, name) {
            eprintln!("{name}: UDP: {error:#}");
        }
    }
}

fn answer_one(socket: &UdpSocket, buffer: &mut [u8], name: &str) -> Result<()> {
    let (length, peer) = socket.recv_from(buffer)?;
    let answer = answer(&buffer[..length], &format!("{name} {}", peer.ip()))?;
    socket.send_to(&answer, peer)?;
    Ok(())
}

/// The same. Each connection has a thread: the lab has few.
fn serve_tcp(listener: &TcpListener, name: &str) {
    thread::scope(|scope| {
        for stream in listener.incoming() {
            scope.spawn(|| {
                if let Err(error) = stream.context("accept").and_then(|it| converse(it, name)) {
                    eprintln!("{name}: TCP: {error:#}");
                }
            });
        }
    });
}

/// Answers questions until the client closes.
fn converse(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let text = format!("{name} {}", stream.peer_addr()?.ip());
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question)?;
        let answer = answer(&question, &text)?;
        let length = u16::try_from(answer.len())?.to_be_bytes();
        stream.write_all(&[&length[..], &answer].concat())?;
    }
    Ok(())
}

/// The answer to a question (RFC 1035, section 4): one TXT record with `text`.
fn answer(question: &[u8], text: &str) -> Result<Vec<u8>> {
    let header = question.get(..HEADER_BYTES).context("shorter than a header")?;
    // One question: labels up to an empty one, type and class. What follows (EDNS) is left out.
    let labels = question[HEADER_BYTES..].iter().position(|byte| *byte == 0);
    let end = HEADER_BYTES + labels.context("a name without an end")? + 5;
    let asked = question.get(HEADER_BYTES..end).context("shorter than its question")?;
    let mut answer = header[..2].to_vec();
    // A response, authoritative, recursion desired as asked; counts: 1 question, 1 answer.
    answer.extend([0x84 | header[2] & 1, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(asked);
    let length = u8::try_from(text.len()).context("a name of over 255 bytes")?;
    // The name by a pointer to the question's; TXT, IN, no caching.
    answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, length + 1, length]);
    answer.extend(text.as_bytes());
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x03who\0\0\x10\0\x01\0\0\x29";

    #[test]
    fn an_answer_repeats_the_question_and_tells_the_name() {
        let answer = answer(QUESTION, "web-1 10.0.0.1").unwrap();
        assert_eq!(answer[..12], *b"\x12\x34\x85\0\0\x01\0\x01\0\0\0\0");
        assert_eq!(answer[12..21], QUESTION[12..21]);
        assert_eq!(answer[21..33], *b"\xc0\x0c\0\x10\0\x01\0\0\0\0\0\x0f");
        assert_eq!(answer[33..], *b"\x0eweb-1 10.0.0.1");
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        for length in 0..21 {
            assert!(answer(&QUESTION[..length], "x").is_err(), "{length} bytes");
        }
    }
}
