//! The bytes of a download: each is a function of its offset, so both sides know all of them.

/// The byte at `offset`. Mixes high bits in, so that a block repeated, skipped or moved by a power
/// of two shows.
#[must_use]
pub fn byte_at(offset: u64) -> u8 {
    let mixed = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// `length` bytes from `offset` on.
#[must_use]
pub fn bytes(offset: u64, length: usize) -> Vec<u8> {
    (offset..).take(length).map(byte_at).collect()
}

/// Whether `data` is what stands at `offset`.
#[must_use]
pub fn matches(offset: u64, data: &[u8]) -> bool {
    (offset..).zip(data).all(|(offset, byte)| byte_at(offset) == *byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_or_changed_bytes_do_not_match() {
        let data = bytes(1000, 4096);
        assert!(matches(1000, &data));
        for shift in [1, 256, 1448, 4096, 65_536] {
            assert!(!matches(1000 + shift, &data), "shifted by {shift}");
        }
        let mut changed = data;
        changed[4095] ^= 1;
        assert!(!matches(1000, &changed));
    }
}
