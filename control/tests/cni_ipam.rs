//! The allocator of podCIDR addresses: whatever happens in whatever order, no address has two
//! owners, and none is given again before the dataplane has let go of it.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use weir_control::cni::pod_cidr::QUARANTINE;
use weir_control::cni::{Ipam, IpamError, PodCidrIpam, Space};

fn space(ranges: &[&str], reserved: &[&str]) -> Space {
    Space {
        ranges: ranges.iter().map(|it| it.parse().unwrap()).collect(),
        reserved: reserved.iter().map(|it| it.parse().unwrap()).collect(),
    }
}

fn ipam(ranges: &[&str]) -> PodCidrIpam {
    let mut ipam = PodCidrIpam::default();
    ipam.follow(&space(ranges, &[]));
    ipam
}

fn text(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn one_address_per_family_in_the_order_of_the_ranges() {
    let mut dual = ipam(&["fd00:10:244::/64", "10.244.0.0/24"]);
    assert_eq!(text(&dual.allocate("a", Duration::ZERO).unwrap()), "fd00:10:244::1 10.244.0.1");
    assert_eq!(text(&dual.allocate("b", Duration::ZERO).unwrap()), "fd00:10:244::2 10.244.0.2");
    assert_eq!(text(&dual.allocate("a", Duration::ZERO).unwrap()), "fd00:10:244::1 10.244.0.1");
    let mut none = PodCidrIpam::default();
    assert_eq!(none.allocate("a", Duration::ZERO), Err(IpamError::NoRange));
}

#[test]
fn ends_of_a_range_and_reserved_addresses_are_left_out() {
    for (range, expected) in [
        ("10.0.0.0/30", "10.0.0.1 10.0.0.2"),
        ("10.0.0.0/31", "10.0.0.0 10.0.0.1"),
        ("10.0.0.7/32", "10.0.0.7"),
        ("fd00::/126", "fd00::1 fd00::2 fd00::3"),
        ("fd00::/127", "fd00:: fd00::1"),
        ("255.255.255.252/30", "255.255.255.253 255.255.255.254"),
    ] {
        let mut ipam = ipam(&[range]);
        let all: Vec<IpAddr> = (0..10)
            .map_while(|it| ipam.allocate(&it.to_string(), Duration::ZERO).ok())
            .flatten()
            .collect();
        assert_eq!(text(&all), expected, "{range}");
    }
    let mut ipam = PodCidrIpam::default();
    ipam.follow(&space(&["10.0.0.0/29"], &["10.0.0.1", "10.0.0.3"]));
    assert_eq!(text(&ipam.allocate("a", Duration::ZERO).unwrap()), "10.0.0.2");
    assert_eq!(text(&ipam.allocate("b", Duration::ZERO).unwrap()), "10.0.0.4");
}

#[test]
fn who_gets_nothing_is_told_what_to_do() {
    let mut ipam = ipam(&["10.244.0.0/29"]);
    for i in 0..6 {
        ipam.allocate(&i.to_string(), Duration::ZERO).unwrap();
    }
    ipam.release("3", 1, Duration::ZERO);
    let error = ipam.allocate("more", Duration::from_secs(60)).unwrap_err().to_string();
    for part in ["no free address in 10.244.0.0/29", "5 in use", "1 wait", "below 6", "delete pods"]
    {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn a_freed_address_rests_where_there_are_others() {
    let mut ipam = ipam(&["10.0.0.0/29"]);
    let now = Duration::from_secs(100);
    for owner in ["a", "b", "c", "d"] {
        ipam.allocate(owner, now).unwrap();
    }
    ipam.release("b", 7, now);
    ipam.release("c", 8, now + Duration::from_secs(1));
    assert_eq!(text(&ipam.allocate("e", now).unwrap()), "10.0.0.5");
    assert_eq!(text(&ipam.allocate("f", now).unwrap()), "10.0.0.6");
    assert!(ipam.allocate("g", now).is_err(), "the dataplane has not let go");
    ipam.acknowledge(7);
    assert_eq!(text(&ipam.allocate("g", now).unwrap()), "10.0.0.2", "there is no other");
    ipam.acknowledge(8);
    ipam.release("a", 9, now);
    ipam.acknowledge(9);
    let later = now + QUARANTINE * 2;
    // Both have rested: the next one behind the last one given.
    assert_eq!(text(&ipam.allocate("h", later).unwrap()), "10.0.0.3");
    assert_eq!(text(&ipam.allocate("i", later).unwrap()), "10.0.0.1");
}

#[test]
fn a_range_that_changes_leaves_pods_alone() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    ipam.allocate("a", Duration::ZERO).unwrap();
    ipam.follow(&space(&["10.1.0.0/24"], &[]));
    assert_eq!(text(&ipam.allocate("a", Duration::ZERO).unwrap()), "10.0.0.1");
    assert_eq!(text(&ipam.allocate("b", Duration::ZERO).unwrap()), "10.1.0.1");
    ipam.release("a", 0, Duration::ZERO);
    ipam.acknowledge(1);
    ipam.follow(&space(&["10.1.0.0/24", "10.2.0.0/30"], &[]));
    for i in 2..255 {
        let given = ipam.allocate(&i.to_string(), Duration::ZERO).unwrap();
        assert_eq!(text(&given), format!("10.1.0.{i}"));
    }
    assert_eq!(text(&ipam.allocate("x", Duration::ZERO).unwrap()), "10.2.0.1", "the next range");
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(u8),
    Release(u8),
    Acknowledge(u64),
    Wait(u64),
    Restart,
    Reserve(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..16_u8).prop_map(Step::Allocate),
        4 => (0..16_u8).prop_map(Step::Release),
        2 => (0..3_u64).prop_map(Step::Acknowledge),
        2 => (0..6_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => (1..14_u8).prop_map(Step::Reserve),
    ]
}

proptest! {
    #[test]
    fn no_address_has_two_owners(steps in prop::collection::vec(step(), 1..120)) {
        let ranges = ["10.0.0.0/28", "fd00::/64"];
        let mut ipam = ipam(&ranges);
        let mut model: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        // Freed addresses, with the revision that drops them.
        let mut held: BTreeMap<IpAddr, u64> = BTreeMap::new();
        let mut reserved: BTreeSet<IpAddr> = BTreeSet::new();
        let (mut revision, mut acknowledged, mut now) = (0_u64, 0_u64, Duration::ZERO);
        for step in steps {
            match step {
                Step::Allocate(owner) => {
                    let owner = format!("weirp{owner}");
                    let is_new = !model.contains_key(&owner);
                    match ipam.allocate(&owner, now) {
                        Ok(given) if is_new => {
                            prop_assert_eq!(given.len(), 2);
                            let used: BTreeSet<_> = model.values().flatten().collect();
                            for ip in &given {
                                prop_assert!(!used.contains(ip), "{} twice", ip);
                                prop_assert!(!reserved.contains(ip), "{} is reserved", ip);
                                let is_held = held.remove(ip).is_some_and(|it| it > acknowledged);
                                prop_assert!(!is_held, "{} is in the dataplane yet", ip);
                            }
                            model.insert(owner, given);
                        }
                        Ok(given) => prop_assert_eq!(&given, &model[&owner]),
                        Err(_) => {
                            // Of 14 none is left.
                            let used = model.values().map(|it| it[0]);
                            let waiting = held.iter().filter(|it| *it.1 > acknowledged);
                            let taken: BTreeSet<_> = used
                                .chain(waiting.map(|it| *it.0).filter(IpAddr::is_ipv4))
                                .chain(reserved.iter().copied())
                                .collect();
                            prop_assert_eq!(taken.len(), 14);
                        }
                    }
                }
                Step::Release(owner) => {
                    let owner = format!("weirp{owner}");
                    revision += 1;
                    ipam.release(&owner, revision, now);
                    for ip in model.remove(&owner).unwrap_or_default() {
                        held.insert(ip, revision);
                    }
                }
                Step::Acknowledge(more) => {
                    acknowledged = (acknowledged + more).min(revision);
                    ipam.acknowledge(acknowledged);
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Restart => {
                    let mut next = PodCidrIpam::default();
                    next.resume(&ipam.last_given());
                    for (owner, addresses) in &model {
                        next.adopt(owner, addresses).unwrap();
                    }
                    next.follow(&Space {
                        ranges: ranges.iter().map(|it| it.parse().unwrap()).collect(),
                        reserved: reserved.clone(),
                    });
                    // The first full state drops what was freed before.
                    held.clear();
                    ipam = next;
                }
                Step::Reserve(last) => {
                    let ip = IpAddr::from([10, 0, 0, last]);
                    if !model.values().flatten().any(|it| *it == ip) {
                        reserved = [ip].into();
                        ipam.follow(&Space {
                            ranges: ranges.iter().map(|it| it.parse().unwrap()).collect(),
                            reserved: reserved.clone(),
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn what_was_adopted_twice_is_refused() {
    let mut ipam = ipam(&["10.0.0.0/24"]);
    let address = ["10.0.0.9".parse().unwrap()];
    ipam.adopt("a", &address).unwrap();
    ipam.adopt("a", &address).unwrap();
    let error = ipam.adopt("b", &address).unwrap_err().to_string();
    assert_eq!(error, "10.0.0.9 belongs to a already");
}
