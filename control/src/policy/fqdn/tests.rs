//! Patterns against a slow matcher, the cache against a list of answers.

use proptest::prelude::*;

use super::*;

fn is_match(pattern: &str, name: &str) -> bool {
    matches_name(&NamePattern::Pattern(pattern.into()), &normalise_name(name))
}

#[test]
fn patterns_mean_what_the_reference_says() {
    for (pattern, name, is_meant) in [
        ("*", "anything.at.all", true),
        ("*.cilium.io", "www.cilium.io", true),
        ("*.cilium.io", "a.www.cilium.io", false),
        ("*.cilium.io", "cilium.io", false),
        ("*cilium.io", "subcilium.io", true),
        ("*cilium.io", "cilium.io", true),
        ("*cilium.io", "www.cilium.io", false),
        ("**.cilium.io", "www.cilium.io", true),
        ("**.cilium.io", "a.b.www.cilium.io", true),
        ("**.cilium.io", "cilium.io", false),
        ("**.*.io", "a.b.io", true),
        ("sub.*.io", "sub.cilium.io", true),
        ("a*c*e.io", "abcde.io", true),
        ("a*c*e.io", "ace.io", true),
        ("a*c*e.io", "acd.io", false),
        ("*.io", "WWW.IO.", true),
        ("*.io", "CILIUM.IO.", true),
    ] {
        assert_eq!(is_match(pattern, name), is_meant, "{pattern} and {name}");
    }
    let name = NamePattern::Name("a.io".into());
    assert!(matches_name(&name, "a.io") && !matches_name(&name, "b.io"));
}

/// Tries everything that a `*` could stand for.
fn matches_slowly(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    if first == '*' {
        let is_in = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
        let longest = name.find(|it| !is_in(it)).unwrap_or(name.len());
        return (0..=longest).any(|at| matches_slowly(&pattern[1..], &name[at..]));
    }
    name.starts_with(first) && matches_slowly(&pattern[1..], &name[1..])
}

fn matches_deeply(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("**.") {
        _ if pattern == "*" => true,
        None => matches_slowly(pattern, name),
        Some(rest) => {
            (1..6).any(|depth| matches_slowly(&format!("{}{rest}", "*.".repeat(depth)), name))
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Learn { pod: u8, name: u8, addresses: Vec<u8>, ttl: u64 },
    Keep(Vec<u8>),
    Expire,
    Wait(u64),
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(0..12_u8, 0..5);
    prop_oneof![
        4 => (0..2_u8, 0..2_u8, bytes(), 0..9_u64)
            .prop_map(|(pod, name, addresses, ttl)| Step::Learn { pod, name, addresses, ttl }),
        1 => bytes().prop_map(Step::Keep),
        3 => Just(Step::Expire),
        3 => (1..5_u64).prop_map(Step::Wait),
        1 => (0..2_u8).prop_map(Step::Forget),
    ]
}

const LIMITS: NameLimits = NameLimits {
    ttl_min: Duration::from_secs(2),
    addresses_per_name: 4,
    kept_addresses: 3,
    idle_grace: Duration::ZERO,
};

fn pod_name(number: u8) -> Name {
    Name::new("default", &format!("p{number}"))
}

fn ip(number: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, number])
}

/// Each (endpoint, name, address) with its end, in no order.
#[derive(Default)]
struct Naive {
    all: Vec<(u8, u8, u8, Life)>,
    alive: Vec<u8>,
}

