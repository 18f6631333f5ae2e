//! Equal differences together: as few lines as say it.

use std::collections::{BTreeSet, HashMap};

use super::halves::Halves;
use super::names::Names;
use super::pairs::{Found, Side};
use super::units::Units;
use super::{Change, Party};

/// Everybody of one set has to do with everybody of the other.
type Rectangle = (Vec<Side>, Vec<Side>);

pub(super) fn make_lines(
    found: Found,
    units: &Units,
    halves: &Halves<'_>,
    names: &Names<'_>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let texts = |numbers: &[u32]| -> Vec<String> {
        let mut texts: Vec<String> = numbers.iter().map(|it| halves.text(*it).to_owned()).collect();
        texts.sort();
        texts
    };
    for (difference, pairs) in found {
        for (from, to) in find_rectangles(pairs) {
            let count = count_pairs(units, &from, &to);
            // One pod alone always reaches itself.
            if count == 0 {
                continue;
            }
            changes.push(Change {
                effect: difference.effect,
                from: describe(units, names, &from),
                to: describe(units, names, &to),
                ports: difference.ports.clone(),
                by: texts(&difference.by),
                was: texts(&difference.was),
                pairs: count,
            });
        }
    }
    changes.sort_by(|a, b| {
        let key = |it: &Change| (it.effect, it.from.text.clone(), it.to.text.clone());
        key(a).cmp(&key(b)).then_with(|| (&a.by, &a.was, &a.ports).cmp(&(&b.by, &b.was, &b.ports)))
    });
    changes
}

/// Those who have the same others, together: from the side that gives fewer. Pairs and results are
/// in rising order.
fn find_rectangles(mut pairs: Vec<(Side, Side)>) -> Vec<Rectangle> {
    let by_from = collect(&pairs);
    for (from, to) in &mut pairs {
        std::mem::swap(from, to);
    }
    pairs.sort_unstable();
    let by_to = collect(&pairs);
    if by_to.len() < by_from.len() {
        by_to.into_iter().map(|(to, from)| (from, to)).collect()
    } else {
        by_from
    }
}

fn collect(pairs: &[(Side, Side)]) -> Vec<Rectangle> {
    let mut alike: HashMap<Vec<Side>, Vec<Side>> = HashMap::new();
    for run in pairs.chunk_by(|a, b| a.0 == b.0) {
        let others = run.iter().map(|(_, other)| *other).collect();
        alike.entry(others).or_default().push(run[0].0);
    }
    let mut rectangles: Vec<Rectangle> =
        alike.into_iter().map(|(others, own)| (own, others)).collect();
    rectangles.sort_unstable();
    rectangles
}

/// Pairs of two different units; a pod's own node is one.
fn count_pairs(units: &Units, from: &[Side], to: &[Side]) -> u64 {
    let size = |side: &Side| match side {
        Side::Group(group) => units.groups[*group as usize].units.len() as u64,
        Side::OwnNode => 1,
    };
    let total = |sides: &[Side]| sides.iter().map(size).sum::<u64>();
    let same: u64 = from.iter().filter(|it| to.binary_search(it).is_ok()).map(size).sum();
    total(from) * total(to) - same
}

fn describe(units: &Units, names: &Names<'_>, sides: &[Side]) -> Party {
    let mut members = BTreeSet::new();
    let mut own_node = false;
    for side in sides {
        match side {
            Side::Group(group) => members.extend(&units.groups[*group as usize].units),
            Side::OwnNode => own_node = true,
        }
    }
    names.describe(&members, own_node)
}
