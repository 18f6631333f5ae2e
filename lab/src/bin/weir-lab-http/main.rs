//! Real HTTP/1.1 for the lab: a server that says who it is, and two clients that check.

mod client;
mod download;
mod get;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Parser)]
#[command(name = "weir-lab-http", about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer with a name, or with bytes of a known pattern.
    Serve(serve::Arguments),
    /// Many requests, each on a new connection.
    Get(get::Arguments),
    /// Parallel downloads of /bytes/N, every byte verified.
    Download(download::Arguments),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // One descriptor per connection: as many as allowed.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let good = runtime.block_on(async {
        match arguments.command {
            Command::Serve(arguments) => serve::run(arguments).await.map(|()| true),
            Command::Get(arguments) => get::run(arguments).await,
            Command::Download(arguments) => download::run(arguments).await,
        }
    })?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
