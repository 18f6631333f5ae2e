//! Scenarios of weir's own: each prints its figures and fails when something broke.

mod api_outage;
mod install_guide;
mod lossy;
mod process;
mod rolling_restart;
mod scale;
mod scale_objects;
mod traffic;
mod watch;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::cluster::Cluster;

/// A scenario.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Name {
    /// The DaemonSet restarts while connections transfer data
    RollingRestart,
    /// The API server is gone for minutes
    ApiOutage,
    /// Thousands of services and policies
    Scale,
    /// The commands of docs/install.md, as they are written there
    InstallGuide,
    /// Connections over a link that loses frames, then over a small MTU
    Lossy,
}

/// Sizes of the scenarios.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// rolling-restart, lossy: connections
    #[arg(long, default_value_t = 1000)]
    pub connections: u32,
    /// rolling-restart, api-outage, lossy: between two records of a connection
    #[arg(long, default_value_t = 20)]
    pub interval_ms: u64,
    /// api-outage: how long the API server is gone
    #[arg(long, default_value_t = 5)]
    pub minutes: u64,
    /// scale: services, with ten endpoints each
    #[arg(long, default_value_t = 5000)]
    pub services: u32,
    /// scale: network policies
    #[arg(long, default_value_t = 250)]
    pub policies: u32,
}

impl Options {
    fn load(&self) -> traffic::Load {
        let (connections, interval_ms) = (self.connections, self.interval_ms);
        traffic::Load { connections, interval_ms, record_bytes: 64 }
    }
}

/// Runs one on a cluster that is up.
///
/// # Errors
/// Something broke, or could not be looked at.
pub fn run(name: Name, options: &Options, cluster: &Cluster) -> Result<()> {
    match name {
        Name::RollingRestart => rolling_restart::run(options, cluster),
        Name::ApiOutage => api_outage::run(options, cluster),
        Name::Scale => scale::run(options, cluster),
        Name::InstallGuide => install_guide::run(cluster),
        Name::Lossy => lossy::run(options, cluster),
    }
}
