//! The writer's side of a table: which row each group of peers has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::origins::Origins;
use super::paged::{Numbers, Paged};
use super::row::Row;
use super::rows::{PolicyRules, PolicyVerdict, Rule, RulePeers, SelectorId};
use super::table::{self, PolicyTable, RuleList, Side};

/// A table, and what it takes to change it.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) table: PolicyTable,
    ingress: Index,
    egress: Index,
}

/// What leads from selectors to the rows of a side.
#[derive(Debug, Default)]
struct Index {
    /// Places of the rules about a selector, in rising order.
    by_selector: BTreeMap<SelectorId, Vec<u32>>,
    rows: HashMap<Box<[u32]>, RowUse>,
    numbers: Numbers,
}

/// A row by its number, and how many groups have it.
#[derive(Debug)]
struct RowUse {
    row: u32,
    groups: u32,
}

impl Compiled {
    /// Rules without any group yet.
    pub(super) fn new(rules: PolicyRules, since: u32, origins: &mut Origins) -> Compiled {
        let (ingress, egress) = (Index::new(&rules.ingress), Index::new(&rules.egress));
        let table = PolicyTable {
            name: rules.name.into(),
            since,
            is_closed: false,
            ingress: side(rules.ingress, PolicyVerdict::NO_POLICY, origins),
            egress: side(rules.egress, PolicyVerdict::NO_POLICY, origins),
        };
        Compiled { table, ingress, egress }
    }

    /// A table that denies everything.
    pub(super) fn closed(name: &str, since: u32, origins: &mut Origins) -> Compiled {
        let mut side = || side(Vec::new(), PolicyVerdict::MISSING, origins);
        let table = PolicyTable {
            name: name.into(),
            since,
            is_closed: true,
            ingress: side(),
            egress: side(),
        };
        Compiled { table, ingress: Index::new(&[]), egress: Index::new(&[]) }
    }

    /// What it was made of; of a closed one nothing.
    pub(super) fn rules(&self) -> PolicyRules {
        PolicyRules {
            name: self.table.name.to_string(),
            ingress: self.table.ingress.list.rules.to_vec(),
            egress: self.table.egress.list.rules.to_vec(),
        }
    }

    /// Whether these are its rules already.
    pub(super) fn is_made_of(&self, rules: &PolicyRules) -> bool {
        !self.table.is_closed
            && self.table.ingress.list.rules == rules.ingress
            && self.table.egress.list.rules == rules.egress
    }

    /// All selectors that a rule is about, some of them twice.
    pub(super) fn selectors(&self) -> impl Iterator<Item = SelectorId> {
        self.ingress.by_selector.keys().chain(self.egress.by_selector.keys()).copied()
    }

    /// Gives a group, which is these selectors, its rows. No selectors: the group is no more.
    /// Whether that changed anything.
    pub(super) fn set_group(&mut self, group: u32, selectors: &[SelectorId]) -> bool {
        let ingress = self.ingress.set_group(&mut self.table.ingress, group, selectors);
        let egress = self.egress.set_group(&mut self.table.egress, group, selectors);
        ingress || egress
    }
}

fn side(rules: Vec<Rule>, otherwise: PolicyVerdict, origins: &mut Origins) -> Side {
    let verdict = |rule: &Rule| PolicyVerdict {
        action: table::action_of(rule),
        rule: origins.number(&rule.origin, &rule.log),
    };
    let verdicts = rules.iter().map(verdict).chain([otherwise]).collect();
    let numbered = rules.iter().zip(0..);
    let any = numbered.filter(|(rule, _)| rule.peers == RulePeers::Any).map(|(_, at)| at);
    let any: Vec<u32> = any.collect();
    let mut rows = Paged::default();
    rows.set(0, Some(Arc::new(Row::build(&rules, &any, &[]))));
    let list = Arc::new(RuleList { rules, verdicts, any });
    Side { list, row_of: Paged::default(), rows }
}

impl Index {
    fn new(rules: &[Rule]) -> Index {
        let mut index = Index::default();
        index.numbers.take();
        for (rule, at) in rules.iter().zip(0..) {
            let RulePeers::Of(selectors) = &rule.peers else { continue };
            for selector in selectors {
                let places = index.by_selector.entry(*selector).or_default();
                if places.last() != Some(&at) {
                    places.push(at);
                }
            }
        }
        index
    }

    fn set_group(&mut self, side: &mut Side, group: u32, selectors: &[SelectorId]) -> bool {
        let before = *side.row_of.get(group);
        let row = self.row_of(side, selectors);
        if row != before {
            side.row_of.set(group, row);
        }
        if before != 0 {
            self.release(side, before);
        }
        row != before
    }

    /// The row of a group, counted as one more use; 0 where no rule names one of its selectors.
    fn row_of(&mut self, side: &mut Side, selectors: &[SelectorId]) -> u32 {
        let lists = selectors.iter().filter_map(|selector| self.by_selector.get(selector));
        let mut matched: Vec<u32> = lists.flatten().copied().collect();
        if matched.is_empty() {
            return 0;
        }
        matched.sort_unstable();
        matched.dedup();
        if let Some(known) = self.rows.get_mut(&*matched) {
            known.groups += 1;
            return known.row;
        }
        let row = self.numbers.take();
        let places = table::merge(&side.list.any, &matched);
        let built = Row::build(&side.list.rules, &places, &matched);
        side.rows.set(row, Some(Arc::new(built)));
        self.rows.insert(matched.into(), RowUse { row, groups: 1 });
        row
    }

    fn release(&mut self, side: &mut Side, row: u32) {
        let Some(built) = side.rows.get(row).clone() else { return };
        let Some(known) = self.rows.get_mut(&*built.matched) else { return };
        known.groups -= 1;
        if known.groups == 0 {
            self.rows.remove(&*built.matched);
            side.rows.set(row, None);
            self.numbers.give_back(row);
        }
    }
}
