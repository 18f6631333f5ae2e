//! The allocator of load balancer addresses: the cases that people meet.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "a test that takes time says how much")]

mod common;

use common::{address, claim, pool};
use weir_control::model::{Family, Name};
use weir_ipam::allocator::{Allocator, PoolProblem, Refusal};

fn settle(allocator: &mut Allocator, name: &str) -> (Vec<String>, Vec<Refusal>) {
    allocator.settle();
    let outcome = allocator.outcome(&Name::parse(name).unwrap()).unwrap().clone();
    (outcome.addresses.iter().map(ToString::to_string).collect(), outcome.problems)
}

#[test]
fn services_get_the_lowest_free_address_in_order_of_age() {
    let mut allocator = Allocator::default();
    allocator.put_pool(pool("p", &["192.0.2.8/31", "2001:db8::/126"]));
    let mut young = claim("default/a", &Family::ALL);
    young.created = "2025-01-01T00:00:00Z".into();
    allocator.put_service(young);
    allocator.put_service(claim("default/b", &Family::ALL));
    allocator.put_service(claim("default/c", &[Family::V4]));
    assert_eq!(settle(&mut allocator, "default/b").0, ["192.0.2.8", "2001:db8::"]);
    assert_eq!(settle(&mut allocator, "default/c").0, ["192.0.2.9"]);
    let (addresses, problems) = settle(&mut allocator, "default/a");
    assert_eq!(addresses, ["2001:db8::1"], "one family is better than none");
    assert_eq!(problems, [Refusal::PoolExhausted(Family::V4, vec!["p".into()])]);
    assert!(problems[0].to_string().contains("add a block"), "{}", problems[0]);
    assert_eq!(allocator.waiting(), 1);

    // What becomes free goes to who waits.
    allocator.remove_service(&Name::parse("default/c").unwrap());
    assert_eq!(settle(&mut allocator, "default/a").0, ["192.0.2.9", "2001:db8::1"]);
    assert_eq!(allocator.waiting(), 0);
    let (.., fill) = allocator.pools().next().unwrap();
    assert_eq!((fill[0].total, fill[0].used, fill[1].total, fill[1].used), (2, 2, 4, 2));
}

#[test]
fn a_pool_that_is_gone_or_smaller_takes_nothing_back() {
    let mut allocator = Allocator::default();
    let mut service = claim("default/web", &[Family::V4]);
    service.current = vec![address("192.0.2.200")];
    allocator.put_service(service);
    let (addresses, problems) = settle(&mut allocator, "default/web");
    assert_eq!(addresses, ["192.0.2.200"], "without any pool");
    assert_eq!(problems, [Refusal::OutsidePools(address("192.0.2.200"))]);
    assert_eq!(allocator.waiting(), 0, "it has what it wants");
    allocator.put_pool(pool("p", &["192.0.2.200/32"]));
    assert_eq!(settle(&mut allocator, "default/web"), (vec!["192.0.2.200".into()], vec![]));
    allocator.put_pool(pool("p", &["192.0.2.0/31"]));
    assert_eq!(settle(&mut allocator, "default/web").0, ["192.0.2.200"]);
}

#[test]
fn the_youngest_of_overlapping_pools_is_refused() {
    let mut allocator = Allocator::default();
    let mut young = pool("a", &["192.0.2.0/24"]);
    young.created = "2025-01-01T00:00:00Z".into();
    allocator.put_pool(young);
    allocator.put_pool(pool("z", &["192.0.2.128/25"]));
    allocator.put_service(claim("default/web", &[Family::V4]));
    assert_eq!(settle(&mut allocator, "default/web").0, ["192.0.2.128"]);
    let problems: Vec<_> = allocator.pools().map(|(_, problem, _)| problem.cloned()).collect();
    assert_eq!(problems, [Some(PoolProblem::Overlaps("z".into())), None]);
    allocator.remove_pool("z");
    allocator.put_service(claim("default/api", &[Family::V4]));
    assert_eq!(settle(&mut allocator, "default/api").0, ["192.0.2.0"], "now it counts");
    assert_eq!(settle(&mut allocator, "default/web").0, ["192.0.2.128"]);
}

