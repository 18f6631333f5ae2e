//! Classes and groups: interned, numbered, counted, and given back when nobody has them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::paged::Numbers;
use super::rows::{IdentityId, SelectorId};

/// A set of selectors, in rising order.
pub(super) type Selectors = Arc<[SelectorId]>;

/// The selectors of both, in rising order.
pub(super) fn union(a: &[SelectorId], b: &[SelectorId]) -> Vec<SelectorId> {
    let mut both = [a, b].concat();
    both.sort_unstable();
    both.dedup();
    both
}

/// What is known of peers: who they are, and the selectors of ranges that they are in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) identity: IdentityId,
    pub(super) ranges: Selectors,
}

#[derive(Debug)]
struct ClassUse {
    class: Class,
    /// Addresses, regions and identities that have it.
    users: u32,
    group: Option<u32>,
}

/// Classes by number.
#[derive(Debug, Default)]
pub(super) struct Classes {
    by_class: HashMap<Class, u32>,
    rows: Vec<Option<ClassUse>>,
    numbers: Numbers,
    by_identity: HashMap<IdentityId, BTreeSet<u32>>,
    /// Without a user, and not looked at since.
    idle: Vec<u32>,
}

impl Classes {
    /// The number of a class, with one more user; and whether the class is new.
    pub(super) fn take(&mut self, identity: IdentityId, ranges: &Selectors) -> (u32, bool) {
        let class = Class { identity, ranges: Arc::clone(ranges) };
        if let Some(number) = self.by_class.get(&class) {
            let row = self.rows[*number as usize].as_mut().expect("numbered classes are there");
            row.users += 1;
            return (*number, false);
        }
        let number = self.numbers.take();
        if self.rows.len() <= number as usize {
            self.rows.resize_with(number as usize + 1, || None);
        }
        self.rows[number as usize] = Some(ClassUse { class: class.clone(), users: 1, group: None });
        self.by_class.insert(class, number);
        self.by_identity.entry(identity).or_default().insert(number);
        (number, true)
    }

    /// One user less.
    pub(super) fn release(&mut self, number: u32) {
        let Some(row) = &mut self.rows[number as usize] else { return };
        row.users -= 1;
        if row.users == 0 {
            self.idle.push(number);
        }
    }

    /// A class, if it has any user.
    pub(super) fn class_in_use(&self, number: u32) -> Option<&Class> {
        self.rows[number as usize].as_ref().filter(|row| row.users > 0).map(|row| &row.class)
    }

    pub(super) fn group(&self, number: u32) -> Option<u32> {
        self.rows[number as usize].as_ref()?.group
    }

    pub(super) fn set_group(&mut self, number: u32, group: u32) -> Option<u32> {
        self.rows[number as usize].as_mut()?.group.replace(group)
    }

    /// The classes of an identity.
    pub(super) fn of(&self, identity: IdentityId) -> impl Iterator<Item = u32> {
        self.by_identity.get(&identity).into_iter().flatten().copied()
    }

    /// Removes classes that have no user and returns their groups.
    pub(super) fn sweep(&mut self) -> Vec<u32> {
        let mut groups = Vec::new();
        for number in std::mem::take(&mut self.idle) {
            let is_idle = self.rows[number as usize].as_ref().is_some_and(|row| row.users == 0);
            let Some(row) = self.rows[number as usize].take_if(|_| is_idle) else { continue };
            groups.extend(row.group);
            let identity = row.class.identity;
            self.by_class.remove(&row.class);
            if let Some(classes) = self.by_identity.get_mut(&identity) {
                classes.remove(&number);
                if classes.is_empty() {
                    self.by_identity.remove(&identity);
                }
            }
            self.numbers.give_back(number);
        }
        groups
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.by_class.len(), self.numbers.most())
    }
}

#[derive(Debug)]
struct GroupUse {
    selectors: Selectors,
    classes: u32,
}

/// Groups by number; 0 is that of no selector and always there.
#[derive(Debug)]
pub(super) struct Groups {
    by_selectors: HashMap<Selectors, u32>,
    rows: Vec<Option<GroupUse>>,
    numbers: Numbers,
    by_selector: HashMap<SelectorId, BTreeSet<u32>>,
    idle: Vec<u32>,
}

impl Default for Groups {
    fn default() -> Groups {
        let mut groups = Groups {
            by_selectors: HashMap::new(),
            rows: Vec::new(),
            numbers: Numbers::default(),
            by_selector: HashMap::new(),
            idle: Vec::new(),
        };
        groups.take(&[]);
        groups
    }
}

impl Groups {
    /// The number of a group, with one more class in it; and whether the group is new.
    pub(super) fn take(&mut self, selectors: &[SelectorId]) -> (u32, bool) {
        if let Some(number) = self.by_selectors.get(selectors) {
            let row = self.rows[*number as usize].as_mut().expect("numbered groups are there");
            row.classes += 1;
            return (*number, false);
        }
        let number = self.numbers.take();
        if self.rows.len() <= number as usize {
            self.rows.resize_with(number as usize + 1, || None);
        }
        let selectors = Selectors::from(selectors);
        for selector in selectors.iter() {
            self.by_selector.entry(*selector).or_default().insert(number);
        }
        self.by_selectors.insert(Arc::clone(&selectors), number);
        self.rows[number as usize] = Some(GroupUse { selectors, classes: 1 });
        (number, true)
    }

    /// One class less.
    pub(super) fn release(&mut self, number: u32) {
        let Some(row) = &mut self.rows[number as usize] else { return };
        row.classes -= 1;
        if row.classes == 0 {
            self.idle.push(number);
        }
    }

    pub(super) fn selectors(&self, number: u32) -> Option<&Selectors> {
        self.rows[number as usize].as_ref().map(|row| &row.selectors)
    }

    /// The groups that have a selector.
    pub(super) fn with(&self, selector: SelectorId) -> impl Iterator<Item = u32> {
        self.by_selector.get(&selector).into_iter().flatten().copied()
    }

    /// Removes groups that no class is in and returns them.
    pub(super) fn sweep(&mut self) -> Vec<(u32, Selectors)> {
        let mut gone = Vec::new();
        for number in std::mem::take(&mut self.idle) {
            let is_idle = self.rows[number as usize].as_ref().is_some_and(|row| row.classes == 0);
            let Some(row) = self.rows[number as usize].take_if(|_| is_idle) else { continue };
            self.by_selectors.remove(&row.selectors);
            for selector in row.selectors.iter() {
                if let Some(groups) = self.by_selector.get_mut(selector) {
                    groups.remove(&number);
                    if groups.is_empty() {
                        self.by_selector.remove(selector);
                    }
                }
            }
            self.numbers.give_back(number);
            gone.push((number, row.selectors));
        }
        gone
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.by_selectors.len(), self.numbers.most())
    }
}
