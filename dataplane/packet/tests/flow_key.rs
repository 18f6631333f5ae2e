//! Addresses, keys and their hash.

mod common;

use std::net::IpAddr;

use common::*;
use proptest::prelude::*;
use weir_packet::{Addr, FlowKey, Mac, protocol};
use zerocopy::{FromBytes, IntoBytes};

fn any_key() -> impl Strategy<Value = FlowKey> {
    any::<[u8; 40]>().prop_map(|bytes| FlowKey::read_from_bytes(&bytes).expect("40 bytes"))
}

proptest! {
    #[test]
    fn addresses_survive_text(ip in any::<IpAddr>()) {
        let addr = Addr::from(ip);
        prop_assert_eq!(addr.to_string().parse::<Addr>(), Ok(addr));
        prop_assert_eq!(addr.is_multicast(), ip.to_canonical().is_multicast());
        prop_assert_eq!(IpAddr::from(addr), ip.to_canonical());
    }

    #[test]
    fn macs_survive_text(octets in any::<[u8; 6]>()) {
        prop_assert_eq!(Mac(octets).to_string().parse::<Mac>(), Ok(Mac(octets)));
    }

    #[test]
    fn keys_are_equal_as_their_bytes(a in any_key(), at in 0..40_usize, change in any::<u8>()) {
        let mut bytes = [0; 40];
        bytes.copy_from_slice(a.as_bytes());
        bytes[at] ^= change;
        let b = FlowKey::read_from_bytes(&bytes).expect("40 bytes");
        prop_assert_eq!(a == b, change == 0);
        prop_assert_eq!(a.reversed().reversed(), a);
    }
}

#[test]
fn display_is_what_users_type() {
    let v4 = key("10.0.0.1", "10.96.0.1", 40000, 80, protocol::TCP);
    assert_eq!(v4.to_string(), "10.0.0.1:40000 -> 10.96.0.1:80/TCP");
    let v6 = FlowKey { zone: 7, ..key("fd00::1", "fd00::2", 1, 2, 47) };
    assert_eq!(v6.to_string(), "[fd00::1]:1 -> [fd00::2]:2/IP-47 zone 7");
    for bad in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "+2:00:00:00:00:01"] {
        assert!(bad.parse::<Mac>().is_err(), "{bad}");
    }
}

#[test]
fn scopes_are_told_apart() {
    let addr = |text: &str| text.parse::<Addr>().expect("an address");
    assert!(addr("169.254.1.1").is_link_local() && addr("fe80::1").is_link_local());
    assert!(addr("febf::1").is_link_local() && !addr("fec0::1").is_link_local());
    assert!(!addr("169.253.1.1").is_link_local());
    assert!(addr("0.0.0.0").is_unspecified() && Addr::UNSPECIFIED.is_unspecified());
    assert!(addr("10.0.0.1").is_v4() && !addr("fd00::1").is_v4());
    assert_eq!(addr("fd00::1").v4_octets(), None);
}

/// Chi-square of `counts` against the uniform distribution, in standard deviations from its mean.
fn deviation(counts: &[u32]) -> f64 {
    let total: u32 = counts.iter().sum();
    let expected = f64::from(total) / counts.len() as f64;
    let chi: f64 = counts.iter().map(|c| (f64::from(*c) - expected).powi(2) / expected).sum();
    let degrees = counts.len() as f64 - 1.0;
    (chi - degrees) / (2.0 * degrees).sqrt()
}

/// Keys as they come: few addresses, ports that count up. Low bits choose buckets, high bits tags.
#[test]
fn hashes_of_real_keys_are_uniform_in_low_and_high_bits() {
    const SEED: u64 = 0x1234_5678_9abc_def0;
    println!("seed {SEED:#x}");
    for template in [
        key("10.0.0.1", "10.96.0.1", 0, 80, protocol::TCP),
        key("fd00::1", "fd00::2", 0, 53, protocol::UDP),
    ] {
        let (mut low, mut high, mut middle) = ([0; 1024], [0; 1024], [0; 1024]);
        let mut reversed = [0; 1024];
        for client in 0..64_u8 {
            for sport in 32768..=36863 {
                let mut src = template.src.octets();
                src[15] = client;
                let key = FlowKey { src: Addr::from_v6(src), sport, ..template };
                let hash = key.hash(SEED);
                low[hash as usize % 1024] += 1;
                middle[(hash >> 27) as usize % 1024] += 1;
                high[(hash >> 54) as usize] += 1;
                reversed[key.reversed().hash(SEED) as usize % 1024] += 1;
            }
        }
        for (bits, counts) in
            [("low", low), ("middle", middle), ("high", high), ("reversed", reversed)]
        {
            let deviation = deviation(&counts);
            assert!(deviation.abs() < 5.0, "{template}: {bits} bits deviate by {deviation:.1}");
        }
    }
}

/// Any bit of key or seed changes each bit of the hash about every second time.
#[test]
fn every_input_bit_reaches_every_output_bit() {
    const KEYS: u64 = 2000;
    let sample = |n: u64| {
        let mut key = key("10.0.0.1", "10.96.0.1", n as u16, 80, protocol::TCP);
        key.zone = (n >> 16) as u16;
        (key, n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    for bit in 0..384 {
        let mut flips = [0_u32; 64];
        for n in 0..KEYS {
            let (key, seed) = sample(n);
            let mut words = key.words();
            let mut changed_seed = seed;
            match words.get_mut(bit / 64) {
                Some(word) => *word ^= 1 << (bit % 64),
                None => changed_seed ^= 1 << (bit % 64),
            }
            let changed: FlowKey = zerocopy::transmute!(words);
            let difference = key.hash(seed) ^ changed.hash(changed_seed);
            for (out, count) in flips.iter_mut().enumerate() {
                *count += (difference >> out & 1) as u32;
            }
        }
        for (out, count) in flips.into_iter().enumerate() {
            let share = f64::from(count) / KEYS as f64;
            assert!((0.4..0.6).contains(&share), "bit {bit} flips bit {out} in {share:.2}");
        }
    }
}
