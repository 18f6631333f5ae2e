//! The flow key: who talks to whom, as 40 bytes without padding.

use core::fmt;
use core::hash::Hasher;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;
use crate::protocol;

/// One direction of one flow. Plain data: it lies in flow tables that outlive the process.
///
/// Ports are in host order. ICMP echo carries its identifier as a port, so that a reply is the
/// reverse of its request: a request has `sport` = identifier and `dport` = 0, a reply `sport` = 0
/// and `dport` = identifier. Other ICMP, later fragments and protocols without ports have both 0.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowKey {
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
    /// IP protocol number, see [`crate::protocol`].
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Keeps equal addresses of different networks apart. The parser writes 0.
    pub zone: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The key of the opposite direction.
    #[inline]
    #[must_use]
    pub fn reversed(&self) -> FlowKey {
        FlowKey { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..*self }
    }

    /// The key as five words, for comparing and hashing.
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        zerocopy::transmute!(*self)
    }

    /// A keyed hash, good in all bits: low bits may choose a bucket, high bits a tag.
    ///
    /// Why not SipHash: it takes several times as long as this (about 2 ns), of the 60 that a whole
    /// packet has. The flow table has a fixed capacity and bounded probing, so a collision costs a
    /// bounded search and never a growing chain; `seed` is random per start and secret, so a peer
    /// who picks its own ports cannot aim. What is given up is a proof against an attacker who can
    /// time single packets. Multiplying to 128 bits and folding the halves is the step of wyhash.
    #[inline]
    pub fn hash(&self, seed: u64) -> u64 {
        let [a, b, c, d, e] = self.words();
        let seed = seed ^ K[0];
        let src = fold_multiply(a ^ seed ^ K[1], b ^ seed.rotate_left(32) ^ K[2]);
        let dst = fold_multiply(c ^ seed ^ K[3], d ^ seed.rotate_left(32) ^ K[4]);
        fold_multiply(fold_multiply(src ^ K[5], dst.rotate_left(23) ^ e ^ seed), K[1] ^ seed)
    }
}

/// Fractional digits of pi: arbitrary, and visibly so.
const K: [u64; 6] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
];

#[inline]
fn fold_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

impl PartialEq for FlowKey {
    #[inline]
    fn eq(&self, other: &FlowKey) -> bool {
        let (a, b) = (self.words(), other.words());
        // Without short-circuits: five loads and one branch, where `==` on slices calls memcmp.
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) == 0
    }
}

impl Eq for FlowKey {}

impl core::hash::Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FlowKey { src, dst, sport, dport, protocol, family, zone } = *self;
        let name = protocol::Name(protocol);
        if family == 4 {
            write!(f, "{src}:{sport} -> {dst}:{dport}/{name}")?;
        } else {
            write!(f, "[{src}]:{sport} -> [{dst}]:{dport}/{name}")?;
        }
        if zone != 0 { write!(f, " zone {zone}") } else { Ok(()) }
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
