//! What becomes of each port between two groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weir_tables::policy::{Direction, PortRange};

use super::Effect;
use super::halves::{Cell, ClassId, HalfId, Halves, OPEN, Segment, TablesId, merge};
use super::units::{Face, Traits, Units};
use crate::offline::Verdict;

/// One difference between two groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Difference {
    pub(super) effect: Effect,
    pub(super) ports: Vec<PortRange>,
    /// Numbers of rules' texts.
    pub(super) by: Vec<u32>,
    pub(super) was: Vec<u32>,
}

/// Who is at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Side {
    Group(u32),
    /// The node of whoever is at the other end.
    OwnNode,
}

/// Differences, each with the pairs that it is between, in rising order.
pub(super) type Found = Vec<(Difference, Vec<(Side, Side)>)>;

/// Finds all differences.
pub(super) fn find_pairs(units: &Units, halves: &mut Halves<'_>) -> Found {
    let mut finder = Finder {
        units,
        halves,
        combined: HashMap::new(),
        lists: Vec::new(),
        numbers: BTreeMap::new(),
        found: Found::new(),
    };
    for (from, to) in finder.list_candidates() {
        finder.compare_groups(from, to);
    }
    finder.compare_own_nodes();
    let mut found = finder.found;
    for (_, pairs) in &mut found {
        pairs.sort_unstable();
        pairs.dedup();
    }
    found.sort_unstable();
    found
}

struct Finder<'u, 'h, 'a> {
    units: &'u Units,
    halves: &'h mut Halves<'a>,
    combined: HashMap<(HalfId, HalfId, Face), usize>,
    /// What two halves come to: places in `found`.
    lists: Vec<Vec<usize>>,
    numbers: BTreeMap<Difference, usize>,
    found: Found,
}

