//! Who can say where packets were lost on the way: interfaces, weir's workers, weir's eBPF
//! programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use weir_api::socket::connect_observe;
use weir_api::v1::{DropsRequest, StatusRequest};
use weir_dataplane::attach::Maps;

use crate::account::Counters;
use crate::namespace::Place;

/// Of a device of weir's dataplane, the counters that each stand for a lost packet.
const DEVICE_LOSSES: [&str; 5] =
    ["rx_dropped", "rx_ring_full", "rx_invalid", "tx_failed", "tx_invalid_descs"];

/// Interfaces' directions whose drops count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    /// Sent packets only: what an interface with an AF_XDP socket drops of those that it receives,
    /// the socket counts too.
    Sent,
    Both,
}

/// Everything that is asked.
#[derive(Clone, Debug, Default)]
pub struct Witnesses {
    pub interfaces: Vec<(Place, Directions)>,
    /// Socket of a dataplane's Observe service.
    pub dataplane: Option<PathBuf>,
    /// Pin directory of a dataplane.
    pub pins: Option<PathBuf>,
}

impl Witnesses {
    /// Asks everyone. With the counters come the names of those that did not answer, and why.
    pub fn read(&self) -> (Counters, Vec<String>) {
        let mut counters = Counters::new();
        let mut silent = Vec::new();
        let mut add = |answer: Result<Counters>| match answer {
            Ok(answer) => counters.extend(answer),
            Err(error) => silent.push(format!("{error:#}")),
        };
        for (place, directions) in &self.interfaces {
            add(read_interface(place, *directions));
        }
        if let Some(socket) = &self.dataplane {
            add(read_dataplane(socket));
        }
        if let Some(pins) = &self.pins {
            add(read_programs(pins));
        }
        (counters, silent)
    }
}

fn read_interface(place: &Place, directions: Directions) -> Result<Counters> {
    let table = place.namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(&place.interface)?.strip_prefix(':'));
    let line = line.with_context(|| format!("{place}: no such interface"))?;
    let values: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // Bytes, packets, errs, drop and four more, received; then the same for sent.
    let columns: &[_] = match directions {
        Directions::Sent => &[("tx_errors", 10), ("tx_dropped", 11)],
        Directions::Both => {
            &[("rx_errors", 2), ("rx_dropped", 3), ("tx_errors", 10), ("tx_dropped", 11)]
        }
    };
    let counter = |(what, column): &(&str, usize)| {
        let value = values.get(*column).copied();
        Ok((format!("{place} {what}"), value.with_context(|| format!("{place}: no counters"))?))
    };
    columns.iter().map(counter).collect()
}

fn read_dataplane(socket: &Path) -> Result<Counters> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut observe = connect_observe(socket).await?;
        let failed = |what| move || format!("{}: {what}", socket.display());
        let drops = observe.drops(DropsRequest {}).await.with_context(failed("drops"))?;
        let status = observe.status(StatusRequest {}).await.with_context(failed("status"))?;
        let drops = drops.into_inner().drops.into_iter();
        let drops = drops.map(|drop| (format!("weir drop {}", drop.reason), drop.packets));
        let devices = status.into_inner().devices.into_iter().flat_map(|device| {
            let (name, queue) = (device.name, device.queue);
            let counters = device.counters.into_iter();
            let losses = counters.filter(|(counter, _)| DEVICE_LOSSES.contains(&counter.as_str()));
            losses.map(move |(counter, value)| {
                (format!("weir {name} queue {queue} {counter}"), value)
            })
        });
        Ok(drops.chain(devices).collect())
    })
}

fn read_programs(pins: &Path) -> Result<Counters> {
    let counters = Maps::open(pins)?.counters()?.into_iter();
    let losses = counters.filter(|(_, name, _)| name.contains("dropped"));
    Ok(losses.map(|(_, name, value)| (format!("weir eBPF {name}"), value)).collect())
}
