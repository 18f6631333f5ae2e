//! The backends of a service port, and the choice among them.

use weir_packet::{Addr, FlowKey};

use crate::ids::BackendAddr;
use crate::jhash::flow_hash;
use crate::maglev::{MaglevParams, MaglevTable};

/// Whether a backend takes flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// Takes new flows only while no backend of the set is active (KEP-1669); keeps those it has.
    Terminating,
    /// Takes no new flows; keeps those it has.
    Maintenance,
}

/// One address and port that answers for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub addr: BackendAddr,
    pub state: BackendState,
    /// Share relative to the other backends, from 1.
    pub weight: u16,
    /// The node that it runs on, where known.
    pub node: Option<Addr>,
}

impl Backend {
    /// A backend whose node is not known.
    pub fn new(addr: BackendAddr, state: BackendState, weight: u16) -> Backend {
        Backend { addr, state, weight, node: None }
    }
}

/// How a backend is chosen for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// By the Maglev table: the same choice on every node and after every restart.
    Maglev,
    /// By the flow's hash over the weights: no table, for frontends inside the cluster.
    Hash,
}

/// The backends of one service port and family.
#[derive(Debug)]
pub struct BackendSet {
    name: String,
    protocol: u8,
    /// Sorted by address, so that a look-up is a binary search.
    backends: Vec<Backend>,
    choice: Choice,
    params: MaglevParams,
    /// No backend is active: terminating ones take flows.
    are_all_terminating: bool,
}

#[derive(Debug)]
enum Choice {
    Maglev(MaglevTable),
    /// Indices that take new flows, each with the sum of weights up to and including it.
    Hash(Vec<(u64, u16)>),
}

impl BackendSet {
    /// Most backends of one set.
    pub const BACKENDS_MAX: usize = 32_768;

    /// Builds the set and its table. `backends` are distinct in address.
    pub fn new(
        name: String,
        protocol: u8,
        algorithm: Algorithm,
        mut backends: Vec<Backend>,
        params: MaglevParams,
    ) -> BackendSet {
        backends.sort_unstable_by_key(|backend| backend.addr);
        let chosen = choose_takers(&backends);
        let are_all_terminating =
            !backends.iter().any(|backend| backend.state == BackendState::Active);
        let choice = match algorithm {
            Algorithm::Maglev => {
                Choice::Maglev(MaglevTable::build(&backends, &chosen, protocol, &params))
            }
            Algorithm::Hash => Choice::Hash(accumulate(&backends, &chosen)),
        };
        BackendSet { name, protocol, backends, choice, params, are_all_terminating }
    }

    /// The same backends under other parameters.
    pub(crate) fn with_params(&self, params: MaglevParams) -> BackendSet {
        let (name, backends) = (self.name.clone(), self.backends.clone());
        BackendSet::new(name, self.protocol, self.algorithm(), backends, params)
    }

    /// The set's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// IP protocol number of its frontends.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// All backends, whatever their state, sorted by address.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// How new flows are placed.
    pub fn algorithm(&self) -> Algorithm {
        match self.choice {
            Choice::Maglev(_) => Algorithm::Maglev,
            Choice::Hash(_) => Algorithm::Hash,
        }
    }

    /// The backend for a new flow; `None` where no backend takes any. `has_affinity` leaves the
    /// source port out of the choice, so that it is the same for all flows of a client.
    pub fn pick(&self, key: &FlowKey, has_affinity: bool) -> Option<&Backend> {
        let hash = flow_hash(key, has_affinity, &self.params);
        let index = match &self.choice {
            Choice::Maglev(table) => table.pick(hash)?,
            Choice::Hash(takers) => {
                let (total, _) = *takers.last()?;
                // lookup3 is even over 32 bits: the multiply spreads it over the sum of weights.
                let at = (u64::from(hash) * total) >> 32;
                takers[takers.partition_point(|&(upto, _)| upto <= at)].1
            }
        };
        self.backends.get(usize::from(index))
    }

