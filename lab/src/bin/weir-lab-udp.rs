//! Real UDP for the lab: an echo server that says who it is, and a client that counts answers.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use weir_lab::{
    clock::Stopwatch,
    report::{self, UdpReport},
};

/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Unexpected answers read per question before it counts as lost: a flood must not keep it alive.
const STRAY_ANSWERS_MAX: u32 = 1000;

#[derive(Parser)]
#[command(name = "weir-lab-udp", about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Echo every datagram with `NAME ADDRESS ` before it: its own name and who asks.
    Serve(Serve),
    /// Send questions, one after the other, and wait for the echo of each.
    Ask(Ask),
}

#[derive(Args)]
struct Serve {
    /// Address and port; may be given several times. A wildcard address answers from whichever
    /// address the kernel prefers.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    #[arg(long)]
    name: String,
}

#[derive(Args)]
struct Ask {
    /// Address and port.
    #[arg(long)]
    to: SocketAddr,
    /// How many questions.
    #[arg(long)]
    count: u64,
    /// How long to wait for each answer.
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// A new source port for each question.
    #[arg(long)]
    new_socket_each: bool,
    /// Exit with success even if answers are missing.
    #[arg(long)]
    allow_failures: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Serve(arguments) => serve(arguments).map(|()| ExitCode::SUCCESS),
        Command::Ask(arguments) => {
            let report = ask(&arguments)?;
            report::print(&report, arguments.json)?;
            let good = report.lost == 0 || arguments.allow_failures;
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn serve(arguments: Serve) -> anyhow::Result<()> {
    let mut sockets = Vec::new();
    for address in arguments.listen {
        let socket = UdpSocket::bind(address);
        let socket = socket.with_context(|| format!("cannot listen on {address}"))?;
        println!("listening on {}", socket.local_addr()?);
        sockets.push(socket);
    }
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| echo(socket, &arguments.name));
        }
    });
    Ok(())
}

/// Echoes until the process is killed. An error (an ICMP error for an earlier answer) is said.
fn echo(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let sent = socket.recv_from(&mut buffer).and_then(|(length, peer)| {
            let heading = format!("{name} {} ", peer.ip());
            let answer = [heading.as_bytes(), &buffer[..length]].concat();
            socket.send_to(&answer, peer)
        });
        if let Err(error) = sent {
            eprintln!("{name}: {error}");
        }
    }
}

fn ask(arguments: &Ask) -> anyhow::Result<UdpReport> {
    let timeout = Duration::from_millis(arguments.timeout_ms.max(1));
    let mut report = UdpReport { sent: arguments.count, ..Default::default() };
    let watch = Stopwatch::start();
    let mut socket = connect(arguments.to)?;
    for number in 0..arguments.count {
        if arguments.new_socket_each && number > 0 {
            socket = connect(arguments.to)?;
        }
        match ask_once(&socket, number, timeout, &mut report.extra) {
            Ok((name, asker)) => {
                *report.backends.entry(name).or_default() += 1;
                *report.askers.entry(asker).or_default() += 1;
            }
            Err(error) => *report.losses.entry(describe(&error)).or_default() += 1,
        }
    }
    report.answered = report.backends.values().sum();
    report.lost = report.losses.values().sum();
    report.elapsed_ms = u64::try_from(watch.elapsed().as_millis())?;
    Ok(report)
}

fn connect(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to).with_context(|| format!("cannot reach {to}"))?;
    Ok(socket)
}

/// Sends question `number` and waits for its answer: the server's name and whom it saw. Answers to
/// others are counted as extra.
fn ask_once(
    socket: &UdpSocket,
    number: u64,
    timeout: Duration,
    extra: &mut u64,
) -> io::Result<(String, String)> {
    let question = format!("question {number}");
    let watch = Stopwatch::start();
    socket.send(question.as_bytes())?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    for _ in 0..STRAY_ANSWERS_MAX {
        let left = timeout.saturating_sub(watch.elapsed());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        let answer = String::from_utf8_lossy(&buffer[..length]);
        let heading = answer.strip_suffix(&question).and_then(|it| it.strip_suffix(' '));
        match heading.and_then(|it| it.split_once(' ')) {
            Some((name, asker)) => return Ok((name.to_owned(), asker.to_owned())),
            None => *extra += 1,
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timeout".into(),
        io::ErrorKind::ConnectionRefused => "refused".into(),
        _ => error.to_string(),
    }
}
