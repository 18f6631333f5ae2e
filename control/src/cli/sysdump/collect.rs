//! One item: where it comes from, and how it is read within bounds.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::clock::Clock;

/// Of one item; of a longer file its end is taken, of a longer answer its beginning.
pub(in super::super) const ITEM_BYTES_MAX: u64 = 20_000_000;
/// What a program says about its failure.
const ERROR_BYTES_MAX: u64 = 4000;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// Something to collect.
pub(super) struct Item {
    /// In the archive.
    pub path: String,
    pub source: Source,
}

/// Where it comes from.
pub(super) enum Source {
    /// A program and its arguments.
    Command(Vec<String>),
    /// The same; where there is no such program, what a function makes.
    CommandOr(Vec<String>, &'static str, fn() -> String),
    File(PathBuf),
    /// What a function makes; the text says from what.
    Made(&'static str, Box<dyn Fn() -> Result<String, String> + Send + Sync>),
}

/// What came of it.
#[derive(Debug, Default)]
pub(in super::super) struct Collected {
    pub source: String,
    pub content: Vec<u8>,
    pub took_ms: u64,
    pub is_truncated: bool,
    pub error: Option<String>,
    pub note: String,
}

impl Item {
    pub(super) fn command(path: &str, words: &[&str]) -> Self {
        let words = words.iter().map(|it| (*it).to_owned()).collect();
        Self { path: path.to_owned(), source: Source::Command(words) }
    }

    pub(super) fn file(path: &str, file: impl Into<PathBuf>) -> Self {
        Self { path: path.to_owned(), source: Source::File(file.into()) }
    }

    pub(super) fn made(
        path: &str,
        from: &'static str,
        make: impl Fn() -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        Self { path: path.to_owned(), source: Source::Made(from, Box::new(make)) }
    }

    /// Reads it. Never fails: what goes wrong is in the result.
    pub(super) async fn collect(&self) -> Collected {
        let clock = Clock::start();
        let mut collected = match &self.source {
            Source::Command(words) => run(words).await.0,
            Source::CommandOr(words, from, make) => match run(words).await {
                (_, true) => Collected {
                    source: (*from).to_owned(),
                    content: make().into_bytes(),
                    note: format!("{}: not found, so read from {from}", words[0]),
                    ..Collected::default()
                },
                (collected, false) => collected,
            },
            Source::File(path) => read_end(path),
            Source::Made(from, make) => {
                let (content, error) = match make() {
                    Ok(text) => (text.into_bytes(), None),
                    Err(error) => (Vec::new(), Some(error)),
                };
                Collected { source: (*from).to_owned(), content, error, ..Collected::default() }
            }
        };
        collected.took_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        collected
    }
}

/// Runs a program without a shell. Also says whether there is no such program.
async fn run(words: &[String]) -> (Collected, bool) {
    let mut collected = Collected { source: words.join(" "), ..Collected::default() };
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).kill_on_drop(true);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let is_absent = error.kind() == ErrorKind::NotFound;
            let reason = if is_absent { "not found".to_owned() } else { error.to_string() };
            collected.error = Some(format!("{}: {reason}", words[0]));
            return (collected, is_absent);
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let Collected { content, is_truncated, .. } = &mut collected;
    let mut told = Vec::new();
    let work = async {
        let read = async {
            let Some(mut stdout) = stdout else { return Ok(()) };
            (&mut stdout).take(ITEM_BYTES_MAX).read_to_end(content).await?;
            // What is over the limit is read and forgotten, so that the program can end.
            let more = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await?;
            *is_truncated = more > 0;
            std::io::Result::Ok(())
        };
        let listen = async {
            let Some(mut stderr) = stderr else { return Ok(()) };
            (&mut stderr).take(ERROR_BYTES_MAX).read_to_end(&mut told).await?;
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.map(drop)
        };
        tokio::try_join!(read, listen)?;
        child.wait().await
    };
    let error = match timeout(COMMAND_TIMEOUT, work).await {
        Err(_) => Some(format!("no end within {} s", COMMAND_TIMEOUT.as_secs())),
        Ok(Err(error)) => Some(error.to_string()),
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(status)) => Some(match String::from_utf8_lossy(&told).trim() {
            "" => status.to_string(),
            text => format!("{status}: {text}"),
        }),
    };
    collected.error = error;
    (collected, false)
}

/// A file, or the end of one that is too long: logs are worth most there.
fn read_end(path: &Path) -> Collected {
    let mut collected = Collected { source: path.display().to_string(), ..Collected::default() };
    let mut read = || {
        let mut file = File::open(path)?;
        let skipped = file.metadata()?.len().saturating_sub(ITEM_BYTES_MAX);
        collected.is_truncated = skipped > 0;
        if skipped > 0 {
            file.seek(SeekFrom::Start(skipped))?;
        }
        file.take(ITEM_BYTES_MAX).read_to_end(&mut collected.content)
    };
    let result = read();
    collected.error = result.err().map(|error| format!("{}: {error}", path.display()));
    collected
}