impl Finder<'_, '_, '_> {
    /// Pairs of groups of which one end says something else than before.
    fn list_candidates(&mut self) -> Vec<(u32, u32)> {
        let mut by_tables: HashMap<TablesId, Vec<u32>> = HashMap::new();
        let mut by_class: BTreeMap<ClassId, Vec<u32>> = BTreeMap::new();
        for (group, number) in self.units.groups.iter().zip(0..) {
            if let Some(tables) = group.traits.tables {
                by_tables.entry(tables).or_default().push(number);
            }
            for (_, class) in &group.traits.faces {
                by_class.entry(*class).or_default().push(number);
            }
        }
        let mut candidates = Vec::new();
        for (tables, owners) in &by_tables {
            for (class, peers) in &by_class {
                let pairs = || owners.iter().flat_map(|own| peers.iter().map(|peer| (*own, *peer)));
                if self.has_changed(*tables, Direction::Egress, *class) {
                    candidates.extend(pairs());
                }
                if self.has_changed(*tables, Direction::Ingress, *class) {
                    candidates.extend(pairs().map(|(own, peer)| (peer, own)));
                }
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    fn has_changed(&mut self, tables: TablesId, direction: Direction, class: ClassId) -> bool {
        let half = self.halves.find(tables, direction, class);
        self.halves.is_changed(half)
    }

    fn compare_groups(&mut self, from: u32, to: u32) {
        let units = self.units;
        let (a, b) = (&units.groups[from as usize], &units.groups[to as usize]);
        // A node always reaches its own pods.
        if units.is_node_of_all(a, b) {
            return;
        }
        for (a_face, a_class) in &a.traits.faces {
            for (b_face, b_class) in &b.traits.faces {
                let Some(face) = a_face.meet(*b_face) else { continue };
                let egress = self.find(&a.traits, Direction::Egress, *b_class);
                let ingress = self.find(&b.traits, Direction::Ingress, *a_class);
                self.note((Side::Group(from), Side::Group(to)), egress, ingress, face);
            }
        }
    }

    fn find(&mut self, traits: &Traits, direction: Direction, class: ClassId) -> HalfId {
        match traits.tables {
            Some(tables) => self.halves.find(tables, direction, class),
            None => OPEN,
        }
    }

    /// Pods to their own nodes; the other way is always open.
    fn compare_own_nodes(&mut self) {
        let units = self.units;
        for (group, number) in units.groups.iter().zip(0..) {
            for (face, class) in &group.traits.home {
                let egress = self.find(&group.traits, Direction::Egress, *class);
                self.note((Side::Group(number), Side::OwnNode), egress, OPEN, *face);
            }
        }
    }

    fn note(&mut self, pair: (Side, Side), egress: HalfId, ingress: HalfId, face: Face) {
        let key = (egress, ingress, face);
        let list = match self.combined.get(&key) {
            Some(list) => *list,
            None => {
                let list = combine(self.halves, egress, ingress, face);
                let list = list.into_iter().map(|it| self.number(it)).collect();
                self.lists.push(list);
                self.combined.insert(key, self.lists.len() - 1);
                self.lists.len() - 1
            }
        };
        for number in &self.lists[list] {
            self.found[*number].1.push(pair);
        }
    }

    fn number(&mut self, difference: Difference) -> usize {
        let next = self.found.len();
        let number = *self.numbers.entry(difference.clone()).or_insert(next);
        if number == next {
            self.found.push((difference, Vec::new()));
        }
        number
    }
}

/// Both ends together.
fn combine(halves: &Halves<'_>, egress: HalfId, ingress: HalfId, face: Face) -> Vec<Difference> {
    type Key = (Effect, Vec<u32>, Vec<u32>);
    let mut found: BTreeMap<Key, Vec<PortRange>> = BTreeMap::new();
    let ends = [egress, ingress].map(|it| halves.half(it));
    let parts =
        ends.map(|half| half.segments.chunk_by(|a, b| a.ports.protocol == b.ports.protocol));
    let [egress, ingress] = parts;
    for (egress, ingress) in egress.zip(ingress) {
        let protocol = egress[0].ports.protocol;
        if !face.has(protocol) {
            continue;
        }
        let cells = |segments: &[Segment]| -> Vec<(u16, [Cell; 2])> {
            segments.iter().map(|it| (it.ports.last, [it.old, it.new])).collect()
        };
        merge(&cells(egress), &cells(ingress), |first, last, egress, ingress| {
            let Some(key) = name_difference([egress, ingress]) else { return };
            let ranges = found.entry(key).or_default();
            match ranges.last_mut() {
                Some(range)
                    if range.protocol == protocol && range.last.checked_add(1) == Some(first) =>
                {
                    range.last = last;
                }
                _ => ranges.push(PortRange { protocol, first, last }),
            }
        });
    }
    let make = |((effect, by, was), ports)| Difference { effect, ports, by, was };
    found.into_iter().map(make).collect()
}

/// What the halves, each [old, new], come to together, and by which rules.
fn name_difference(halves: [[Cell; 2]; 2]) -> Option<(Effect, Vec<u32>, Vec<u32>)> {
    let overall = |version: usize| halves[0][version].verdict.max(halves[1][version].verdict);
    let effect = match (overall(0), overall(1)) {
        (old, new) if old == new => return None,
        (Verdict::Denied, _) => Effect::Opens,
        (_, Verdict::Denied) => Effect::Closes,
        (Verdict::Redirect, _) => Effect::Widens,
        (_, _) => Effect::Narrows,
    };
    // The ends that are as strict as the stricter version is.
    let strict = match effect {
        Effect::Opens | Effect::Widens => 0,
        Effect::Closes | Effect::Narrows => 1,
    };
    let verdict = overall(strict);
    let ends = halves.iter().filter(|half| half[strict].verdict == verdict);
    let rules = |version: usize| -> Vec<u32> {
        let texts = ends.clone().map(|half| half[version].text).filter(|it| *it != 0);
        BTreeSet::from_iter(texts).into_iter().collect()
    };
    let by = rules(1);
    let was = if by.is_empty() { rules(0) } else { Vec::new() };
    Some((effect, by, was))
}