    /// The backend at an address; flows to it go on in any state.
    pub fn get(&self, addr: &BackendAddr) -> Option<&Backend> {
        let at = self.backends.binary_search_by_key(addr, |backend| backend.addr).ok()?;
        self.backends.get(at)
    }

    /// The first backend at an IP address, by port.
    pub fn first_at(&self, addr: &Addr) -> Option<&Backend> {
        let at = self.backends.partition_point(|backend| backend.addr.addr < *addr);
        self.backends.get(at).filter(|backend| backend.addr.addr == *addr)
    }

    /// Whether a backend would be chosen for new flows now.
    pub fn takes_flows(&self, addr: &BackendAddr) -> bool {
        let Some(backend) = self.get(addr) else { return false };
        match backend.state {
            BackendState::Active => true,
            BackendState::Maintenance => false,
            BackendState::Terminating => self.are_all_terminating,
        }
    }
}

/// Indices of the backends that take new flows: the active ones, else the terminating ones.
fn choose_takers(backends: &[Backend]) -> Vec<u16> {
    let in_state = |state: BackendState| -> Vec<u16> {
        let all = backends.iter().enumerate();
        all.filter(|(_, backend)| backend.state == state).map(|(at, _)| at as u16).collect()
    };
    let active = in_state(BackendState::Active);
    if active.is_empty() { in_state(BackendState::Terminating) } else { active }
}

fn accumulate(backends: &[Backend], chosen: &[u16]) -> Vec<(u64, u16)> {
    let mut sum = 0;
    let add = |&index: &u16| {
        sum += u64::from(backends[usize::from(index)].weight);
        (sum, index)
    };
    chosen.iter().map(add).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(algorithm: Algorithm, states: &[(BackendState, u16)]) -> BackendSet {
        let backends = states.iter().enumerate().map(|(at, &(state, weight))| {
            let addr = Addr::from_v4([10, 0, 0, at as u8]);
            Backend::new(BackendAddr { addr, l4_port: 80 }, state, weight)
        });
        BackendSet::new("a/b".into(), 6, algorithm, backends.collect(), MaglevParams::default())
    }

    fn shares(set: &BackendSet) -> Vec<usize> {
        let mut counts = vec![0; set.backends().len()];
        for sport in 1..=60_000 {
            let src = Addr::from_v4([192, 0, 2, 7]);
            let key = FlowKey { src, sport, dport: 80, protocol: 6, ..FlowKey::default() };
            if let Some(backend) = set.pick(&key, false) {
                let at = set.backends().iter().position(|other| other.addr == backend.addr);
                counts[at.expect("picked from the set")] += 1;
            }
        }
        counts
    }

    #[test]
    fn shares_follow_weights_with_both_algorithms() {
        use BackendState::Active;
        for algorithm in [Algorithm::Maglev, Algorithm::Hash] {
            let counts = shares(&set(algorithm, &[(Active, 100), (Active, 300)]));
            assert!((14_000..16_000).contains(&counts[0]), "{algorithm:?}: {counts:?}");
            assert_eq!(counts[0] + counts[1], 60_000);
        }
    }

    #[test]
    fn terminating_backends_serve_only_while_none_is_active() {
        use BackendState::{Active, Maintenance, Terminating};
        for algorithm in [Algorithm::Maglev, Algorithm::Hash] {
            let mixed = set(algorithm, &[(Terminating, 100), (Active, 100), (Maintenance, 100)]);
            assert_eq!(shares(&mixed), [0, 60_000, 0]);
            let last = set(algorithm, &[(Terminating, 100), (Maintenance, 100)]);
            assert_eq!(shares(&last), [60_000, 0]);
            assert_eq!(shares(&set(algorithm, &[(Maintenance, 100)])), [0]);
            assert!(mixed.get(&mixed.backends()[2].addr).is_some(), "its flows go on");
        }
    }
}
