//! Asks and answers whether hosts reach each other, as it is told over a Unix socket: see
//! `weir_lab::probe`.

mod ask;
mod packet;
mod serve;

use std::{path::PathBuf, rc::Rc, time::Duration};

use anyhow::Context;
use clap::Parser;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::LocalSet,
};
use weir_lab::probe::{Command, Reply};

use serve::Server;

#[derive(Parser)]
#[command(name = "weir-lab-probe", about)]
struct Arguments {
    /// Where it is told what to do; made here.
    #[arg(long)]
    socket: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(arguments))
}

/// Until the process is killed.
async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let server = Rc::new(Server::start()?);
    let path = arguments.socket.display();
    let listener = UnixListener::bind(&arguments.socket);
    let listener = listener.with_context(|| format!("cannot listen on {path}"))?;
    println!("listening on {path}");
    loop {
        let (stream, _) = listener.accept().await?;
        let server = Rc::clone(&server);
        tokio::task::spawn_local(async move {
            if let Err(error) = obey(stream, &server).await {
                eprintln!("{error:#}");
            }
        });
    }
}

async fn obey(stream: UnixStream, server: &Rc<Server>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line)? {
        Command::Listen(listeners) => match server.listen(&listeners).await {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(format!("{error:#}")),
        },
        Command::Ask { questions, timeout_ms } => {
            let timeout = Duration::from_millis(timeout_ms);
            Reply::Answers(ask::ask_all(questions, timeout).await)
        }
        Command::TakeSeen => Reply::Seen(server.take_seen()),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await?;
    Ok(())
}
