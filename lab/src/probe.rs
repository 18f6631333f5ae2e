//! Questions whether one host reaches another, and the way to ask `weir-lab-probe`: a process in
//! each host that both asks and answers, told what to do over a Unix socket, JSON lines each way.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command as Program,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{Error, Host, Process, Result, program};

/// How long the process may take to start or to answer, beyond what a question itself takes.
const SOON: Duration = Duration::from_secs(20);

/// What the questions are asked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// A connection, one byte sent and echoed.
    Tcp,
    /// A datagram, echoed; sent again once.
    Udp,
    /// An INIT that is seen at its destination: this kernel need not have SCTP.
    Sctp,
    /// An echo request by a ping socket; any other type is seen at its destination.
    Icmp,
    Icmpv6,
}

/// Whether `from` reaches `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Question {
    /// Of the asker's choice, for finding the answer.
    pub id: u32,
    /// An address of the host that asks.
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: Protocol,
    /// Port of the destination, or ICMP type.
    pub port: u16,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: u32,
    pub outcome: Outcome,
    /// From the first packet to the outcome.
    pub elapsed_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Answered,
    /// Nothing came back in time.
    Silent,
    /// A reset, or an ICMP error that says that nobody listens.
    Refused,
    /// An ICMP error that says that it is prohibited, or that there is no way.
    Prohibited,
    /// It was sent; only its destination can tell more.
    Sent,
    /// It could not be asked.
    Failed(String),
}

/// A place where `weir-lab-probe` echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub protocol: Protocol,
    pub at: SocketAddr,
}

/// A line to `weir-lab-probe`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Echoes there from now on.
    Listen(Vec<Listener>),
    /// Asks all at once.
    Ask { questions: Vec<Question>, timeout_ms: u64 },
    /// Which questions arrived that cannot be answered.
    TakeSeen,
}

/// Its line back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Answers(Vec<Answer>),
    Seen(Vec<u32>),
    Failed(String),
}

/// A running `weir-lab-probe`.
#[derive(Debug)]
pub struct Prober {
    socket: PathBuf,
    process: Process,
}

impl Prober {
    /// Starts one in a host; its socket is in `folder`.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Start`], [`Error::Ended`].
    pub fn start(host: &Host, folder: &Path) -> Result<Self> {
        let socket = folder.join(format!("probe-{}.sock", host.name()));
        let mut command = Program::new(program("weir-lab-probe")?);
        command.arg("--socket").arg(&socket);
        let process = host.spawn(command)?;
        process.wait_for_output("listening on", SOON)?;
        Ok(Self { socket, process })
    }

    /// Echoes there from now on.
    ///
    /// # Errors
    /// [`Error::File`] naming its socket, with what it said.
    pub fn listen(&self, listeners: Vec<Listener>) -> Result<()> {
        match self.command(&Command::Listen(listeners), SOON)? {
            Reply::Done => Ok(()),
            other => Err(self.surprise(&other)),
        }
    }

    /// Asks all at once, and waits for every answer.
    ///
    /// # Errors
    /// Those of [`Prober::listen`].
    pub fn ask(&self, questions: Vec<Question>, timeout: Duration) -> Result<Vec<Answer>> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match self.command(&Command::Ask { questions, timeout_ms }, timeout + SOON)? {
            Reply::Answers(answers) => Ok(answers),
            other => Err(self.surprise(&other)),
        }
    }

    /// Which questions arrived here that cannot be answered, since it was last asked.
    ///
    /// # Errors
    /// Those of [`Prober::listen`].
    pub fn take_seen(&self) -> Result<Vec<u32>> {
        match self.command(&Command::TakeSeen, SOON)? {
            Reply::Seen(seen) => Ok(seen),
            other => Err(self.surprise(&other)),
        }
    }

    fn command(&self, command: &Command, timeout: Duration) -> Result<Reply> {
        self.exchange(command, timeout).map_err(|source| {
            let ended = self.process.ended("its answer");
            ended.unwrap_or_else(|| self.file_error(source))
        })
    }

    fn exchange(&self, command: &Command, timeout: Duration) -> io::Result<Reply> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(timeout))?;
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply)?;
        Ok(serde_json::from_str(&reply)?)
    }

    fn surprise(&self, reply: &Reply) -> Error {
        self.file_error(io::Error::other(format!("it said {reply:?}")))
    }

    fn file_error(&self, source: io::Error) -> Error {
        Error::File { action: "command the prober at", path: self.socket.clone(), source }
    }
}
