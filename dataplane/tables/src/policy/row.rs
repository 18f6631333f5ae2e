//! A row: the deciding rule for each protocol and port, found in four steps.

use std::collections::HashMap;

use super::rows::{L4, L4Protocol, Rule, RuleAction};

/// What the rules that are about a group of peers come to.
///
/// Per protocol a tree of 16 branches over the 16 bits of the port. Nodes that are equal are one
/// node. The first nodes stand for one rule each and lead to themselves, so that every look-up
/// takes four steps, however early it is decided.
#[derive(Debug)]
pub(super) struct Row {
    roots: [u32; L4Protocol::ALL.len()],
    nodes: Box<[[u32; 16]]>,
    /// What each of the first nodes stands for: a place in the list of rules.
    values: Box<[u32]>,
    /// Places of the rules that are about some of the group's selectors; those about any peer are
    /// not among them.
    pub(super) matched: Box<[u32]>,
}

impl Row {
    /// The row of `rules`, which are places in `all` in rising order. Where none matches, the place
    /// behind the last rule decides.
    pub(super) fn build(all: &[Rule], rules: &[u32], matched: &[u32]) -> Row {
        let mut builder = Builder::default();
        let trees = L4Protocol::ALL.map(|protocol| paint(all, rules, protocol));
        for span in trees.iter().flatten() {
            let value = builder.values.len() as u32;
            let node = *builder.uniform.entry(span.value).or_insert(value);
            if node == value {
                builder.values.push(span.value);
                builder.nodes.push([value; 16]);
            }
        }
        let roots = trees.map(|spans| builder.tree(&spans));
        Row {
            roots,
            nodes: builder.nodes.into(),
            values: builder.values.into(),
            matched: matched.into(),
        }
    }

    /// The place of the rule that decides.
    #[inline]
    pub(super) fn decide(&self, l4: L4) -> u32 {
        let mut node = self.roots[l4.protocol as usize];
        for shift in [12, 8, 4, 0] {
            node = self.nodes[node as usize][usize::from(l4.port >> shift & 0xf)];
        }
        self.values[node as usize]
    }

    /// The deciding rule of all ports: last port and place, in rising order.
    pub(super) fn spans(&self, protocol: L4Protocol) -> Vec<(u16, u32)> {
        let mut spans = Vec::new();
        self.walk(self.roots[protocol as usize], 0, 16, &mut spans);
        spans
    }

    fn walk(&self, node: u32, first: u32, bits: u32, spans: &mut Vec<(u16, u32)>) {
        if let Some(value) = self.values.get(node as usize) {
            let last = (first + (1 << bits) - 1) as u16;
            match spans.last_mut() {
                Some(span) if span.1 == *value => span.0 = last,
                _ => spans.push((last, *value)),
            }
            return;
        }
        let bits = bits - 4;
        for (at, child) in self.nodes[node as usize].iter().enumerate() {
            self.walk(*child, first + ((at as u32) << bits), bits, spans);
        }
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Row>() + self.nodes.len() * 64 + (self.values.len() + self.matched.len()) * 4
    }
}

/// Whether a rule is about a protocol and port.
pub(super) fn matches(rule: &Rule, l4: L4) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|ports| {
            ports.protocol == l4.protocol && (ports.first..=ports.last).contains(&l4.port)
        })
}

/// Ports up to `last` that one rule decides.
#[derive(Clone, Copy, Debug)]
struct Span {
    last: u16,
    value: u32,
}

/// The deciding rule of every port. Tiers from the last to the first: what a tier leaves open, or
/// passes on, is as the tiers behind it have it.
fn paint(all: &[Rule], rules: &[u32], protocol: L4Protocol) -> Vec<Span> {
    let lasts = boundaries(all, rules, protocol);
    let mut decided = vec![all.len() as u32; lasts.len()];
    let tier = |place: &u32| all[*place as usize].tier;
    for tier in rules.chunk_by(|a, b| tier(a) == tier(b)).rev() {
        // The next span that no rule of the tier has taken, from each span on.
        let mut open: Vec<u32> = (0..=lasts.len() as u32).collect();
        for place in tier {
            let rule = &all[*place as usize];
            for (first, last) in ranges(rule, protocol) {
                let end = span_of(&lasts, last) as u32;
                let mut at = find(&mut open, span_of(&lasts, first) as u32);
                while at <= end {
                    if rule.action != RuleAction::Pass {
                        decided[at as usize] = *place;
                    }
                    open[at as usize] = at + 1;
                    at = find(&mut open, at + 1);
                }
            }
        }
    }
    let mut spans: Vec<Span> = Vec::new();
    for (last, value) in lasts.into_iter().zip(decided) {
        match spans.last_mut() {
            Some(span) if span.value == value => span.last = last,
            _ => spans.push(Span { last, value }),
        }
    }
    spans
}

/// The ranges of a rule for one protocol.
fn ranges(rule: &Rule, protocol: L4Protocol) -> impl Iterator<Item = (u16, u16)> {
    let all = rule.ports.is_empty().then_some((0, u16::MAX));
    let some = rule.ports.iter().filter(move |ports| ports.protocol == protocol);
    all.into_iter().chain(some.map(|ports| (ports.first, ports.last)))
}

/// The last ports of the spans that no rule's range ends inside of.
fn boundaries(all: &[Rule], rules: &[u32], protocol: L4Protocol) -> Vec<u16> {
    let mut lasts = vec![u16::MAX];
    for (first, last) in rules.iter().flat_map(|at| ranges(&all[*at as usize], protocol)) {
        lasts.extend(first.checked_sub(1));
        lasts.push(last);
    }
    lasts.sort_unstable();
    lasts.dedup();
    lasts
}

