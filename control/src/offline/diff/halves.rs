//! What the rules of one end say about a peer, before and after.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weir_tables::policy::{
    Direction, L4Protocol, Peer, PolicyAction, PolicyTable, PortRange, RuleId,
};

use crate::offline::cluster::{Cluster, PodRules};
use crate::offline::{Reason, Verdict};

/// Rules of an endpoint in both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TablesId(u32);

/// What is known of a peer in both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(pub(super) u32);

/// A [`Half`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct HalfId(u32);

/// Where there are no rules in either version.
pub(super) const OPEN: HalfId = HalfId(0);

/// What one end says about the ports of a peer: ranges without gaps, in rising order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Half {
    pub(super) segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub(super) ports: PortRange,
    pub(super) old: Cell,
    pub(super) new: Cell,
}

/// What one version says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    pub(super) verdict: Verdict,
    /// Number of the deciding rule's text; 0: no rule decides.
    pub(super) text: u32,
}

const ALLOWED: Cell = Cell { verdict: Verdict::Allowed, text: 0 };

/// Rules in one version: as other nodes' addresses see them, and as its own node's does.
#[derive(Debug, Clone)]
enum Rules {
    None,
    Closed,
    Tables([(u32, Arc<PolicyTable>); 2]),
}

struct Class {
    old: Peer,
    new: Peer,
    is_home: bool,
}

/// Rules, classes and halves, each once.
pub(super) struct Halves<'a> {
    old: &'a Cluster,
    new: &'a Cluster,
    tables: Vec<[Rules; 2]>,
    tables_by_numbers: HashMap<[u32; 2], TablesId>,
    table_numbers: HashMap<*const PolicyTable, u32>,
    classes: Vec<Class>,
    classes_by_peers: HashMap<[u32; 5], Vec<ClassId>>,
    halves: Vec<Half>,
    is_changed: Vec<bool>,
    by_content: BTreeMap<Half, HalfId>,
    by_rows: HashMap<(Direction, [u64; 2]), HalfId>,
    texts: Vec<String>,
    text_numbers: HashMap<String, u32>,
}

impl<'a> Halves<'a> {
    pub(super) fn new(old: &'a Cluster, new: &'a Cluster) -> Self {
        let mut halves = Self {
            old,
            new,
            tables: Vec::new(),
            tables_by_numbers: HashMap::new(),
            table_numbers: HashMap::new(),
            classes: Vec::new(),
            classes_by_peers: HashMap::new(),
            halves: Vec::new(),
            is_changed: Vec::new(),
            by_content: BTreeMap::new(),
            by_rows: HashMap::new(),
            texts: vec![String::new()],
            text_numbers: HashMap::new(),
        };
        let open = halves.make_half([None, None], Direction::Ingress);
        assert_eq!(halves.add_half(open), OPEN, "the first half is open");
        halves
    }

    pub(super) fn add_tables(&mut self, old: &PodRules, new: &PodRules) -> TablesId {
        let rules = [old, new].map(|it| match it {
            PodRules::None => Rules::None,
            PodRules::Closed => Rules::Closed,
            PodRules::Table(tables) => Rules::Tables(tables.clone().map(|table| {
                let next = self.table_numbers.len() as u32 + 2;
                (*self.table_numbers.entry(Arc::as_ptr(&table)).or_insert(next), table)
            })),
        });
        let numbers = [0, 1].map(|side| match &rules[side] {
            Rules::None => 0,
            Rules::Closed => 1,
            Rules::Tables([(number, _), _]) => *number,
        });
        let next = TablesId(self.tables.len() as u32);
        let id = *self.tables_by_numbers.entry(numbers).or_insert(next);
        if id == next {
            self.tables.push(rules);
        }
        id
    }

    /// A peer as most endpoints see it, or, `is_home`, as those see it whose node it is.
    pub(super) fn add_class(&mut self, old: Peer, new: Peer, is_home: bool) -> ClassId {
        let next = ClassId(self.classes.len() as u32);
        let key = [old.identity.0, old.since, new.identity.0, new.since, u32::from(is_home)];
        let known = self.classes_by_peers.entry(key).or_default();
        let same = known.iter().find(|id| {
            let class = &self.classes[id.0 as usize];
            class.old == old && class.new == new
        });
        if let Some(id) = same {
            return *id;
        }
        known.push(next);
        self.classes.push(Class { old, new, is_home });
        next
    }

