//! `weir maglev`: the table that a set of backends gives, on every node alike.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::ensure;
use clap::Args;
use weir_api::object::protocol_name;
use weir_api::v1::Protocol;
use weir_tables::{Backend, BackendAddr, BackendState, MaglevParams, MaglevTable};

use super::lb_args::{Seed, TableSize};
use super::{Output, json, print_json};
use crate::model::WEIGHT_DEFAULT;

/// `weir maglev`.
#[derive(Debug, Clone, Args)]
pub struct MaglevArgs {
    /// Slots of the table; 16381 otherwise.
    #[arg(long, value_name = "M")]
    pub table_size: Option<TableSize>,
    /// Seed, 12 bytes in base64; JLfvgnHc2kaSUFaI otherwise.
    #[arg(long, value_name = "BASE64")]
    pub seed: Option<Seed>,
    /// A backend, e.g. 10.0.0.1:80/TCP or [fd00::1]:80/TCP=200; the weight is 100 where none is
    /// given. Repeatable.
    #[arg(long = "backend", required = true, value_name = "ADDRESS:PORT/PROTOCOL[=WEIGHT]")]
    pub backends: Vec<BackendArg>,
}

/// A backend, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendArg {
    /// Address and port.
    pub address: SocketAddr,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// From 1.
    pub weight: u16,
}

impl FromStr for BackendArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, weight) = match text.split_once('=') {
            Some((text, weight)) => (text, weight.parse::<u16>().ok().filter(|it| *it > 0)),
            None => (text, u16::try_from(WEIGHT_DEFAULT).ok()),
        };
        let weight = weight.ok_or("the weight must be 1..65535")?;
        let example = "write it as 10.0.0.1:80/TCP or [fd00::1]:80/TCP=200";
        let (address, protocol) = text.rsplit_once('/').ok_or(example)?;
        let address: SocketAddr = address.parse().map_err(|_| example)?;
        let protocol = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err("the protocol must be TCP, UDP or SCTP".into()),
        };
        Ok(Self { address, protocol, weight })
    }
}

pub(super) fn run(args: &MaglevArgs, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        let runs = list_runs(args)?;
        let runs: Vec<json::MaglevRun> =
            runs.into_iter().map(|(slots, backend)| json::MaglevRun { slots, backend }).collect();
        return print_json(&runs);
    }
    print!("{}", format_maglev(args)?);
    Ok(())
}

/// The table from slot 0 on, one line per run of slots of one backend: their number, the backend.
///
/// # Errors
/// A backend twice, or several protocols.
pub fn format_maglev(args: &MaglevArgs) -> anyhow::Result<String> {
    let mut text = String::new();
    for (slots, backend) in list_runs(args)? {
        writeln!(text, "{slots} {backend}")?;
    }
    Ok(text)
}

fn list_runs(args: &MaglevArgs) -> anyhow::Result<Vec<(usize, String)>> {
    let seed = args.seed.as_ref().map_or(&[][..], |it| &it.0);
    let params = MaglevParams::new(args.table_size.map_or(0, |it| it.0), seed)?;
    let protocol = args.backends.first().map_or(Protocol::Tcp, |it| it.protocol);
    let mut seen = BTreeSet::new();
    let mut backends = Vec::new();
    for it in &args.backends {
        ensure!(it.protocol == protocol, "backends of several protocols have no table in common");
        ensure!(seen.insert(it.address), "--backend {} twice", it.address);
        let addr = BackendAddr { addr: it.address.ip().into(), l4_port: it.address.port() };
        backends.push(Backend::new(addr, BackendState::Active, it.weight));
    }
    ensure!(backends.len() < usize::from(u16::MAX), "more than 65534 backends");
    let chosen: Vec<u16> = (0..u16::MAX).take(backends.len()).collect();
    let number = u8::try_from(i32::from(protocol))?;
    let table = MaglevTable::build(&backends, &chosen, number, &params);
    let runs = table.slots().chunk_by(|a, b| a == b);
    let name = |slot: u16| {
        let address = args.backends[usize::from(slot)].address;
        format!("{address}/{}", protocol_name(protocol))
    };
    Ok(runs.map(|run| (run.len(), name(run[0]))).collect())
}