/// The span that a port is in.
fn span_of(lasts: &[u16], port: u16) -> usize {
    lasts.partition_point(|last| *last < port)
}

/// The first open span from `at` on; shortens the way for the next search.
fn find(open: &mut [u32], mut at: u32) -> u32 {
    while open[at as usize] != at {
        let next = open[at as usize];
        open[at as usize] = open[next as usize];
        at = next;
    }
    at
}

#[derive(Default)]
struct Builder {
    nodes: Vec<[u32; 16]>,
    values: Vec<u32>,
    uniform: HashMap<u32, u32>,
    known: HashMap<[u32; 16], u32>,
}

impl Builder {
    fn tree(&mut self, spans: &[Span]) -> u32 {
        let mut rest = spans;
        self.node(&mut rest, 0, 16)
    }

    /// The node of the `2^bits` ports from `first` on. `spans` begin with that of `first`.
    fn node(&mut self, spans: &mut &[Span], first: u32, bits: u32) -> u32 {
        while u32::from(spans[0].last) < first {
            *spans = &spans[1..];
        }
        if u32::from(spans[0].last) >= first + (1 << bits) - 1 {
            return self.uniform[&spans[0].value];
        }
        let bits = bits - 4;
        let mut node = [0; 16];
        for (at, child) in node.iter_mut().enumerate() {
            *child = self.node(spans, first + ((at as u32) << bits), bits);
        }
        let next = self.nodes.len() as u32;
        let at = *self.known.entry(node).or_insert(next);
        if at == next {
            self.nodes.push(node);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::rows::{PortRange, RulePeers};

    fn rule(tier: u8, action: RuleAction, ranges: &[(u16, u16)]) -> Rule {
        let tcp = |(first, last): &(u16, u16)| PortRange {
            protocol: L4Protocol::Tcp,
            first: *first.min(last),
            last: *first.max(last),
        };
        Rule {
            tier,
            action,
            peers: RulePeers::Any,
            ports: ranges.iter().map(tcp).collect(),
            origin: String::new(),
            log: String::new(),
        }
    }

    fn build(rules: &[Rule]) -> Row {
        let places: Vec<u32> = (0..rules.len() as u32).collect();
        Row::build(rules, &places, &[])
    }

    fn tcp(port: u16) -> L4 {
        L4 { protocol: L4Protocol::Tcp, port }
    }

    #[test]
    fn ports_that_are_treated_alike_share_nodes() {
        let row = build(&[rule(0, RuleAction::Allow, &[(80, 80), (443, 443)])]);
        assert_eq!([79, 80, 81, 443].map(|port| row.decide(tcp(port))), [1, 0, 1, 0]);
        assert_eq!(row.decide(L4 { protocol: L4Protocol::Udp, port: 80 }), 1);
        assert!(row.nodes.len() <= 2 + 4 + 2, "{} nodes", row.nodes.len());
        assert_eq!(build(&[]).nodes.len(), 1, "one rule for everything is one node");
        let every_other: Vec<(u16, u16)> = (0..1 << 15).map(|at| (at * 2, at * 2)).collect();
        assert_eq!(build(&[rule(0, RuleAction::Deny, &every_other)]).nodes.len(), 2 + 4);
    }

    #[test]
    fn pass_leaves_it_to_the_next_tier_only_where_it_came_first() {
        let row = build(&[
            rule(0, RuleAction::Deny, &[(10, 20)]),
            rule(0, RuleAction::Pass, &[(15, 30)]),
            rule(0, RuleAction::Deny, &[]),
            rule(1, RuleAction::Allow, &[(25, 25)]),
            rule(2, RuleAction::Deny, &[(26, 26)]),
        ]);
        let decided = [9, 10, 18, 21, 25, 26, 30, 31].map(|port| row.decide(tcp(port)));
        assert_eq!(decided, [2, 0, 0, 5, 3, 4, 5, 2]);
        let spans = [(9, 2), (20, 0), (24, 5), (25, 3), (26, 4), (30, 5), (u16::MAX, 2)];
        assert_eq!(row.spans(L4Protocol::Tcp), spans);
    }

    proptest! {
        #[test]
        fn a_row_equals_going_through_the_rules(
            mut rules in prop::collection::vec(
                (0u8..3, 0u8..3, prop::collection::vec((any::<u16>(), any::<u16>()), 0..4)),
                0..30,
            ),
            ports in prop::collection::vec(any::<u16>(), 30),
        ) {
            rules.sort_by_key(|rule| rule.0);
            let ends = rules.iter().flat_map(|(_, _, ranges)| ranges);
            let ends = ends.flat_map(|(a, b)| [*a, *b, a.wrapping_sub(1), b.wrapping_add(1)]);
            let ports: Vec<u16> = ports.into_iter().chain(ends).collect();
            let action = |number| match number {
                0 => RuleAction::Allow,
                1 => RuleAction::Deny,
                _ => RuleAction::Pass,
            };
            let rules: Vec<Rule> =
                rules.iter().map(|(tier, number, at)| rule(*tier, action(*number), at)).collect();
            let row = build(&rules);
            for port in ports {
                let mut passed = None;
                let mut expected = rules.len();
                for (at, rule) in rules.iter().enumerate() {
                    if passed == Some(rule.tier) || !matches(rule, tcp(port)) {
                        continue;
                    }
                    if rule.action != RuleAction::Pass {
                        expected = at;
                        break;
                    }
                    passed = Some(rule.tier);
                }
                prop_assert_eq!(row.decide(tcp(port)), expected as u32, "port {}", port);
            }
        }
    }
}