    /// What rules say about a peer.
    pub(super) fn find(&mut self, id: TablesId, direction: Direction, class: ClassId) -> HalfId {
        let Class { old, new, is_home } = self.classes[class.0 as usize];
        let [old_rules, new_rules] = &self.tables[id.0 as usize];
        let side = usize::from(is_home);
        let rows = [(old_rules, old), (new_rules, new)].map(|(rules, peer)| match rules {
            Rules::None => 0,
            Rules::Closed => 1,
            Rules::Tables(tables) => {
                let (number, table) = &tables[side];
                u64::from(*number) << 32 | u64::from(table.row(direction, peer))
            }
        });
        if let Some(half) = self.by_rows.get(&(direction, rows)) {
            return *half;
        }
        let asked = [(old_rules, old), (new_rules, new)].map(|(rules, peer)| match rules {
            Rules::None => None,
            Rules::Closed => Some((None, peer)),
            Rules::Tables(tables) => Some((Some(tables[side].1.clone()), peer)),
        });
        let half = self.make_half(asked, direction);
        let half = self.add_half(half);
        self.by_rows.insert((direction, rows), half);
        half
    }

    fn add_half(&mut self, half: Half) -> HalfId {
        let next = HalfId(self.halves.len() as u32);
        let id = *self.by_content.entry(half.clone()).or_insert(next);
        if id == next {
            let is_changed = half.segments.iter().any(|it| it.old.verdict != it.new.verdict);
            self.is_changed.push(is_changed);
            self.halves.push(half);
        }
        id
    }

    /// For both versions: nothing is denied, or the rules, if they could be made.
    fn make_half(
        &mut self,
        asked: [Option<(Option<Arc<PolicyTable>>, Peer)>; 2],
        direction: Direction,
    ) -> Half {
        let mut segments = Vec::new();
        for protocol in L4Protocol::ALL {
            let [old, new] = [0, 1].map(|side| {
                let cluster = if side == 0 { self.old } else { self.new };
                let asked = asked[side].as_ref().map(|(table, peer)| (table.as_deref(), *peer));
                self.list_cells(cluster, asked, direction, protocol)
            });
            merge(&old, &new, |first, last, old, new| {
                let ports = PortRange { protocol, first, last };
                segments.push(Segment { ports, old, new });
            });
        }
        Half { segments }
    }

    fn list_cells(
        &mut self,
        cluster: &Cluster,
        asked: Option<(Option<&PolicyTable>, Peer)>,
        direction: Direction,
        protocol: L4Protocol,
    ) -> Vec<(u16, Cell)> {
        let last_port = last_port(protocol);
        match asked {
            None => vec![(last_port, ALLOWED)],
            Some((None, _)) => vec![(last_port, self.closed())],
            Some((Some(table), peer)) => {
                let ranges = table.ranges(direction, peer, protocol);
                let known = ranges.into_iter().filter(|(first, ..)| *first <= last_port);
                let cells = known.map(|(_, last, verdict)| {
                    let text = match verdict.rule {
                        RuleId::NONE => 0,
                        RuleId::MISSING => self.closed().text,
                        rule => self.add_text(cluster.rule_text(rule)),
                    };
                    (last.min(last_port), Cell { verdict: verdict.action.into(), text })
                });
                cells.collect()
            }
        }
    }

    fn closed(&mut self) -> Cell {
        let text = Reason::Closed.explain().unwrap_or_default();
        Cell { verdict: PolicyAction::Deny.into(), text: self.add_text(text) }
    }

    fn add_text(&mut self, text: &str) -> u32 {
        if let Some(number) = self.text_numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.text_numbers.insert(text.to_owned(), number);
        number
    }

    pub(super) fn half(&self, id: HalfId) -> &Half {
        &self.halves[id.0 as usize]
    }

    /// Whether the verdict on any port differs.
    pub(super) fn is_changed(&self, id: HalfId) -> bool {
        self.is_changed[id.0 as usize]
    }

    /// A rule's text.
    pub(super) fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }
}

/// The last port that a packet can have, or the last type or number in its place.
pub(super) fn last_port(protocol: L4Protocol) -> u16 {
    match protocol {
        L4Protocol::Tcp | L4Protocol::Udp | L4Protocol::Sctp => u16::MAX,
        L4Protocol::Icmp | L4Protocol::Icmpv6 | L4Protocol::Other => 255,
    }
}

/// Walks two lists of (last port, value), both up to one last port, in the ranges in which neither
/// changes.
pub(super) fn merge<A: Copy, B: Copy>(
    a: &[(u16, A)],
    b: &[(u16, B)],
    mut each: impl FnMut(u16, u16, A, B),
) {
    let (mut i, mut k, mut first) = (0, 0, 0);
    while let (Some((last_a, in_a)), Some((last_b, in_b))) = (a.get(i), b.get(k)) {
        let last = *last_a.min(last_b);
        each(first, last, *in_a, *in_b);
        i += usize::from(*last_a == last);
        k += usize::from(*last_b == last);
        first = last.saturating_add(1);
    }
}
