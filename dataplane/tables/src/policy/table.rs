//! The rules of some endpoints, as workers ask them.

use std::sync::Arc;

use super::paged::Paged;
use super::row::{self, Row};
use super::rows::{
    Direction, L4, L4Protocol, PolicyAction, PolicyVerdict, Rule, RuleAction, RuleId,
};
use super::view::Peer;

/// The rules of some endpoints, ready to be asked. Cloning shares everything.
#[derive(Clone, Debug)]
pub struct PolicyTable {
    pub(super) name: Arc<str>,
    pub(super) since: u32,
    pub(super) is_closed: bool,
    pub(super) ingress: Side,
    pub(super) egress: Side,
}

/// One direction of a table.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) list: Arc<RuleList>,
    /// By group. Row 0 is about peers whom no rule names.
    pub(super) row_of: Paged<u32>,
    pub(super) rows: Paged<Option<Arc<Row>>>,
}

/// Rules in order, and the verdict of each; the last verdict is that of no rule.
#[derive(Debug)]
pub(super) struct RuleList {
    pub(super) rules: Vec<Rule>,
    pub(super) verdicts: Vec<PolicyVerdict>,
    /// Places of the rules about any peer.
    pub(super) any: Vec<u32>,
}

impl PolicyTable {
    /// The name of its rules.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its rules were refused, so that everything is denied.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The first rule that matches decides. One look-up, whatever the number of rules.
    #[inline]
    pub fn judge(&self, direction: Direction, peer: Peer, l4: L4) -> PolicyVerdict {
        let side = self.side(direction);
        match side.row(peer) {
            Some(row) => side.list.verdicts[row.decide(l4) as usize],
            None => PolicyVerdict::MISSING,
        }
    }

    /// A number for all that the rules say about a peer: those with the same are treated alike.
    pub fn row(&self, direction: Direction, peer: Peer) -> u32 {
        *self.side(direction).row_of.get(peer.group)
    }

    /// The newest revision in which the rules changed.
    pub fn since(&self) -> u32 {
        self.since
    }

    /// Whether there is any rule about a direction, or everything is denied.
    pub fn has_rules(&self, direction: Direction) -> bool {
        self.is_closed || !self.side(direction).list.rules.is_empty()
    }

    /// All rules of a direction, in order, with their numbers.
    pub fn rules(&self, direction: Direction) -> impl Iterator<Item = (RuleId, &Rule)> {
        let list = &self.side(direction).list;
        list.verdicts.iter().map(|verdict| verdict.rule).zip(&list.rules)
    }

    /// All rules that match, in order. The first one decides, unless it passes on to the next tier.
    pub fn matching(&self, direction: Direction, peer: Peer, l4: L4) -> Vec<&Rule> {
        let side = self.side(direction);
        let Some(row) = side.row(peer) else { return Vec::new() };
        let places = merge(&side.list.any, &row.matched);
        let rules = places.iter().map(|place| &side.list.rules[*place as usize]);
        rules.filter(|rule| row::matches(rule, l4)).collect()
    }

    /// The verdict for every port of a protocol: first and last port, without gaps, rising.
    pub fn ranges(
        &self,
        direction: Direction,
        peer: Peer,
        protocol: L4Protocol,
    ) -> Vec<(u16, u16, PolicyVerdict)> {
        let side = self.side(direction);
        let Some(row) = side.row(peer) else { return vec![(0, u16::MAX, PolicyVerdict::MISSING)] };
        let mut ranges: Vec<(u16, u16, PolicyVerdict)> = Vec::new();
        for (last, place) in row.spans(protocol) {
            let verdict = side.list.verdicts[place as usize];
            match ranges.last_mut() {
                Some(range) if range.2 == verdict => range.1 = last,
                Some(range) => {
                    let first = range.1 + 1;
                    ranges.push((first, last, verdict));
                }
                None => ranges.push((0, last, verdict)),
            }
        }
        ranges
    }

    /// Memory in bytes, without the text of its rules.
    pub fn bytes(&self) -> usize {
        let side = |side: &Side| {
            side.row_of.bytes()
                + side.rows.bytes()
                + side.list.verdicts.len() * 8
                + side.rows().map(|row| row.bytes()).sum::<usize>()
        };
        size_of::<PolicyTable>() + side(&self.ingress) + side(&self.egress)
    }

    /// Numbers of different rows, for ingress and egress.
    pub fn row_counts(&self) -> [usize; 2] {
        [self.ingress.rows().count(), self.egress.rows().count()]
    }

    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Side {
    #[inline]
    fn row(&self, peer: Peer) -> Option<&Row> {
        self.rows.get(*self.row_of.get(peer.group)).as_deref()
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().filter_map(|row| row.as_deref())
    }
}

/// Both lists in rising order; neither has a place of the other.
pub(super) fn merge(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut both = [a, b].concat();
    both.sort_unstable();
    both
}

/// What a rule does to a connection that it is the first to match, if it does anything.
pub(super) fn action_of(rule: &Rule) -> PolicyAction {
    match rule.action {
        RuleAction::Allow => PolicyAction::Allow,
        RuleAction::Deny | RuleAction::Pass => PolicyAction::Deny,
        RuleAction::Redirect { .. } => PolicyAction::Redirect,
    }
}
