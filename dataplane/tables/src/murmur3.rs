//! MurmurHash3_x64_128 (Austin Appleby, public domain), the hash that places a backend in a Maglev
//! table.

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// The 128-bit hash of `data`; both halves start as the zero-extended `seed`.
pub fn murmur3_x64_128(data: &[u8], seed: u32) -> (u64, u64) {
    let (mut h1, mut h2) = (u64::from(seed), u64::from(seed));
    let (blocks, tail) = data.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = words(block);
        h1 = (h1 ^ mix_k1(k1)).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix_k2(k2)).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    last[..tail.len()].copy_from_slice(tail);
    let (k1, k2) = words(&last);
    h2 ^= mix_k2(k2);
    h1 ^= mix_k1(k1);

    h1 ^= data.len() as u64;
    h2 ^= data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finalise(h1);
    h2 = finalise(h2);
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

fn words(block: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*block);
    (whole as u64, (whole >> 64) as u64)
}

fn mix_k1(k1: u64) -> u64 {
    k1.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_k2(k2: u64) -> u64 {
    k2.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finalise(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_value() {
        assert_eq!(murmur3_x64_128(b"hello", 0), (0xcbd8_a7b3_41bd_9b02, 0x5b1e_906a_48ae_1d19));
    }

    #[test]
    fn identity_strings_of_the_reference() {
        let seed = 0x24b7_ef82;
        let hash = |text: &str| murmur3_x64_128(text.as_bytes(), seed);
        assert_eq!(
            hash("[0.0.0.1:1/TCP,State:active]"),
            (0xe5a6_1e34_6c85_d436, 0x53ee_412c_c7f2_0636)
        );
        assert_eq!(
            hash("[0.0.0.5:5/TCP,State:active]"),
            (0x56d0_ca3e_6640_38a4, 0x793a_8eb7_6fc2_1245)
        );
    }
}
