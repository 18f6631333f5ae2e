//! What a test packet carries, and how it is recognised.
//!
//! ```text
//! 0      4    8     12     16   24           32       40
//! magic | run | flow | check | seq | intended_ns | sent_ns | a fixed pattern up to the end
//! ```
//!
//! All big endian. `check` covers the other fields; the pattern covers itself.

/// Bytes of a message without the pattern.
pub const MESSAGE_LEN: usize = 40;

const MAGIC: [u8; 4] = *b"wpg1";

/// A test packet's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Tells runs apart.
    pub run: u32,
    /// Number of the flow.
    pub flow: u32,
    /// Number of the packet in its run.
    pub seq: u64,
    /// When it was to leave, `CLOCK_MONOTONIC`.
    pub intended_ns: u64,
    /// When it was written into its frame.
    pub sent_ns: u64,
}

/// What a received payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole message.
    Whole(Message),
    /// One of ours, with other bytes or another length than it was sent with.
    Corrupted,
    /// Nothing of ours.
    Foreign,
}

impl Message {
    /// The message as bytes.
    pub fn to_bytes(&self) -> [u8; MESSAGE_LEN] {
        let mut bytes = [0; MESSAGE_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.flow.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.check().to_be_bytes());
        bytes[16..24].copy_from_slice(&self.seq.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.intended_ns.to_be_bytes());
        bytes[32..].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes
    }

    /// Reads a payload that was sent with `pattern` behind its message. Bytes in front of the
    /// message are skipped: some echo servers put their name there.
    pub fn read(payload: &[u8], pattern: &[u8]) -> Received {
        let broken =
            if payload.starts_with(&MAGIC) { Received::Corrupted } else { Received::Foreign };
        let Some(start) = payload.len().checked_sub(MESSAGE_LEN + pattern.len()) else {
            return broken;
        };
        let Some((bytes, rest)) = payload[start..].split_first_chunk::<MESSAGE_LEN>() else {
            return broken;
        };
        if bytes[..4] != MAGIC {
            return broken;
        }
        let message = Message {
            run: u32::from_be_bytes(array(bytes, 4)),
            flow: u32::from_be_bytes(array(bytes, 8)),
            seq: u64::from_be_bytes(array(bytes, 16)),
            intended_ns: u64::from_be_bytes(array(bytes, 24)),
            sent_ns: u64::from_be_bytes(array(bytes, 32)),
        };
        let is_whole = message.check().to_be_bytes() == bytes[12..16] && rest == pattern;
        if is_whole { Received::Whole(message) } else { Received::Corrupted }
    }

    /// Mixes all fields into 32 bits.
    fn check(&self) -> u32 {
        let head = u64::from(self.run) << 32 | u64::from(self.flow);
        let mix =
            [head, self.seq, self.intended_ns, self.sent_ns].iter().fold(0, |state: u64, word| {
                (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            });
        (mix >> 32) as u32 ^ mix as u32
    }
}

/// The bytes that fill a packet behind its message.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(7)).collect()
}

fn array<const N: usize>(bytes: &[u8; MESSAGE_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|offset| bytes[at + offset])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Message =
        Message { run: 7, flow: 3, seq: 1 << 40, intended_ns: 123_456_789, sent_ns: 123_456_999 };

    fn payload(pattern: &[u8]) -> Vec<u8> {
        [&MESSAGE.to_bytes()[..], pattern].concat()
    }

    #[test]
    fn a_message_survives_also_behind_a_servers_name() {
        for len in [0, 1, 1000] {
            let pattern = pattern(len);
            let sent = payload(&pattern);
            assert_eq!(Message::read(&sent, &pattern), Received::Whole(MESSAGE));
            let named = [b"server-1 ", &sent[..]].concat();
            assert_eq!(Message::read(&named, &pattern), Received::Whole(MESSAGE));
        }
    }

    #[test]
    fn every_changed_bit_and_every_lost_byte_is_noticed() {
        let pattern = pattern(20);
        let sent = payload(&pattern);
        for bit in 0..sent.len() * 8 {
            let mut changed = sent.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 32 { Received::Foreign } else { Received::Corrupted };
            assert_eq!(Message::read(&changed, &pattern), expected, "bit {bit}");
        }
        for len in 4..sent.len() {
            assert_eq!(Message::read(&sent[..len], &pattern), Received::Corrupted, "{len} bytes");
        }
        assert_eq!(Message::read(b"", &pattern), Received::Foreign);
        assert_eq!(Message::read(&[0; 200], &pattern), Received::Foreign);
    }
}
