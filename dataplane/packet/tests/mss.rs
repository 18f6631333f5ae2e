//! Clamping the maximum segment size: options of every shape, checksums from scratch.

mod common;

use common::*;
use proptest::prelude::*;
use weir_packet::checksum::{complete_l4, l4_is_valid};
use weir_packet::{clamp_mss, protocol, tcp_flags};

const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;

/// A segment with these options and a right checksum.
fn segment(src: &str, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let dst = if src.contains(':') { "fd00::2" } else { "10.0.0.2" };
    let key = key(src, dst, 40000, 80, protocol::TCP);
    let mut tcp = vec![0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
    tcp[12] = (5 + options.len() as u8 / 4) << 4;
    let mut frame = ip_frame(key.src, key.dst, protocol::TCP, &[&tcp, options, payload].concat());
    let headers = parse_ip(&frame).headers;
    complete_l4(&mut frame, &headers);
    frame
}

fn clamp(frame: &[u8], mss_max: u16) -> (bool, Vec<u8>) {
    let mut frame = frame.to_vec();
    let headers = parse_ip(&frame).headers;
    let changed = clamp_mss(&mut frame, &headers, mss_max);
    (changed, frame)
}

const MSS: [u8; 4] = [2, 4, 0x05, 0xb4];
const CLAMPED: [u8; 4] = [2, 4, 0x05, 0x50];

#[test]
fn a_syn_is_clamped_and_only_downwards() {
    for src in ["10.0.0.1", "fd00::1"] {
        let syn = segment(src, tcp_flags::SYN, &MSS, b"early");
        let clamped = segment(src, tcp_flags::SYN, &CLAMPED, b"early");
        assert_eq!(clamp(&syn, 1360), (true, clamped.clone()));
        assert_eq!(clamp(&clamped, 1360), (false, clamped.clone()));
        assert_eq!(clamp(&clamped, 9000), (false, clamped));
        let syn_ack = segment(src, SYN_ACK, &MSS, &[]);
        assert_eq!(clamp(&syn_ack, 1360), (true, segment(src, SYN_ACK, &CLAMPED, &[])));
    }
}

/// A MSS of 1460 where it must not be clamped.
#[test]
fn what_is_not_an_mss_stays() {
    let rows: [(&str, u8, &[u8]); 8] = [
        ("no SYN", tcp_flags::ACK, &MSS),
        ("no options", tcp_flags::SYN, &[]),
        ("behind the end", tcp_flags::SYN, &[0, 0, 0, 0, 2, 4, 0x05, 0xb4]),
        ("length 3", tcp_flags::SYN, &[2, 3, 0x05, 0xb4]),
        ("length 0", tcp_flags::SYN, &[2, 0, 0x05, 0xb4]),
        ("beyond the header", tcp_flags::SYN, &[1, 1, 2, 4]),
        ("behind a bad option", tcp_flags::SYN, &[8, 9, 0, 0, 2, 4, 0x05, 0xb4]),
        ("data of another option", tcp_flags::SYN, &[254, 6, 2, 4, 0x05, 0xb4, 1, 1]),
    ];
    for (description, flags, options) in rows {
        let frame = segment("10.0.0.1", flags, options, &MSS);
        assert_eq!(clamp(&frame, 1000), (false, frame), "{description}");
    }
    let key = key("10.0.0.1", "10.0.0.2", 1, 2, protocol::UDP);
    let udp = Spec { key, payload: MSS.to_vec(), ttl: 64, ..Spec::default() }.frame();
    assert_eq!(clamp(&udp, 1000), (false, udp));
}

proptest! {
    /// At every offset, also odd ones, and twice.
    #[test]
    fn the_checksum_follows(
        before in 0..16_usize,
        held in any::<u16>(),
        again in any::<u16>(),
        mss_max in any::<u16>(),
        flags in prop_oneof![Just(tcp_flags::SYN), Just(SYN_ACK)],
        payload in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let options = |first: u16, second: u16| {
            let mut options = vec![1; before];
            for value in [first, second] {
                options.extend([2, 4]);
                options.extend(value.to_be_bytes());
                options.push(1);
            }
            options.resize(options.len().next_multiple_of(4), 0);
            options
        };
        let frame = segment("fd00::1", flags, &options(held, again), &payload);
        let clamped = options(held.min(mss_max), again.min(mss_max));
        let (changed, after) = clamp(&frame, mss_max);
        prop_assert_eq!(changed, held > mss_max || again > mss_max);
        prop_assert_eq!(&after, &segment("fd00::1", flags, &clamped, &payload));
        prop_assert!(l4_is_valid(&after, &parse_ip(&after).headers));
    }

    #[test]
    fn random_options_and_truncation_are_survived(
        words in proptest::collection::vec(any::<[u8; 4]>(), 0..10),
        mss_max in any::<u16>(),
    ) {
        let frame = segment("10.0.0.1", tcp_flags::SYN, &words.concat(), &[]);
        let (changed, after) = clamp(&frame, mss_max);
        prop_assert!(changed || after == frame);
        let headers = parse_ip(&frame).headers;
        prop_assert!(l4_is_valid(&after, &headers));
        for len in 0..frame.len() {
            clamp_mss(&mut frame[..len].to_vec(), &headers, mss_max);
        }
    }
}
