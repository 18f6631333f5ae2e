//! Pools and Services for tests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::core::Selector;
use weir_control::model::{Family, Name};
use weir_ipam::allocator::{Block, Claim, Pool, PoolContent};

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A pool for everybody. Ranges inside an earlier one are left out.
pub fn pool(name: &str, ranges: &[&str]) -> Pool {
    let mut blocks: Vec<Block> = Vec::new();
    for range in ranges {
        let block = Block::of_range(range.parse().unwrap(), false).unwrap();
        if blocks.iter().all(|it| !it.overlaps(block)) {
            blocks.push(block);
        }
    }
    let (services, namespaces) = (Selector::default(), Selector::default());
    Pool {
        name: name.into(),
        created: "2024-01-01T00:00:00Z".into(),
        content: Ok(PoolContent { blocks, services, namespaces, auto_assign: true }),
    }
}

/// A Service that asks for nothing special.
pub fn claim(name: &str, families: &[Family]) -> Claim {
    Claim {
        name: Name::parse(name).unwrap(),
        uid: format!("uid of {name}"),
        created: "2024-01-01T00:00:00Z".into(),
        labels: BTreeMap::new(),
        families: families.to_vec(),
        is_any_family_enough: false,
        requested: Ok(Vec::new()),
        sharing_key: None,
        ports: [("TCP".to_owned(), 80)].into(),
        is_local: false,
        selector: BTreeMap::new(),
        current: Vec::new(),
        foreign: Vec::new(),
    }
}
