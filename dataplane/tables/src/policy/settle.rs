//! From what changed to the classes, groups and revisions that peers have in the next view.

use std::collections::BTreeSet;

use weir_packet::Addr;

use super::groups::{Selectors, union};
use super::peers::{Members, Peers};
use super::rows::{IdentityId, SelectorId};
use super::view::{ClassRow, IdentityRow, Membership, Peer, PolicyView};
use crate::network::Prefix;

/// Addresses and ranges that went are remembered one by one as long as there are no more than this,
/// or than there are others.
const REMEMBERED: usize = 1024;

/// Whose class changed, and what it was to the outside before.
enum Moved {
    Region { region: u32, class: u32, before: Option<Peer> },
    Known { addr: Addr, class: u32, before: Peer },
    Gone { addr: Addr, before: Peer },
}

/// Groups that tables have to learn or forget.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) new: Vec<(u32, Selectors)>,
    pub(super) gone: Vec<(u32, Selectors)>,
}

impl Peers {
    /// Brings a view, which is the last one, up to date. The work is in proportion to what changed:
    /// an identity with its classes, an address by itself, a range with all addresses inside.
    pub(super) fn settle(&mut self, revision: u32, view: &mut PolicyView) -> Changes {
        let mut work = Work { revision, previous: view.clone(), ..Work::default() };
        let dirty_ranges = outermost(std::mem::take(&mut self.dirty_ranges));
        for prefix in &dirty_ranges {
            self.place_ranges(prefix, view, &mut work);
        }
        for addr in self.dirty_addrs(&dirty_ranges) {
            self.place_known(addr, view, &mut work);
        }
        for id in std::mem::take(&mut self.dirty_identities) {
            self.place_identity(id, view, &mut work);
        }
        for class in std::mem::take(&mut work.classes) {
            self.regroup(class, view, &mut work);
        }
        for moved in std::mem::take(&mut work.moved) {
            self.date(moved, view, &work);
        }
        self.prune(revision, view);
        for group in self.classes.sweep() {
            self.groups.release(group);
        }
        work.changes.gone = self.groups.sweep();
        work.changes
    }

    /// Everything in `outer`, itself included, from the outside in.
    fn place_ranges(&mut self, outer: &Prefix, view: &mut PolicyView, work: &mut Work) {
        let inside = self.ranges.range(*outer..).take_while(|(p, _)| p.addr() <= outer.last_addr());
        let inside: Vec<Prefix> =
            inside.map(|(prefix, _)| *prefix).filter(|prefix| outer.covers(prefix)).collect();
        for prefix in inside {
            let (identity, members) = self.describe(prefix);
            let selectors = members.of(identity).clone();
            let before = self.before(prefix, &work.previous);
            let range = self.ranges.get_mut(&prefix).expect("just listed");
            let (region, is_new) = (range.region, std::mem::take(&mut range.is_new));
            self.members[region as usize] = members;
            let class = work.take_class(self, identity, &selectors);
            let old = view.regions.get(region).class;
            if is_new {
                if prefix.length() > 0 {
                    view.ranges.insert(&prefix, region);
                }
            } else {
                self.classes.release(old);
            }
            if is_new || old != class {
                work.moved.push(Moved::Region { region, class, before });
            }
        }
    }

    /// What its addresses were before: of the nearest range around it that was there then.
    fn before(&self, prefix: Prefix, previous: &PolicyView) -> Option<Peer> {
        let mut around = self.around(prefix);
        let range = around.find(|(_, range)| {
            // New ones lose their mark as they are placed; the last view has not heard of them.
            !range.is_new && previous.regions.get(range.region).joined > 0
        });
        range.map(|(_, range)| previous.region(range.region))
    }

    /// Who the addresses of a range are, and which selectors of ranges choose them.
    fn describe(&self, prefix: Prefix) -> (IdentityId, Members) {
        let mut stated = None;
        let (mut within, mut except) = (Vec::new(), Vec::new());
        for (_, range) in self.around(prefix) {
            stated = stated.or(range.stated);
            within.extend(&range.within);
            except.extend(&range.except);
        }
        let mut within = union(&within, &[]);
        except.sort_unstable();
        within.retain(|id| except.binary_search(id).is_err());
        let is_world_only = |id: &SelectorId| self.cidrs.get(id).is_some_and(|it| it.is_world_only);
        let of_cluster = within.iter().filter(|id| !is_world_only(id)).copied().collect();
        let world = match prefix.addr().is_v4() {
            true => IdentityId::WORLD_IPV4,
            false => IdentityId::WORLD_IPV6,
        };
        (stated.unwrap_or(world), Members { of_world: within.into(), of_cluster })
    }

    /// The known addresses that have to be looked at again.
    fn dirty_addrs(&mut self, ranges: &[Prefix]) -> BTreeSet<Addr> {
        let mut addrs = std::mem::take(&mut self.dirty_known);
        for prefix in ranges {
            let inside = self.known.range(prefix.addr()..=prefix.last_addr());
            addrs.extend(inside.map(|(addr, _)| *addr).filter(|addr| prefix.contains(addr)));
        }
        addrs
    }

    fn place_known(&mut self, addr: Addr, view: &mut PolicyView, work: &mut Work) {
        let old = view.addresses.get(&addr).map(|member| member.class);
        let old = old.filter(|class| *class != Membership::GONE);
        let Some(identity) = self.known.get(&addr).and_then(|known| known.identity()) else {
            if let Some(class) = old {
                self.classes.release(class);
                self.gone.insert(addr);
                work.moved.push(Moved::Gone { addr, before: work.previous.peer(&addr) });
            }
            return;
        };
        let members = &self.members[view.region_of(&addr) as usize];
        let selectors = members.of(identity).clone();
        let class = work.take_class(self, identity, &selectors);
        if let Some(old) = old {
            self.classes.release(old);
        }
        if old != Some(class) {
            self.gone.remove(&addr);
            work.moved.push(Moved::Known { addr, class, before: work.previous.peer(&addr) });
        }
    }

