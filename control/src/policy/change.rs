//! What the dataplane has to be told.

use std::collections::{BTreeMap, BTreeSet};

use weir_tables::Prefix;
use weir_tables::policy::{CidrSelector, Identity, IdentityId, PolicyRules, SelectorId};

use super::PolicyState;
use super::selectors::SelectorKey;
use crate::model::{Cidr, GroupChoice, Name};

/// Rows that are new or differ (`Some`) or are gone (`None`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyChanges {
    /// By number.
    pub identities: BTreeMap<IdentityId, Option<Identity>>,
    /// Of addresses and ranges.
    pub addresses: BTreeMap<Prefix, Option<IdentityId>>,
    /// By number.
    pub selectors: BTreeMap<SelectorId, Option<CidrSelector>>,
    /// By name.
    pub rules: BTreeMap<String, Option<PolicyRules>>,
    /// Endpoints whose [`super::EndpointPolicy`] differs, or that are not local any more.
    pub endpoints: BTreeSet<Name>,
}

/// As the dataplane's tables have it.
pub(super) fn to_prefix(range: Cidr) -> Prefix {
    Prefix::new(range.address().into(), range.length()).expect("a range's length fits its family")
}

impl PolicyState {
    pub(super) fn take_changes(&mut self) -> PolicyChanges {
        let addresses = self.peers.addresses.take_changes().into_iter();
        let rows = std::mem::take(&mut self.names.changed_rows).into_iter();
        PolicyChanges {
            identities: self.peers.identities.take_changes(),
            addresses: addresses.map(|(range, id)| (to_prefix(range), id)).collect(),
            selectors: rows.map(|id| (id, self.write_selector(id))).collect(),
            rules: self.take_rules(),
            endpoints: std::mem::take(&mut self.changed_endpoints),
        }
    }

    /// `None` for one that is gone, or not about addresses.
    fn write_selector(&self, id: SelectorId) -> Option<CidrSelector> {
        let write = |ranges: Vec<Cidr>, except: &[Cidr], is_world_only| CidrSelector {
            id,
            prefixes: ranges.into_iter().map(to_prefix).collect(),
            except: except.iter().copied().map(to_prefix).collect(),
            is_world_only,
        };
        Some(match self.peers.selectors.key(id)? {
            SelectorKey::Identities(_) | SelectorKey::Fqdn(_) => return None,
            SelectorKey::Block(block) => {
                write(vec![block.cidr], &block.except, block.is_world_only)
            }
            SelectorKey::Addresses(all) => write(all.iter().copied().collect(), &[], false),
            SelectorKey::Groups(choice, except) => write(self.list_ranges(choice), except, true),
        })
    }

    /// The ranges of groups.
    pub(super) fn list_ranges(&self, choice: &GroupChoice) -> Vec<Cidr> {
        let groups = self.objects.groups.values();
        let chosen = groups.filter(|it| match choice {
            GroupChoice::Name(name) => it.name.name == *name,
            GroupChoice::Labels(selector) => selector.matches(&it.labels),
        });
        let ranges: BTreeSet<Cidr> = chosen.flat_map(|it| it.cidrs.iter().copied()).collect();
        ranges.into_iter().collect()
    }
}
