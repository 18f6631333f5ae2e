//! Pools of addresses, and which of them count.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::core::{Selector, SelectorExt};
use weir_control::model::Family;

use super::{Block, Claim};

/// Addresses to give to Services.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Name of its object.
    pub name: String,
    /// RFC 3339; of pools with addresses in common the oldest counts.
    pub created: String,
    /// What it has, or why it cannot be used.
    pub content: Result<PoolContent, String>,
}

/// What a pool has, and for whom.
#[derive(Debug, Clone)]
pub struct PoolContent {
    /// No address twice.
    pub blocks: Vec<Block>,
    /// Labels of the Services.
    pub services: Selector,
    /// Labels of their namespaces.
    pub namespaces: Selector,
    /// Also for Services that do not ask for an address by name.
    pub auto_assign: bool,
}

impl PoolContent {
    fn overlaps(&self, other: &Self) -> bool {
        self.blocks.iter().any(|it| other.blocks.iter().any(|other| it.overlaps(*other)))
    }

    /// Whether one of its blocks has the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|it| it.contains(address))
    }
}

/// Why a pool gives out nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolProblem {
    /// Its specification, and what to do.
    Invalid(String),
    /// The older pool with some of its addresses.
    Overlaps(String),
}

/// How full a pool is in one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// Addresses in its blocks; `u64::MAX`: that many or more.
    pub total: u64,
    /// Addresses that a Service has.
    pub used: u64,
}

/// A pool and where to look for its next free addresses.
#[derive(Debug)]
pub(super) struct PoolState {
    pub pool: Pool,
    pub problem: Option<PoolProblem>,
    /// Per block: no address below is free.
    cursors: Vec<IpAddr>,
}

impl PoolState {
    pub(super) fn new(pool: Pool) -> Self {
        let mut state = Self { pool, problem: None, cursors: Vec::new() };
        state.rewind();
        state
    }

    fn rewind(&mut self) {
        let blocks = self.pool.content.as_ref().map(|it| it.blocks.as_slice()).unwrap_or_default();
        self.cursors = blocks.iter().map(|it| it.first()).collect();
    }

    /// Its content, where it counts.
    pub(super) fn active(&self) -> Option<&PoolContent> {
        self.pool.content.as_ref().ok().filter(|_| self.problem.is_none())
    }

    /// Whether it is for this Service.
    pub(super) fn selects(&self, claim: &Claim, namespace: &BTreeMap<String, String>) -> bool {
        let is_selected = |it: &PoolContent| {
            it.services.matches(&claim.labels) && it.namespaces.matches(namespace)
        };
        self.active().is_some_and(is_selected)
    }

    pub(super) fn has_family(&self, family: Family) -> bool {
        self.active().is_some_and(|it| it.blocks.iter().any(|it| it.family() == family))
    }

    /// The lowest free address of a family.
    pub(super) fn find_free(
        &mut self,
        family: Family,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let Ok(content) = &self.pool.content else { return None };
        for (block, cursor) in content.blocks.iter().zip(&mut self.cursors) {
            if block.family() != family {
                continue;
            }
            if let Some(free) = block.iter_from(*cursor).find(|it| !is_taken(*it)) {
                *cursor = free;
                return Some(free);
            }
            *cursor = block.last();
        }
        None
    }

    pub(super) fn release(&mut self, address: IpAddr) {
        let Ok(content) = &self.pool.content else { return };
        for (block, cursor) in content.blocks.iter().zip(&mut self.cursors) {
            if block.contains(address) {
                *cursor = (*cursor).min(address);
            }
        }
    }
}

/// Finds which pools count: those that can be used and share no address with an older one that
/// counts.
pub(super) fn settle_pools(pools: &mut BTreeMap<String, PoolState>) {
    let mut order: Vec<(String, String)> =
        pools.values().map(|it| (it.pool.created.clone(), it.pool.name.clone())).collect();
    order.sort();
    let mut counting: Vec<String> = Vec::new();
    for (_, name) in order {
        let problem = match &pools[&name].pool.content {
            Err(reason) => Some(PoolProblem::Invalid(reason.clone())),
            Ok(content) => {
                let is_overlapped = |older: &&String| {
                    pools[*older].pool.content.as_ref().is_ok_and(|it| it.overlaps(content))
                };
                let older = counting.iter().find(is_overlapped);
                older.map(|it| PoolProblem::Overlaps(it.clone()))
            }
        };
        if problem.is_none() {
            counting.push(name.clone());
        }
        if let Some(state) = pools.get_mut(&name) {
            state.problem = problem;
            state.rewind();
        }
    }
}
