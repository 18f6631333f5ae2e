//! Two versions of a cluster: which connections a change opens or closes.
//!
//! ```text
//!  pods, nodes, outside ranges  --units-->  groups: same rules and same class in both versions
//!  (rules, class of the peer)   --halves--> what one end says about each port, before and after
//!  egress half x ingress half   --pairs-->  what becomes of each port between two groups
//!  equal results                --lines-->  few lines, each with everybody whom it is about
//! ```
//!
//! The work grows with the rules and classes that differ, not with the pairs of pods.

mod halves;
mod lines;
mod names;
mod pairs;
mod ranges;
mod units;

use weir_tables::policy::PortRange;

use super::Cluster;

/// What becomes of connections that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// They were denied and pass.
    Opens,
    /// They passed and are denied.
    Closes,
    /// They passed if L7 rules allowed it, and now pass anyway.
    Widens,
    /// They passed, and now only if L7 rules allow it.
    Narrows,
}

impl Effect {
    /// As it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::Closes => "closes",
            Self::Widens => "widens",
            Self::Narrows => "narrows",
        }
    }
}

/// One difference, and everybody whom it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happens.
    pub effect: Effect,
    /// Who opens the connections.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// On which ports; ICMP types and protocol numbers stand in place of ports.
    pub ports: Vec<PortRange>,
    /// Rules of the new version that do it.
    pub by: Vec<String>,
    /// Rules of the old version that did the opposite, where no rule of the new one says anything.
    pub was: Vec<String>,
    /// Connections between two workloads that it is about, not counting ports.
    pub pairs: u64,
}

/// Some pods, nodes and ranges of outside addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// In few words.
    pub text: String,
    /// All of them by name.
    pub members: Vec<String>,
}

/// All differences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What differs.
    pub changes: Vec<Change>,
    /// Pods that only the old version has, and none with the same labels in the new one: they are
    /// not compared.
    pub only_old: Vec<String>,
    /// The same of the new version.
    pub only_new: Vec<String>,
}

/// Compares what two versions of a cluster allow.
#[must_use]
pub fn compare(old: &Cluster, new: &Cluster) -> Comparison {
    let mut halves = halves::Halves::new(old, new);
    let units = units::Units::new(old, new, &mut halves);
    let found = pairs::find_pairs(&units, &mut halves);
    let names = names::Names::new(old, new, &units);
    let changes = lines::make_lines(found, &units, &halves, &names);
    Comparison { changes, only_old: units.only_old, only_new: units.only_new }
}