    fn place_identity(&mut self, id: IdentityId, view: &mut PolicyView, work: &mut Work) {
        let old = view.identities.get(&id).map(|row| row.member);
        match (self.identities.get(&id).cloned(), old) {
            (Some(identity), Some(member)) => {
                view.identities.insert_mut(id, IdentityRow { identity, member });
            }
            (Some(identity), None) => {
                let class = work.take_class(self, id, &Selectors::from([]));
                let member = Membership { class, since: work.revision, joined: work.revision };
                view.identities.insert_mut(id, IdentityRow { identity, member });
            }
            (None, Some(member)) => {
                self.classes.release(member.class);
                view.identities.remove_mut(&id);
                view.identity_gone = work.revision;
            }
            (None, None) => {}
        }
        work.classes.extend(self.classes.of(id));
    }

    /// Finds the group of a class.
    fn regroup(&mut self, number: u32, view: &mut PolicyView, work: &mut Work) {
        let Some(class) = self.classes.class_in_use(number) else { return };
        let identity = class.identity;
        let own = self.identities.get(&identity).map_or(&[][..], |known| &known.selectors);
        let selectors = union(own, &class.ranges);
        let (group, is_new) = self.groups.take(&selectors);
        if is_new {
            work.changes.new.push((group, selectors.into()));
        }
        let old = self.classes.set_group(number, group);
        if let Some(old) = old {
            self.groups.release(old);
        }
        if old != Some(group) {
            let since = if old.is_some() { work.revision } else { 0 };
            view.classes.set(number, ClassRow { identity, group, since });
        }
    }

    /// Writes a changed peer into the view; who stays in the same group keeps its revision.
    fn date(&self, moved: Moved, view: &mut PolicyView, work: &Work) {
        let revision = work.revision;
        let since = |before: Option<Peer>, group: u32| match before {
            // In a view before the first nobody is in any group yet.
            Some(before) if before.group == group && before.since > 0 => before.since,
            _ => revision,
        };
        let group_of = |class| self.classes.group(class).unwrap_or(0);
        match moved {
            Moved::Region { region, class, before } => {
                let since = since(before, group_of(class));
                view.regions.set(region, Membership { class, since, joined: revision });
            }
            Moved::Known { addr, class, before } => {
                let since = since(Some(before), group_of(class));
                view.addresses.insert_mut(addr, Membership { class, since, joined: revision });
            }
            Moved::Gone { addr, before } => {
                let region = view.region(view.region_of(&addr));
                let since = since(Some(before), region.group);
                let class = Membership::GONE;
                view.addresses.insert_mut(addr, Membership { class, since, joined: revision });
            }
        }
    }

    /// Forgets what went long ago: whoever is around it is looked at again instead.
    fn prune(&mut self, revision: u32, view: &mut PolicyView) {
        let renew = |view: &mut PolicyView, region: u32, since: u32| {
            let class = view.regions.get(region).class;
            let since = since.max(view.region(region).since);
            view.regions.set(region, Membership { class, since, joined: revision });
        };
        if self.gone.len() > REMEMBERED.max(self.known.len()) {
            for addr in std::mem::take(&mut self.gone) {
                let since = view.addresses.get(&addr).map_or(0, |member| member.since);
                view.addresses.remove_mut(&addr);
                renew(view, view.region_of(&addr), since);
            }
        }
        if self.dead.len() > REMEMBERED.max(self.ranges.len() - self.dead.len()) {
            // From the inside out.
            for prefix in std::mem::take(&mut self.dead).into_iter().rev() {
                let Some(range) = self.forget(&prefix) else { continue };
                let since = view.region(range.region).since;
                self.classes.release(view.regions.get(range.region).class);
                view.regions.set(range.region, Membership::default());
                view.ranges.remove(&prefix, |other| self.ranges.get(other).map(|it| it.region));
                if let Some((_, outer)) = self.around(prefix).next() {
                    renew(view, outer.region, since);
                }
            }
        }
    }
}

impl Members {
    fn of(&self, identity: IdentityId) -> &Selectors {
        if identity.is_world() { &self.of_world } else { &self.of_cluster }
    }
}

/// What one commit has still to do.
#[derive(Default)]
struct Work {
    revision: u32,
    previous: PolicyView,
    /// Classes whose group is to be found.
    classes: BTreeSet<u32>,
    moved: Vec<Moved>,
    changes: Changes,
}

impl Work {
    fn take_class(&mut self, peers: &mut Peers, identity: IdentityId, ranges: &Selectors) -> u32 {
        let (class, is_new) = peers.classes.take(identity, ranges);
        if is_new {
            self.classes.insert(class);
        }
        class
    }
}

/// Those that lie in no other.
fn outermost(prefixes: BTreeSet<Prefix>) -> Vec<Prefix> {
    let mut outer: Vec<Prefix> = Vec::new();
    // Sorted by address, then length: of those kept only the last of the family can contain more.
    let mut last: [Option<Prefix>; 2] = [None; 2];
    for prefix in prefixes {
        let last = &mut last[usize::from(prefix.addr().is_v4())];
        if !last.is_some_and(|last| last.covers(&prefix)) {
            *last = Some(prefix);
            outer.push(prefix);
        }
    }
    outer
}
