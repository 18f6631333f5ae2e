//! Hosts as network namespaces, joined by veths, running real processes: a network in one machine
//! for the demo, the tests and the measurements. Everything a [`Lab`] made is gone when it drops,
//! also when a test panics, and what a killed run left behind is removed by the next one.
//!
//! ```no_run
//! use std::{process::Command, time::Duration};
//! use weir_lab::{Impairment, Lab, LinkOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let lab = Lab::new("example")?;
//! let client = lab.host("client")?;
//! let server = lab.host("server")?;
//!
//! let jumbo = LinkOptions { mtu: Some(9000), ..Default::default() };
//! lab.link(&client, "eth0", &server, "eth0", &jumbo)?;
//! client.addr("eth0", "10.0.0.1/24")?;
//! client.addr("eth0", "fd00::1/64")?;
//! server.addr("eth0", "10.0.0.2/24")?;
//! client.route("default via 10.0.0.2")?;
//! server.sysctl("net.ipv4.ip_forward", "1")?;
//! client.run(["ping", "-c", "1", "-w", "2", "10.0.0.2"])?;
//!
//! let mut http = Command::new(weir_lab::program("weir-lab-http")?);
//! http.args(["serve", "--listen", "10.0.0.2:80", "--name", "backend-1"]);
//! let http = server.spawn(http)?; // killed when `http` or the lab drops
//! http.wait_for_output("listening on", Duration::from_secs(5))?;
//!
//! let socket = client.enter(|| std::net::TcpStream::connect("10.0.0.2:80"))??;
//! # drop(socket);
//!
//! // A second way between them that loses a tenth of its frames: the same ones for one seed.
//! let bad = Impairment { loss: 0.1, delay: Duration::from_millis(5), ..Default::default() };
//! let link = lab.impaired_link(&client, "eth1", &server, "eth1", &jumbo, 42, bad)?;
//! link.partition(true);
//! println!("{link}: {:?}", link.counters());
//! # Ok(())
//! # }
//! ```
//!
//! Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_NET_RAW) and the programs `ip` and, for impaired
//! links, `ethtool`. A test begins with `if weir_lab::skipped() { return; }`.

mod cleanup;
pub mod clock;
pub mod cluster;
mod command;
mod error;
mod forwarder;
mod host;
mod impairment;
mod interrupt;
mod lab;
mod link;
mod namespace;
pub mod pattern;
mod privilege;
pub mod probe;
mod process;
pub mod report;
pub mod testbed;
mod world;

pub use cleanup::remove_kept;
pub use cluster::{Cluster, ClusterOptions, ClusterService, Topology};
pub use command::program;
pub use error::{Error, Result};
pub use forwarder::Link;
pub use host::{Host, Interface};
pub use impairment::{Channel, Counters, Impairment};
pub use interrupt::{clean_up_on_signal, stay_if_interrupted};
pub use lab::Lab;
pub use link::LinkOptions;
pub use privilege::{privileged, skipped};
pub use process::Process;
pub use testbed::{Node, Testbed, TestbedOptions};
pub use world::{World, WorldNode, WorldOptions};