#[test]
fn an_address_asked_for_is_given_or_refused_and_the_old_one_stays_until_then() {
    let mut allocator = Allocator::default();
    allocator.put_pool(pool("p", &["192.0.2.0/29"]));
    let mut web = claim("default/web", &[Family::V4]);
    allocator.put_service(web.clone());
    allocator.put_service(claim("default/api", &[Family::V4]));
    assert_eq!(settle(&mut allocator, "default/api").0, ["192.0.2.0"]);
    assert_eq!(settle(&mut allocator, "default/web").0, ["192.0.2.1"]);

    web.requested = Ok(vec![address("192.0.2.0")]);
    allocator.put_service(web.clone());
    let (addresses, problems) = settle(&mut allocator, "default/web");
    assert_eq!(addresses, ["192.0.2.1"]);
    let api = Name::parse("default/api").unwrap();
    assert_eq!(problems, [Refusal::AddressTaken(address("192.0.2.0"), vec![api.clone()])]);
    allocator.remove_service(&api);
    assert_eq!(settle(&mut allocator, "default/web"), (vec!["192.0.2.0".into()], vec![]));

    web.requested = Ok(vec![address("198.51.100.1")]);
    allocator.put_service(web.clone());
    let (addresses, problems) = settle(&mut allocator, "default/web");
    assert_eq!(addresses, ["192.0.2.0"]);
    assert_eq!(problems, [Refusal::NotInPool(address("198.51.100.1"))]);

    web.requested = Err("not an address".into());
    allocator.put_service(web);
    let (addresses, problems) = settle(&mut allocator, "default/web");
    assert_eq!((addresses.len(), problems[0].reason()), (1, "InvalidRequest"));
}

#[test]
fn services_share_an_address_while_they_can() {
    let mut allocator = Allocator::default();
    allocator.put_pool(pool("p", &["192.0.2.0/29"]));
    let mut services = ["default/dns-tcp", "default/dns-udp", "other/dns"].map(|name| {
        let mut claim = claim(name, &[Family::V4]);
        claim.sharing_key = Some("dns".into());
        claim
    });
    services[0].ports = [("TCP".into(), 53)].into();
    services[1].ports = [("UDP".into(), 53)].into();
    services[1].created = "2025-01-01T00:00:00Z".into();
    services[2].ports = [("TCP".into(), 853)].into();
    for service in &services {
        allocator.put_service(service.clone());
    }
    assert_eq!(settle(&mut allocator, "default/dns-tcp").0, ["192.0.2.0"]);
    assert_eq!(settle(&mut allocator, "default/dns-udp").0, ["192.0.2.0"]);
    assert_eq!(settle(&mut allocator, "other/dns").0, ["192.0.2.1"], "another namespace");

    // The younger one has to go when their ports collide.
    services[1].ports.insert(("TCP".into(), 53));
    services[1].current = vec![address("192.0.2.0")];
    allocator.put_service(services[1].clone());
    let (addresses, problems) = settle(&mut allocator, "default/dns-udp");
    assert_eq!(addresses, ["192.0.2.2"]);
    assert_eq!(problems[0].reason(), "AddressTaken");
    assert!(problems[0].to_string().contains("stays with Service default/dns-tcp"));
    assert_eq!(settle(&mut allocator, "default/dns-tcp").0, ["192.0.2.0"]);
}

#[test]
fn ten_thousand_services_are_settled_at_once() {
    let mut allocator = Allocator::default();
    allocator.put_pool(pool("p", &["10.0.0.0/16"]));
    for i in 0..10_000 {
        allocator.put_service(claim(&format!("default/s{i}"), &[Family::V4]));
    }
    let start = std::time::Instant::now();
    assert_eq!(allocator.settle().len(), 10_000);
    let all = start.elapsed();
    let name = Name::parse("default/s77").unwrap();
    let start = std::time::Instant::now();
    allocator.remove_service(&name);
    allocator.put_service(claim("default/new", &[Family::V4]));
    assert_eq!(allocator.settle().len(), 1);
    println!("10,000 services: {all:?}; one more: {:?}", start.elapsed());
    assert!(all.as_secs() < 5, "{all:?}: quadratic?");
}
