//! SCTP's checksum: CRC32c over the whole SCTP packet with its own field as 0 (RFC 9260 appendix
//! A).
//!
//! No pseudo-header, so that new addresses leave it alone. New ports do not: [`port_delta`] finds
//! the difference in O(log length) from the fact that a CRC is linear, and keeps a wrong CRC wrong.

use crate::headers::{Fragment, Headers};
use crate::wire::*;

/// The Castagnoli polynomial, bit-reflected: bit 31 is x^0, bit 0 is x^31.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Of the checksum field in the SCTP header, in bytes.
const CHECK_AT: usize = 8;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = times_x(crc);
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// `POWERS[i]` is x^(2^i) modulo the polynomial, up to the bits of the longest packet.
const POWERS: [u32; 20] = {
    let mut powers = [0; 20];
    powers[0] = 1 << 30;
    let mut i = 1;
    while i < powers.len() {
        powers[i] = multiply(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
};

#[inline]
const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (POLYNOMIAL & (a & 1).wrapping_neg())
}

/// The product of two polynomials modulo [`POLYNOMIAL`].
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted, mut bit) = (0, b, 0);
    while bit < 32 {
        // From x^0 (bit 31) upwards.
        product ^= shifted & ((a >> (31 - bit)) & 1).wrapping_neg();
        shifted = times_x(shifted);
        bit += 1;
    }
    product
}

/// What to xor into the checksum field (read little-endian) when the first four bytes of an SCTP
/// packet of `len` bytes change by `change` (old xor new, in wire order).
pub(crate) fn port_delta(change: [u8; 4], len: usize) -> u32 {
    // The CRC of the change alone: its four bytes, then a shift by the zero bytes behind them.
    let bits = len * 8;
    let mut crc = u32::from_le_bytes(change);
    for (i, power) in POWERS.iter().enumerate() {
        if bits >> i & 1 == 1 {
            crc = multiply(crc, *power);
        }
    }
    crc
}

fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The SCTP packet; `None` for fragments, whose CRC covers the whole datagram.
fn packet<'a>(frame: &'a [u8], headers: &Headers) -> Option<&'a [u8]> {
    if headers.fragment != Fragment::None {
        return None;
    }
    let packet = frame.get(usize::from(headers.l4)..usize::from(headers.end))?;
    (packet.len() >= SCTP_LEN).then_some(packet)
}

fn compute(packet: &[u8]) -> u32 {
    let (head, tail) = packet.split_at(CHECK_AT);
    !update(update(update(!0, head), &[0; 4]), &tail[4..])
}

/// The checksum field as it is, little-endian.
#[inline]
pub(crate) fn sctp_held(frame: &[u8], headers: &Headers) -> Option<u32> {
    let packet = packet(frame, headers)?;
    header_at(packet, CHECK_AT).map(|field| u32::from_le_bytes(*field))
}

pub(crate) fn complete_sctp(frame: &mut [u8], headers: &Headers) {
    let Some(crc) = packet(frame, headers).map(compute) else { return };
    if let Some(field) = header_at_mut(frame, usize::from(headers.l4) + CHECK_AT) {
        *field = crc.to_le_bytes();
    }
}

pub(crate) fn sctp_is_valid(frame: &[u8], headers: &Headers) -> bool {
    let held = sctp_held(frame, headers);
    held.is_none() || held == packet(frame, headers).map(compute)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
    #[test]
    fn crc_of_the_nine_digits_is_the_published_one() {
        assert_eq!(!update(!0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_power_is_as_many_shifts() {
        let mut power = 1 << 31;
        for exponent in 0..=1024_u32 {
            if exponent.is_power_of_two() {
                assert_eq!(power, POWERS[exponent.trailing_zeros() as usize], "x^{exponent}");
            }
            power = times_x(power);
        }
    }
}
