//! Ranges of addresses.

use std::net::IpAddr;

use serde_json::Value;

use super::items;

/// Whether an address is in `a.b.c.d/n` (or is the address, where there is no length).
pub fn contains(cidr: &str, address: IpAddr) -> bool {
    let (network, length) = cidr.split_once('/').unwrap_or((cidr, "128"));
    let network: IpAddr = network.parse().unwrap();
    let length: usize = length.parse().unwrap();
    network.is_ipv6() == address.is_ipv6()
        && bits(network).iter().zip(bits(address)).take(length).all(|(one, other)| *one == other)
}

/// `{cidr, except}`.
pub fn is_in_block(block: &Value, address: IpAddr) -> bool {
    contains(block["cidr"].as_str().unwrap(), address) && !is_excepted(block, address)
}

pub fn is_excepted(block: &Value, address: IpAddr) -> bool {
    items(&block["except"]).iter().any(|it| contains(it.as_str().unwrap(), address))
}

fn bits(address: IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte & (0x80 >> bit) != 0)).collect()
}
