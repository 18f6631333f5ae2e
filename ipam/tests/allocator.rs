//! The allocator of load balancer addresses: what must hold whatever happens.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::{address, claim, pool};
use proptest::collection::vec;
use proptest::prelude::*;
use weir_control::model::{Family, Name};
use weir_ipam::allocator::{Allocator, Claim, Pool, Refusal};

#[derive(Debug, Clone)]
enum Step {
    PutPool(Pool),
    RemovePool(String),
    PutService(Claim),
    RemoveService(Name),
    Settle,
    /// Another process takes over.
    Restart,
}

/// Few of everything, so that everything meets everything.
fn any_pool() -> impl Strategy<Value = Pool> {
    let blocks = ["192.0.2.0/31", "192.0.2.1/32", "192.0.2.4/31", "2001:db8::/127", "192.0.2.0/29"];
    let blocks = proptest::sample::subsequence(blocks.to_vec(), 1..3);
    (0..3_u8, 0..3_u8, blocks, any::<bool>(), any::<bool>()).prop_map(
        |(i, age, blocks, auto_assign, is_for_some)| {
            let mut pool = pool(&format!("p{i}"), &blocks);
            pool.created = format!("202{age}-01-01T00:00:00Z");
            if let Ok(content) = &mut pool.content {
                content.auto_assign = auto_assign;
                if is_for_some {
                    content.services = [("team".to_owned(), "a".to_owned())].into_iter().collect();
                }
            }
            pool
        },
    )
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..8_u8).prop_map(|(is_v4, i)| match is_v4 {
        true => address(&format!("192.0.2.{i}")),
        false => address(&format!("2001:db8::{i}")),
    })
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let families = vec![vec![], vec![Family::V4], vec![Family::V6], Family::ALL.to_vec()];
    let families = proptest::sample::select(families);
    let requested = proptest::option::weighted(0.3, any_address());
    let key = proptest::option::of("[ab]");
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let foreign = proptest::option::weighted(0.1, any_address());
    let current = proptest::option::weighted(0.2, any_address());
    (0..6_u8, families, requested, key, vec(80..84_u16, 1..3), flags, foreign, current).prop_map(
        |(i, families, requested, key, ports, flags, foreign, current)| {
            let mut claim = claim(&format!("default/s{i}"), &[]);
            claim.created = format!("202{}-01-01T00:00:00Z", i % 3);
            let requested = requested.filter(|it| families.contains(&Family::of(*it)));
            claim.requested = Ok(requested.into_iter().collect());
            claim.families = families;
            claim.sharing_key = key;
            claim.ports = ports.into_iter().map(|it| ("TCP".to_owned(), it)).collect();
            claim.is_local = flags.0;
            claim.is_any_family_enough = flags.1;
            if flags.2 {
                claim.labels.insert("team".into(), "a".into());
            }
            claim.foreign = foreign.into_iter().collect();
            claim.current = current.into_iter().collect();
            claim
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_pool().prop_map(Step::PutPool),
        1 => (0..3_u8).prop_map(|i| Step::RemovePool(format!("p{i}"))),
        8 => any_claim().prop_map(Step::PutService),
        2 => (0..6_u8).prop_map(|i| Step::RemoveService(Name::new("default", &format!("s{i}")))),
        6 => Just(Step::Settle),
        1 => Just(Step::Restart),
    ]
}

/// What was put in, and what each Service had after the last settling.
#[derive(Default)]
struct World {
    pools: BTreeMap<String, Pool>,
    claims: BTreeMap<Name, Claim>,
    had: BTreeMap<Name, Vec<IpAddr>>,
    /// Changed since.
    touched: BTreeSet<Name>,
}

impl World {
    fn addresses(&self, allocator: &Allocator) -> BTreeMap<Name, Vec<IpAddr>> {
        let list = |name: &Name| allocator.outcome(name).unwrap().addresses.clone();
        self.claims.keys().map(|name| (name.clone(), list(name))).collect()
    }

    fn active<'a>(&'a self, allocator: &'a Allocator) -> Vec<&'a Pool> {
        let names = allocator.pools().filter(|(_, problem, _)| problem.is_none());
        names.map(|(pool, ..)| &self.pools[&pool.name]).collect()
    }

    fn is_for(pool: &Pool, claim: &Claim, address: IpAddr) -> bool {
        use kube::core::SelectorExt;
        let content = pool.content.as_ref().unwrap();
        content.contains(address) && content.services.matches(&claim.labels)
    }

    /// Checks everything that must hold, and remembers for the next time.
    fn check(&mut self, allocator: &Allocator) {
        let now = self.addresses(allocator);
        let mut by_address: BTreeMap<IpAddr, Vec<&Claim>> = BTreeMap::new();
        for (name, addresses) in &now {
            let claim = &self.claims[name];
            let families: Vec<Family> = addresses.iter().map(|it| Family::of(*it)).collect();
            assert!(families.iter().all(|it| claim.families.contains(it)), "{claim:?}");
            assert!(families.len() <= 1 || families[0] != families[1], "{claim:?}");
            for address in addresses {
                by_address.entry(*address).or_default().push(claim);
            }
            self.check_new(allocator, claim, addresses);
            self.check_kept(allocator, claim, addresses);
            self.check_refusals(allocator, claim, &now);
        }
        for (address, claims) in by_address {
            for (i, claim) in claims.iter().enumerate() {
                let others = &claims[i + 1..];
                assert!(others.iter().all(|it| claim.can_share(it)), "{address}: {claims:?}");
            }
        }
        self.had = now;
        self.touched.clear();
    }

