//! Names that DNS answered, and how long their addresses count. Time comes from outside.
//!
//! An address counts until its TTL is over, and longer while connections with it live: whoever
//! knows of connections says so with [`NameCache::keep`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{Name, NamePattern};

/// How much is remembered of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameLimits {
    /// Answers count at least for this long.
    pub ttl_min: Duration,
    /// Of a name at an endpoint; the one that ends first goes first.
    pub addresses_per_name: usize,
    /// Addresses of an endpoint that are over but still in use.
    pub kept_addresses: usize,
    /// How long an address counts after its last connection.
    pub idle_grace: Duration,
}

/// The reference's defaults.
impl Default for NameLimits {
    fn default() -> Self {
        Self {
            ttl_min: Duration::ZERO,
            addresses_per_name: 1000,
            kept_addresses: 10_000,
            idle_grace: Duration::ZERO,
        }
    }
}

/// What all local endpoints have learned.
#[derive(Debug, Default)]
pub(super) struct NameCache {
    limits: NameLimits,
    by_pod: BTreeMap<Name, BTreeMap<String, BTreeMap<IpAddr, Life>>>,
    /// How many endpoints know an address by a name.
    by_address: BTreeMap<IpAddr, BTreeMap<String, u32>>,
    /// Addresses with connections, and when they were last seen.
    alive: BTreeMap<IpAddr, Duration>,
    /// Addresses with other names than before.
    changed: BTreeSet<IpAddr>,
}

/// How long an address counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Life {
    /// Of its TTL.
    end: Duration,
    /// The TTL is over, and connections keep it.
    is_kept: bool,
}

impl NameCache {
    pub(super) fn new(limits: NameLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// DNS answered an endpoint's question. A longer TTL than the one known replaces it.
    pub(super) fn learn(
        &mut self,
        pod: &Name,
        name: &str,
        addresses: &[IpAddr],
        ttl: Duration,
        now: Duration,
    ) {
        let name = normalise_name(name);
        let end = now + ttl.max(self.limits.ttl_min);
        let known = self.by_pod.entry(pod.clone()).or_default().entry(name.clone()).or_default();
        for address in addresses {
            let life = Life { end, is_kept: false };
            match known.insert(*address, life) {
                Some(old) if old.end > end && !old.is_kept => {
                    known.insert(*address, old);
                }
                Some(_) => {}
                None => {
                    let names = self.by_address.entry(*address).or_default();
                    *names.entry(name.clone()).or_default() += 1;
                    self.changed.insert(*address);
                }
            }
        }
        let mut gone = Vec::new();
        while known.len() > self.limits.addresses_per_name {
            let Some((first, _)) = known.iter().min_by_key(|(address, it)| (it.end, **address))
            else {
                break;
            };
            let first = *first;
            known.remove(&first);
            gone.push(first);
        }
        for address in gone {
            self.forget(address, &name);
        }
    }

    /// These addresses, and no others, have connections now.
    pub(super) fn keep(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Duration) {
        let grace = self.limits.idle_grace;
        self.alive.retain(|_, seen| *seen + grace > now);
        self.alive.extend(addresses.into_iter().map(|it| (it, now)));
    }

    /// Ends what is over by now.
    pub(super) fn expire(&mut self, now: Duration) {
        let mut gone = Vec::new();
        for names in self.by_pod.values_mut() {
            let mut kept = Vec::new();
            for (name, addresses) in names.iter_mut() {
                addresses.retain(|address, life| {
                    if life.end > now {
                        return true;
                    }
                    let is_alive = self.alive.contains_key(address);
                    life.is_kept = is_alive;
                    if is_alive {
                        kept.push((life.end, *address, name.clone()));
                    } else {
                        gone.push((*address, name.clone()));
                    }
                    is_alive
                });
            }
            // Those whose TTL ended first are the oldest connections.
            kept.sort();
            let surplus = kept.len().saturating_sub(self.limits.kept_addresses);
            for (_, address, name) in kept.into_iter().take(surplus) {
                if let Some(addresses) = names.get_mut(&name) {
                    addresses.remove(&address);
                    gone.push((address, name));
                }
            }
            names.retain(|_, addresses| !addresses.is_empty());
        }
        self.by_pod.retain(|_, names| !names.is_empty());
        for (address, name) in gone {
            self.forget(address, &name);
        }
    }

    /// An endpoint is gone.
    pub(super) fn forget_pod(&mut self, pod: &Name) {
        for (name, addresses) in self.by_pod.remove(pod).into_iter().flatten() {
            for address in addresses.into_keys() {
                self.forget(address, &name);
            }
        }
    }

    fn forget(&mut self, address: IpAddr, name: &str) {
        let Some(names) = self.by_address.get_mut(&address) else { return };
        let Some(count) = names.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            names.remove(name);
            self.changed.insert(address);
        }
        if names.is_empty() {
            self.by_address.remove(&address);
        }
    }

    /// The names that an address has at present.
    pub(super) fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.by_address.get(&address).into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// All addresses with names.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    /// Addresses with other names than at the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.changed)
    }
}

/// In lower case, without the dot at its end.
fn normalise_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether a normalised name is meant. `*` stands for any part of one label, `**.` at the start
/// for one label or more, and `*` alone for every name.
pub(super) fn matches_name(pattern: &NamePattern, name: &str) -> bool {
    match pattern {
        NamePattern::Name(wanted) => wanted == name,
        NamePattern::Pattern(pattern) if pattern == "*" => true,
        NamePattern::Pattern(pattern) => match pattern.strip_prefix("**.") {
            Some(rest) => {
                let dots = name.match_indices('.').map(|(at, _)| at);
                let is_label = |it: &str| !it.is_empty() && it.bytes().all(is_label_byte);
                let is_head = |it: &str| it.split('.').all(is_label);
                dots.into_iter()
                    .any(|at| is_head(&name[..at]) && matches_labels(rest, &name[at + 1..]))
            }
            None => matches_labels(pattern, name),
        },
    }
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn matches_labels(pattern: &str, name: &str) -> bool {
    pattern.split('.').count() == name.split('.').count()
        && pattern
            .split('.')
            .zip(name.split('.'))
            .all(|(pattern, label)| matches_label(pattern.as_bytes(), label.as_bytes()))
}

/// Greedy, going back to the last `*` only: that is enough for patterns of one label.
fn matches_label(pattern: &[u8], label: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while of < label.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, of));
            at += 1;
        } else if pattern.get(at) == Some(&label[of]) {
            at += 1;
            of += 1;
        } else {
            // The star takes one byte more.
            let Some((star_at, star_of)) = star.filter(|(_, it)| is_label_byte(label[*it])) else {
                return false;
            };
            star = Some((star_at, star_of + 1));
            (at, of) = (star_at + 1, star_of + 1);
        }
    }
    pattern[at..].iter().all(|it| *it == b'*')
}

#[cfg(test)]
mod tests;
