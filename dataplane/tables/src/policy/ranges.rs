//! Longest prefix match in a fixed number of steps: 8 for IPv4, 32 for IPv6.

use std::sync::Arc;

use weir_packet::Addr;

use crate::network::Prefix;

/// No region: the look-up keeps what it has.
const NONE: u32 = 0;

/// Regions by prefix, as a persistent tree of 16 branches over the bits of the address. Cloning
/// shares everything; a change copies the nodes on the way to it.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeTree {
    v4: Arc<Node>,
    v6: Arc<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Of the longest prefix that ends in this node and has the branch inside; with its length.
    regions: [u32; 16],
    lengths: [u8; 16],
    children: [Option<Arc<Node>>; 16],
}

/// Where every way ends: it leads to itself.
static EMPTY: Node = Node { regions: [NONE; 16], lengths: [0; 16], children: [const { None }; 16] };

impl RangeTree {
    /// The region of the longest prefix that contains the address, or `default`.
    #[inline]
    pub(super) fn lookup(&self, addr: &Addr, default: u32) -> u32 {
        let octets = addr.octets();
        let (mut node, octets) = match addr.is_v4() {
            true => (&*self.v4, &octets[12..]),
            false => (&*self.v6, &octets[..]),
        };
        let mut found = default;
        for octet in octets {
            for branch in [octet >> 4, octet & 0xf] {
                let branch = usize::from(branch);
                let region = node.regions[branch];
                found = if region == NONE { found } else { region };
                node = node.children[branch].as_deref().unwrap_or(&EMPTY);
            }
        }
        found
    }

    /// Adds a prefix of at least one bit.
    pub(super) fn insert(&mut self, prefix: &Prefix, region: u32) {
        debug_assert!(region != NONE && prefix.length() > 0, "the default is not in the tree");
        let (mut node, way) = self.way(prefix);
        for branch in way.branches {
            node = Arc::make_mut(node).children[branch].get_or_insert_default();
        }
        let node = Arc::make_mut(node);
        for at in way.last {
            if node.regions[at] == NONE || node.lengths[at] <= way.length {
                (node.regions[at], node.lengths[at]) = (region, way.length);
            }
        }
    }

    /// Removes a prefix. `others` tells which other prefixes there are.
    pub(super) fn remove(&mut self, prefix: &Prefix, others: impl Fn(&Prefix) -> Option<u32>) {
        let (node, way) = self.way(prefix);
        let base = (way.length - 1) / 4 * 4;
        let replace = |branch: usize| {
            let lengths = (base + 1..way.length).rev();
            let mut candidates = lengths.filter_map(|length| {
                let other = prefix.sibling(base, branch as u8, length);
                others(&other).map(|region| (region, length))
            });
            candidates.next().unwrap_or((NONE, 0))
        };
        remove_below(node, &way, 0, &replace);
    }

    fn way(&mut self, prefix: &Prefix) -> (&mut Arc<Node>, Way) {
        let octets = prefix.addr().octets();
        let (root, octets) = match prefix.addr().is_v4() {
            true => (&mut self.v4, &octets[12..]),
            false => (&mut self.v6, &octets[..]),
        };
        let nibbles: Vec<usize> =
            octets.iter().flat_map(|o| [usize::from(o >> 4), usize::from(o & 0xf)]).collect();
        let length = prefix.length();
        let depth = usize::from(length - 1) / 4;
        let width = 1 << (depth * 4 + 4 - usize::from(length));
        let first = nibbles[depth];
        (root, Way { branches: nibbles[..depth].to_vec(), last: first..first + width, length })
    }
}

/// The way to the node that a prefix ends in, and its branches there.
struct Way {
    branches: Vec<usize>,
    last: std::ops::Range<usize>,
    length: u8,
}

/// Removes a prefix below a node, and nodes that hold nothing any more.
fn remove_below(
    node: &mut Arc<Node>,
    way: &Way,
    depth: usize,
    replace: &impl Fn(usize) -> (u32, u8),
) {
    let node = Arc::make_mut(node);
    let Some(branch) = way.branches.get(depth) else {
        for at in way.last.clone() {
            if node.lengths[at] == way.length {
                (node.regions[at], node.lengths[at]) = replace(at);
            }
        }
        return;
    };
    let Some(child) = &mut node.children[*branch] else { return };
    remove_below(child, way, depth + 1, replace);
    let is_empty = child.regions == [NONE; 16] && child.children.iter().all(Option::is_none);
    if is_empty {
        node.children[*branch] = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Close to each other, so that prefixes nest.
    fn addr() -> impl Strategy<Value = Addr> {
        prop_oneof![
            (0u32..64, 0u32..4).prop_map(|(low, shift)| {
                Addr::from_v4((low.rotate_right(8 * shift)).to_be_bytes())
            }),
            (0u128..64, 0u32..16).prop_map(|(low, shift)| {
                Addr::from_v6((low.rotate_right(8 * shift + 3)).to_be_bytes())
            }),
            (0u128..64)
                .prop_map(|low| Addr::from_v6((0xffe0_0000_0000 + (low << 30)).to_be_bytes())),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (addr(), 1u8..=128).prop_map(|(addr, length)| {
            let most = if addr.is_v4() { 32 } else { 128 };
            Prefix::new(addr, (length - 1) % most + 1).expect("not too long")
        })
    }

    proptest! {
        #[test]
        fn lookup_equals_a_scan_of_what_is_left(
            prefixes in prop::collection::vec((prefix(), any::<bool>()), 0..60),
            addrs in prop::collection::vec(addr(), 40),
        ) {
            let mut tree = RangeTree::default();
            let mut left: BTreeMap<Prefix, u32> = BTreeMap::new();
            for (at, (prefix, _)) in prefixes.iter().enumerate() {
                tree.insert(prefix, at as u32 + 1);
                left.insert(*prefix, at as u32 + 1);
            }
            let before = (tree.clone(), left.clone());
            for (prefix, _) in prefixes.iter().filter(|(_, is_removed)| *is_removed) {
                if left.remove(prefix).is_some() {
                    tree.remove(prefix, |other| left.get(other).copied());
                }
            }
            for (tree, left) in [(&tree, &left), (&before.0, &before.1)] {
                let lasts = prefixes.iter().map(|(prefix, _)| prefix.last_addr());
                for addr in addrs.iter().copied().chain(lasts) {
                    let around = left.iter().filter(|(prefix, _)| prefix.contains(&addr));
                    let longest = around.max_by_key(|(prefix, _)| prefix.length());
                    prop_assert_eq!(tree.lookup(&addr, 9999), longest.map_or(9999, |it| *it.1));
                }
            }
            for (prefix, _) in &prefixes {
                if left.remove(prefix).is_some() {
                    tree.remove(prefix, |other| left.get(other).copied());
                }
            }
            for root in [&tree.v4, &tree.v6] {
                prop_assert_eq!(root.regions, [NONE; 16]);
                prop_assert!(root.children.iter().all(Option::is_none), "nothing is left over");
            }
        }
    }
}