impl Naive {
    fn apply(&mut self, step: &Step, now: u64) {
        match step {
            Step::Learn { pod, name, addresses, ttl } => {
                let end = Duration::from_secs(now + (*ttl).max(2));
                for address in addresses {
                    let is_it =
                        |it: &(u8, u8, u8, Life)| (it.0, it.1, it.2) == (*pod, *name, *address);
                    let known = self.all.iter().find(|it| is_it(it)).map(|it| it.3);
                    self.all.retain(|it| !is_it(it));
                    let is_later = |it: &Life| !it.is_kept && it.end > end;
                    let life = known.filter(is_later).unwrap_or(Life { end, is_kept: false });
                    self.all.push((*pod, *name, *address, life));
                }
                let mut own: Vec<_> =
                    self.all.iter().copied().filter(|it| (it.0, it.1) == (*pod, *name)).collect();
                own.sort_by_key(|it| (it.3.end, it.2));
                let gone = &own[..own.len().saturating_sub(LIMITS.addresses_per_name)];
                self.all.retain(|it| !gone.contains(it));
            }
            Step::Keep(addresses) => self.alive.clone_from(addresses),
            Step::Expire => {
                let now = Duration::from_secs(now);
                let alive = &self.alive;
                self.all.retain(|it| it.3.end > now || alive.contains(&it.2));
                self.all.iter_mut().for_each(|it| it.3.is_kept = it.3.end <= now);
                for pod in 0..2 {
                    let mut kept: Vec<_> =
                        self.all.iter().copied().filter(|it| it.0 == pod && it.3.is_kept).collect();
                    kept.sort_by_key(|it| (it.3.end, it.2, it.1));
                    let gone = &kept[..kept.len().saturating_sub(LIMITS.kept_addresses)];
                    self.all.retain(|it| !gone.contains(it));
                }
            }
            Step::Wait(_) => {}
            Step::Forget(pod) => self.all.retain(|it| it.0 != *pod),
        }
    }

    fn names_of(&self, address: u8) -> BTreeSet<String> {
        let of_it = self.all.iter().filter(|it| it.2 == address);
        of_it.map(|it| format!("n{}", it.1)).collect()
    }
}

proptest! {
    #[test]
    fn patterns_match_as_slowly(
        pattern in "(\\*\\*\\.)?[ab*]{1,3}(\\.[ab*]{1,3}){0,2}",
        name in "[ab]{1,3}(\\.[ab]{1,3}){0,3}",
    ) {
        prop_assert_eq!(is_match(&pattern, &name), matches_deeply(&pattern, &name));
    }

    #[test]
    fn the_cache_knows_what_a_list_knows(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut cache, mut naive) = (NameCache::new(LIMITS), Naive::default());
        let mut seconds = 0;
        for step in steps {
            let now = Duration::from_secs(seconds);
            match &step {
                Step::Learn { pod, name, addresses, ttl } => {
                    let addresses: Vec<IpAddr> = addresses.iter().copied().map(ip).collect();
                    let ttl = Duration::from_secs(*ttl);
                    cache.learn(&pod_name(*pod), &format!("N{name}."), &addresses, ttl, now);
                }
                Step::Keep(addresses) => cache.keep(addresses.iter().copied().map(ip), now),
                Step::Expire => cache.expire(now),
                Step::Wait(more) => seconds += more,
                Step::Forget(pod) => cache.forget_pod(&pod_name(*pod)),
            }
            naive.apply(&step, seconds);
            for address in 0..12 {
                let ours: BTreeSet<String> =
                    cache.names_of(ip(address)).map(str::to_owned).collect();
                prop_assert_eq!(ours, naive.names_of(address), "names of {}", address);
            }
        }
    }
}

#[test]
fn an_address_counts_for_the_grace_after_its_last_connection() {
    let limits = NameLimits { idle_grace: Duration::from_secs(5), ..NameLimits::default() };
    let mut cache = NameCache::new(limits);
    let second = Duration::from_secs;
    cache.learn(&pod_name(0), "a", &[ip(1)], second(1), second(0));
    cache.keep([ip(1)], second(2));
    for (now, is_known) in [(2, true), (6, true), (7, false)] {
        cache.keep([], second(now).max(second(3)));
        cache.expire(second(now));
        assert_eq!(cache.names_of(ip(1)).count() == 1, is_known, "after {now} s");
    }
}
