//! What the operator counts, and the page that shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;
use weir_api::metrics::{self, Page};
use weir_control::clock::Clock;

use crate::allocator::Fill;

/// Those who do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Addresses of load balancers.
    Balancers,
    /// Taints and conditions of nodes.
    Nodes,
}

impl Controller {
    const ALL: [(Self, &str); 2] = [(Self::Balancers, "load_balancers"), (Self::Nodes, "nodes")];
}

/// A count per controller.
#[derive(Debug, Clone, Default)]
pub struct PerController(Arc<[AtomicU64; 2]>);

impl PerController {
    /// One more.
    pub fn add(&self, controller: Controller) {
        self.0[controller as usize].fetch_add(1, Relaxed);
    }

    fn read(&self, controller: Controller) -> u64 {
        self.0[controller as usize].load(Relaxed)
    }
}

/// Counts since the start.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Times that everything was compared with what it should be.
    pub reconciles: PerController,
    /// Writes that failed, conflicts apart.
    pub errors: PerController,
}

/// How full the pools are.
#[derive(Debug, Clone, Default)]
pub struct PoolReport {
    /// By name: IPv4 and IPv6.
    pub pools: Vec<(String, [Fill; 2])>,
    /// Services that want something that they do not have.
    pub waiting: usize,
}

/// What the page is made from.
#[derive(Debug, Clone)]
pub struct Gauges {
    /// Counts.
    pub counters: Counters,
    /// Whether this process leads.
    pub is_leader: watch::Receiver<bool>,
    /// Empty while it does not.
    pub pools: watch::Receiver<PoolReport>,
    /// Since the start.
    pub clock: Clock,
}

impl Gauges {
    /// OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = Page::default();
        page.add(&metrics::BUILD_INFO, &["weir-operator", env!("CARGO_PKG_VERSION")], 1);
        page.add_float(&metrics::UPTIME, &[], self.clock.elapsed().as_secs_f64());
        page.add(&metrics::OPERATOR_LEADER, &[], u64::from(*self.is_leader.borrow()));
        for (controller, name) in Controller::ALL {
            let count = self.counters.reconciles.read(controller);
            page.add(&metrics::OPERATOR_RECONCILES, &[name], count);
            page.add(&metrics::OPERATOR_ERRORS, &[name], self.counters.errors.read(controller));
        }
        let report = self.pools.borrow();
        page.add(&metrics::OPERATOR_SERVICES_WAITING, &[], report.waiting as u64);
        for (name, fills) in &report.pools {
            for (family, fill) in ["IPv4", "IPv6"].into_iter().zip(fills) {
                page.add(&metrics::OPERATOR_POOL_USED, &[name, family], fill.used);
                page.add(&metrics::OPERATOR_POOL_LIMIT, &[name, family], fill.total);
            }
        }
        page.render()
    }
}
