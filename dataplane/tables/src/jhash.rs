//! The hash that places a flow in a Maglev table: Bob Jenkins' lookup3, as in the kernel's
//! `jhash.h`.
//!
//! Client address, both ports and the protocol go in. The destination address stays out, so that
//! one client tuple gets the same backend on every address of a service.

use weir_packet::{Addr, FlowKey};

use crate::maglev::MaglevParams;

/// Hash of a flow from a client to a service. With `affinity` the client's port stays out, so that
/// all connections of a client get the same backend.
pub fn flow_hash(key: &FlowKey, affinity: bool, params: &MaglevParams) -> u32 {
    // Words are network-order fields, loaded on a little-endian machine.
    let sport = if affinity { 0 } else { u32::from(key.sport.swap_bytes()) };
    let ports = (u32::from(key.dport.swap_bytes()) << 16) | sport;
    let protocol = u32::from(key.protocol);
    match key.src.v4_octets() {
        Some(octets) => {
            jhash_3words(u32::from_le_bytes(octets), ports, protocol, params.seed_jhash_v4())
        }
        None => jhash_v6(&key.src, ports, protocol, params.seed_jhash_v6()),
    }
}

fn jhash_3words(a: u32, b: u32, c: u32, seed: u32) -> u32 {
    let initval = seed.wrapping_add(0xdead_beef).wrapping_add(12);
    let add = |word: u32| word.wrapping_add(initval);
    finalise(add(a), add(b), add(c))
}

fn jhash_v6(addr: &Addr, ports: u32, protocol: u32, seed: u32) -> u32 {
    let octets = addr.octets();
    let word = |index: usize| {
        let at = index * 4;
        u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    let (mut a, mut b, mut c) = mix(word(0), word(1), word(2));
    a = a.wrapping_add(word(3));
    b = b.wrapping_add(ports);
    c = c.wrapping_add(protocol);
    (a, b, c) = mix(a, b, c);
    finalise(a.wrapping_add(seed), b, c)
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

fn finalise(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_values_of_the_reference() {
        let rows = [
            ("10.0.0.1", 40000, 80, 6, false, 0x3ccc_2a54),
            ("10.0.0.1", 40000, 80, 6, true, 0xee2d_dd54),
            ("192.0.2.7", 53124, 443, 6, false, 0x711e_61e9),
            ("192.0.2.7", 53124, 53, 17, false, 0xc14a_88e1),
            ("2001:db8::1", 40000, 80, 6, false, 0x6e50_cf75),
            ("fd00::7", 53124, 53, 17, false, 0xbd53_1c95),
        ];
        let params = MaglevParams::default();
        for (client, sport, dport, protocol, affinity, expected) in rows {
            let key = FlowKey {
                src: client.parse().expect("an address"),
                sport,
                dport,
                protocol,
                ..FlowKey::default()
            };
            let hash = flow_hash(&key, affinity, &params);
            assert_eq!(hash, expected, "{client}:{sport} to {dport}/{protocol}: {hash:08x}");
        }
    }
}
