//! `weir-e2e-traffic`: long-lived TCP connections that never pause, to be run in pods.
//!
//! The client sends a numbered record on each connection at a fixed interval and the server sends
//! it back. Each second the client prints one line of JSON ([`status::Status`]) to standard output:
//! what is read with `kubectl logs`, also of the time in which nobody could ask.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

mod client;
mod probe;
mod server;
mod status;

/// Bytes of the smallest record: the number of its connection, its own number, and padding.
const RECORD_BYTES_MIN: usize = 64;

#[derive(Parser)]
#[command(name = "weir-e2e-traffic", about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends back whatever comes.
    Server {
        /// Address and port.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Opens connections and uses all of them until it is ended.
    Client(ClientArguments),
    /// Opens a new connection five times a second, in turn to each target.
    Probe {
        /// Address and port.
        #[arg(long, required = true)]
        target: Vec<SocketAddr>,
        /// It ends after this time.
        #[arg(long, default_value_t = 3600)]
        seconds: u64,
    },
}

#[derive(Args, Clone)]
struct ClientArguments {
    /// Address and port; connections are dealt out among them in turn.
    #[arg(long, required = true)]
    target: Vec<SocketAddr>,
    #[arg(long, default_value_t = 1000)]
    connections: u32,
    /// Between two records of one connection.
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,
    /// Of a record.
    #[arg(long, default_value_t = RECORD_BYTES_MIN)]
    record_bytes: usize,
    /// A connection that hears nothing for so long is broken.
    #[arg(long, default_value_t = 30)]
    silence_seconds: u64,
    /// It ends after this time, however it is started.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Arguments::parse().command {
        Command::Server { listen } => runtime.block_on(server::serve(listen)),
        Command::Client(arguments) => runtime.block_on(client::run(arguments)),
        Command::Probe { target, seconds } => runtime.block_on(probe::run(&target, seconds)),
    }
}

/// To set a line beside what happened elsewhere.
#[allow(clippy::disallowed_methods, reason = "a tool: it says when things happened")]
fn unix_seconds() -> anyhow::Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(since.as_secs())
}