    /// A new address comes from a pool that is for the Service, and from nobody else.
    fn check_new(&self, allocator: &Allocator, claim: &Claim, addresses: &[IpAddr]) {
        let had = self.had.get(&claim.name);
        let known = had.into_iter().flatten().chain(&claim.current);
        let known: BTreeSet<&IpAddr> = known.collect();
        for address in addresses.iter().filter(|it| !known.contains(it)) {
            let pools = self.active(allocator);
            assert!(pools.iter().any(|it| Self::is_for(it, claim, *address)), "{address}");
            let is_foreign = self.claims.values().any(|it| it.foreign.contains(address));
            assert!(!is_foreign, "{address} is somebody's");
        }
    }

    /// Nothing that happens to pools or to others takes an address away, unless it was shared.
    fn check_kept(&self, allocator: &Allocator, claim: &Claim, addresses: &[IpAddr]) {
        if self.touched.contains(&claim.name) {
            return;
        }
        for address in self.had.get(&claim.name).into_iter().flatten() {
            let has_moved = claim
                .requested
                .as_ref()
                .unwrap()
                .iter()
                .any(|it| Family::of(*it) == Family::of(*address) && addresses.contains(it));
            let problems = &allocator.outcome(&claim.name).unwrap().problems;
            let is_lost =
                |it: &Refusal| matches!(it, Refusal::AddressLost(lost, _) if lost == address);
            let is_excused = has_moved || problems.iter().any(is_lost);
            assert!(addresses.contains(address) || is_excused, "{address} of {claim:?} is gone");
        }
    }

    /// Who is told that there is no room could really not have any.
    fn check_refusals(
        &self,
        allocator: &Allocator,
        claim: &Claim,
        now: &BTreeMap<Name, Vec<IpAddr>>,
    ) {
        let taken: BTreeSet<IpAddr> = now.values().flatten().copied().collect();
        let foreign: BTreeSet<IpAddr> =
            self.claims.values().flat_map(|it| it.foreign.iter().copied()).collect();
        let outcome = allocator.outcome(&claim.name).unwrap();
        for family in &claim.families {
            let has = outcome.addresses.iter().any(|it| Family::of(*it) == *family);
            let asks =
                claim.requested.as_ref().unwrap().iter().any(|it| Family::of(*it) == *family);
            if has || asks {
                continue;
            }
            let told = outcome.problems.iter().any(|it| {
                matches!(it, Refusal::NoPool(it) | Refusal::PoolExhausted(it, _) if it == family)
            });
            let is_content = claim.is_any_family_enough && !outcome.addresses.is_empty();
            assert!(told || is_content, "{claim:?}: silence");
            for pool in self.active(allocator) {
                let content = pool.content.as_ref().unwrap();
                for i in 0..8 {
                    let text = match family {
                        Family::V4 => format!("192.0.2.{i}"),
                        Family::V6 => format!("2001:db8::{i}"),
                    };
                    let free = address(&text);
                    let is_free = !taken.contains(&free) && !foreign.contains(&free);
                    let is_offered = content.auto_assign && Self::is_for(pool, claim, free);
                    assert!(!(is_free && is_offered), "{free} is free for {claim:?}");
                }
            }
        }
    }

    /// As another process sees it: everything from the API, in whatever order, statuses included.
    fn restart(&mut self, allocator: &Allocator) -> Allocator {
        let mut fresh = Allocator::default();
        for (name, addresses) in self.addresses(allocator) {
            self.claims.get_mut(&name).unwrap().current = addresses;
        }
        for claim in self.claims.values().rev() {
            fresh.put_service(claim.clone());
        }
        for pool in self.pools.values() {
            fresh.put_pool(pool.clone());
        }
        fresh
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_addresses_are_kept_and_given_once(steps in vec(step(), 1..60)) {
        let mut world = World::default();
        let mut allocator = Allocator::default();
        for step in steps.into_iter().chain([Step::Settle, Step::Restart]) {
            match step {
                Step::PutPool(pool) => {
                    allocator.put_pool(pool.clone());
                    world.pools.insert(pool.name.clone(), pool);
                }
                Step::RemovePool(name) => {
                    allocator.remove_pool(&name);
                    world.pools.remove(&name);
                }
                Step::PutService(mut claim) => {
                    // A Service has what it had, as its status says.
                    if let Some(had) = world.had.get(&claim.name) {
                        claim.current = had.clone();
                    }
                    world.touched.insert(claim.name.clone());
                    allocator.put_service(claim.clone());
                    world.claims.insert(claim.name.clone(), claim);
                }
                Step::RemoveService(name) => {
                    allocator.remove_service(&name);
                    world.claims.remove(&name);
                    world.had.remove(&name);
                }
                Step::Settle => {
                    allocator.settle();
                    world.check(&allocator);
                }
                Step::Restart => {
                    allocator.settle();
                    world.check(&allocator);
                    let before = world.addresses(&allocator);
                    allocator = world.restart(&allocator);
                    allocator.settle();
                    prop_assert_eq!(&before, &world.addresses(&allocator), "a restart moved them");
                    world.check(&allocator);
                }
            }
        }
        prop_assert_eq!(allocator.settle().len(), 0, "a change without a cause");
    }
}
