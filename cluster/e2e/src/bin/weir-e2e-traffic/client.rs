//! The client: opens all connections, then uses each at a fixed interval.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::LocalSet,
    time::{interval, sleep, timeout},
};
use weir_lab::clock::Stopwatch;

use crate::{ClientArguments, RECORD_BYTES_MIN, status::Shared, unix_seconds};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two connects, so that a listener's backlog of 128 is never full.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);
/// How often a connection looks whether it has been silent for too long.
const SILENCE_CHECK: Duration = Duration::from_secs(1);

struct Run {
    shared: Shared,
    watch: Stopwatch,
    arguments: ClientArguments,
}

impl Run {
    fn now_ms(&self) -> u64 {
        self.watch.elapsed_ns() / 1_000_000
    }
}

/// Runs until its time is over.
///
/// # Errors
/// A status cannot be written. Broken connections are no error here: the status counts them.
pub async fn run(arguments: ClientArguments) -> Result<()> {
    let end = Duration::from_secs(arguments.seconds);
    let shared = Shared::default();
    let run = Rc::new(Run { shared, watch: Stopwatch::start(), arguments });
    let local = LocalSet::new();
    let opening = run.clone();
    local.spawn_local(async move { open_all(opening).await });
    let printing = local.run_until(print_each_second(&run, end));
    printing.await
}

async fn print_each_second(run: &Run, end: Duration) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1));
    while run.watch.elapsed() < end {
        ticks.tick().await;
        let status = run.shared.take(run.now_ms(), unix_seconds()?);
        println!("{}", serde_json::to_string(&status)?);
    }
    Ok(())
}

async fn open_all(run: Rc<Run>) {
    let targets = run.arguments.target.clone();
    for (connection, target) in (0..run.arguments.connections).zip(targets.iter().cycle()) {
        tokio::task::spawn_local(connect(run.clone(), connection, *target));
        sleep(CONNECT_PAUSE).await;
    }
}

async fn connect(run: Rc<Run>, connection: u32, target: SocketAddr) {
    let opened = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
    let stream = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return run.shared.break_off(connection, format!("open: {error}")),
        Err(_) => return run.shared.break_off(connection, "open: no answer".into()),
    };
    run.shared.open(connection, run.now_ms());
    let reason = match stream.set_nodelay(true) {
        Ok(()) => use_connection(&run, connection, stream).await,
        Err(error) => error.to_string(),
    };
    run.shared.break_off(connection, reason);
}

/// Uses a connection for as long as it holds, and says why it does not any more.
async fn use_connection(run: &Rc<Run>, connection: u32, stream: TcpStream) -> String {
    let (reading, writing) = stream.into_split();
    tokio::select! {
        reason = read_records(run, connection, reading) => reason,
        reason = write_records(run, connection, writing) => reason,
        reason = watch_silence(run, connection) => reason,
    }
}

async fn write_records(run: &Run, connection: u32, mut writing: OwnedWriteHalf) -> String {
    let mut ticks = interval(Duration::from_millis(run.arguments.interval_ms));
    // What could not be sent in time is not made up for: the rate stays small.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut number = 0_u64;
    loop {
        ticks.tick().await;
        if let Err(error) = writing.write_all(&write_record(run, connection, number)).await {
            return format!("write: {error}");
        }
        number += 1;
    }
}

async fn read_records(run: &Run, connection: u32, mut reading: OwnedReadHalf) -> String {
    let mut record = write_record(run, connection, 0);
    let mut number = 0_u64;
    loop {
        if let Err(error) = reading.read_exact(&mut record).await {
            return format!("read: {error}");
        }
        if record != write_record(run, connection, number) {
            return "read: not the record that was sent".into();
        }
        run.shared.hear(connection, run.now_ms());
        number += 1;
    }
}

async fn watch_silence(run: &Run, connection: u32) -> String {
    let limit_ms = run.arguments.silence_seconds * 1000;
    loop {
        sleep(SILENCE_CHECK).await;
        let silent_ms = run.now_ms().saturating_sub(run.shared.heard_ms(connection));
        if silent_ms > limit_ms {
            return format!("silent for {} s", run.arguments.silence_seconds);
        }
    }
}

fn write_record(run: &Run, connection: u32, number: u64) -> Vec<u8> {
    let mut record = vec![0x77; run.arguments.record_bytes.max(RECORD_BYTES_MIN)];
    record[..4].copy_from_slice(&connection.to_be_bytes());
    record[4..12].copy_from_slice(&number.to_be_bytes());
    record
}
