//! ICMP errors about translated packets: translating an error must equal building it around the
//! translated packet.

mod common;

use common::*;
use proptest::prelude::*;
use proptest::sample::Index;
use weir_packet::checksum::{self, Delta, complete_l4, l3_is_valid, l4_is_valid};
use weir_packet::reply::{IcmpError, write_icmp_error};
use weir_packet::{Addr, FlowKey, Fragment, IcmpKind, Quote, Translation, parse_quote, protocol};

/// A protocol without ports.
const GRE: u8 = 47;

/// An error about a packet of `spec`, the first `len` bytes of it.
#[derive(Clone, Debug)]
struct Case {
    spec: Spec,
    /// What the flow of the error, `spec.key.reversed()`, becomes.
    to: FlowKey,
    /// Who sent the error; `None`: the quoted packet's destination.
    router: Option<Addr>,
    has_options: bool,
    is_first_fragment: bool,
    cut: Index,
}

fn case() -> impl Strategy<Value = Case> {
    let protocols = prop_oneof![
        spec(),
        spec_of(4, protocol::SCTP),
        spec_of(6, protocol::SCTP),
        spec_of(4, GRE)
    ];
    protocols.prop_flat_map(|spec| {
        let family = spec.key.family;
        let ends = (addr(family), addr(family), any::<u16>(), any::<u16>());
        let flags = (any::<bool>(), any::<bool>(), 0..4_u8);
        let router = proptest::option::of(addr(family));
        (ends, flags, router, any::<Index>()).prop_map(move |(ends, flags, router, cut)| {
            let mut spec = spec.clone();
            let (has_options, is_first_fragment, kept) = flags;
            if spec.key.protocol == GRE {
                (spec.key.sport, spec.key.dport) = (0, 0);
            }
            let flow = spec.key.reversed();
            let (src, dst, sport, dport) = ends;
            let mut to = FlowKey { src, dst, sport, dport, ..flow };
            if kept & 1 != 0 {
                (to.src, to.sport) = (flow.src, flow.sport);
            }
            if kept & 2 != 0 {
                (to.dst, to.dport) = (flow.dst, flow.dport);
            }
            match flow.protocol {
                protocol::ICMP | protocol::ICMPV6 if spec.is_reply => to.dport = 0,
                protocol::ICMP | protocol::ICMPV6 => to.sport = 0,
                GRE => (to.sport, to.dport) = (0, 0),
                _ => {}
            }
            Case { spec, to, router, has_options, is_first_fragment, cut }
        })
    })
}

impl Case {
    fn translation(&self) -> Translation {
        Translation::between(&self.spec.key.reversed(), &self.to)
    }

    /// The quoted datagram, and where its L4 header starts.
    fn datagram(&self, key: &FlowKey) -> (Vec<u8>, usize) {
        let spec = Spec { key: *key, ..self.spec.clone() };
        let frame = match key.protocol {
            protocol::SCTP | GRE => {
                let mut payload = [key.sport.to_be_bytes(), key.dport.to_be_bytes()].concat();
                payload.extend(b"tag and checksum");
                payload.extend(&spec.payload);
                ip_frame(key.src, key.dst, key.protocol, &payload)
            }
            _ => spec.frame(),
        };
        let mut datagram = frame[14..].to_vec();
        let is_v4 = key.family == 4;
        let mut l4 = if is_v4 { 20 } else { 40 };
        if self.has_options {
            // Router alert and padding; or a destination options header of padding.
            let options: &[u8] = if is_v4 {
                &[148, 4, 0, 0, 1, 1, 0, 0]
            } else {
                &[key.protocol, 0, 1, 4, 0, 0, 0, 0]
            };
            datagram.splice(l4..l4, options.iter().copied());
            l4 += options.len();
            let len_at = if is_v4 { 2 } else { 4 };
            add_u16(&mut datagram, len_at, options.len() as u16);
            if is_v4 {
                datagram[0] += 2;
            } else {
                datagram[6] = 60;
            }
        }
        if self.is_first_fragment && is_v4 {
            datagram[6] |= 0x20;
        } else if self.is_first_fragment {
            let next = if self.has_options { 40 } else { 6 };
            datagram.splice(l4..l4, [datagram[next], 0, 0, 1, 0, 0, 0, 9]);
            datagram[next] = 44;
            l4 += 8;
            add_u16(&mut datagram, 4, 8);
        }
        if is_v4 {
            datagram[10..12].fill(0);
            let check = !checksum::fold(checksum::sum(&datagram[..l4]));
            datagram[10..12].copy_from_slice(&check.to_be_bytes());
        }
        (datagram, l4)
    }

    /// How much of the quote is there, at least 8 bytes of L4.
    fn quoted_len(&self) -> usize {
        let (datagram, l4) = self.datagram(&self.spec.key);
        l4 + 8 + self.cut.index(datagram.len() - l4 - 7)
    }

    fn error(&self) -> Vec<u8> {
        let key = self.spec.key;
        let (datagram, _) = self.datagram(&key);
        error_about(self.router.unwrap_or(key.dst), key.src, &datagram[..self.quoted_len()])
    }

    /// The error around the translated packet.
    fn expected(&self) -> Vec<u8> {
        let key = self.to.reversed();
        let ((mut datagram, l4), (original, _)) =
            (self.datagram(&key), self.datagram(&self.spec.key));
        let len = self.quoted_len();
        if key.protocol == protocol::TCP && len == l4 + 17 {
            // Half a checksum cannot be corrected.
            datagram[l4 + 16] = original[l4 + 16];
        }
        let source = match self.router {
            Some(router) if self.to.src == self.spec.key.dst => router,
            _ => self.to.src,
        };
        error_about(source, self.to.dst, &datagram[..len])
    }
}

fn add_u16(bytes: &mut [u8], at: usize, more: u16) {
    let sum = u16::from_be_bytes([bytes[at], bytes[at + 1]]) + more;
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// "Port unreachable", with right checksums.
fn error_about(src: Addr, dst: Addr, quote: &[u8]) -> Vec<u8> {
    let (protocol, head) =
        if src.is_v4() { (protocol::ICMP, [3, 3]) } else { (protocol::ICMPV6, [1, 4]) };
    let message = [&head[..], &[0; 6], quote].concat();
    let mut frame = ip_frame(src, dst, protocol, &message);
    let headers = parse_ip(&frame).headers;
    complete_l4(&mut frame, &headers);
    frame
}

fn quote_of(frame: &[u8]) -> Option<Quote> {
    parse_quote(frame, &parse_ip(frame).headers)
}

fn apply(translation: &Translation, flow: &FlowKey, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let headers = parse_ip(&frame).headers;
    let quote = parse_quote(&frame, &headers).expect("an error with a quote");
    assert_eq!(quote.key.reversed(), *flow);
    translation.apply_to_error(flow, &mut frame, &headers, &quote);
    frame
}

proptest! {
    #[test]
    fn equals_the_error_about_the_translated_packet(case in case()) {
        let (before, flow) = (case.error(), case.spec.key.reversed());
        let quote = quote_of(&before).expect("a quote");
        prop_assert_eq!(quote.key, case.spec.key);
        let fragment = if case.is_first_fragment { Fragment::First } else { Fragment::None };
        prop_assert_eq!(quote.fragment, fragment);
        let after = apply(&case.translation(), &flow, &before);
        prop_assert_eq!(&after, &case.expected());
        prop_assert_eq!(quote_of(&after).expect("a quote").key, case.to.reversed());
        let headers = parse_ip(&after).headers;
        prop_assert!(l3_is_valid(&after, &headers) && l4_is_valid(&after, &headers));
    }

    #[test]
    fn the_inverse_restores_every_byte(case in case()) {
        let (before, flow) = (case.error(), case.spec.key.reversed());
        // Where the source changes, a router's address is lost.
        prop_assume!(case.router.is_none_or(|addr| addr == flow.src) || case.to.src == flow.src);
        let after = apply(&case.translation(), &flow, &before);
        let inverse = Translation::between(&case.to, &flow);
        prop_assert_eq!(apply(&inverse, &case.to, &after), before);
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong(case in case(), error in 1..0xffff_u16) {
        let (mut before, flow) = (case.error(), case.spec.key.reversed());
        let headers = parse_ip(&before).headers;
        let at = usize::from(headers.l4) + 2;
        let held = u16::from_be_bytes([before[at], before[at + 1]]);
        let wrong = checksum::apply(held, Delta(error));
        before[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        let after = apply(&case.translation(), &flow, &before);
        prop_assert!(!l4_is_valid(&after, &headers));
        let inverse = Translation::between(&case.to, &flow);
        prop_assume!(case.router.is_none_or(|addr| addr == flow.src) || case.to.src == flow.src);
        prop_assert_eq!(apply(&inverse, &case.to, &after), before);
    }

    /// Less than 8 bytes of L4 are no quote; no length panics, whatever the headers say.
    #[test]
    fn truncation_is_survived(case in case()) {
        let frame = case.error();
        let (headers, flow) = (parse_ip(&frame).headers, case.spec.key.reversed());
        let quote = parse_quote(&frame, &headers).expect("a quote");
        for len in 0..frame.len() {
            let mut cut = frame[..len].to_vec();
            let _ = parse_quote(&cut, &headers);
            case.translation().apply_to_error(&flow, &mut cut, &headers, &quote);
            if len >= 14 + usize::from(headers.l4 - headers.l3) + 8 {
                // The same with an outer length that says so.
                let mut cut = frame[..len].to_vec();
                let at = if headers.family == 4 { 16 } else { 18 };
                let datagram_len = if headers.family == 4 { len - 14 } else { len - 54 };
                cut[at..at + 2].copy_from_slice(&(datagram_len as u16).to_be_bytes());
                let is_enough = len >= usize::from(quote.l4) + 8;
                prop_assert_eq!(quote_of(&cut).is_some(), is_enough, "{} bytes", len);
            }
        }
    }

    /// What this crate writes, it reads.
    #[test]
    fn an_error_written_here_quotes_its_packet(spec in spec(), is_too_big in any::<bool>()) {
        let mut frame = spec.frame();
        let headers = parse_ip(&frame).headers;
        frame.resize(2048, 0);
        let error =
            if is_too_big { IcmpError::TooBig { mtu: 1400 } } else { IcmpError::TimeExceeded };
        let router = if spec.key.family == 4 { "10.0.0.254" } else { "fd00::fe" };
        let source = router.parse().expect("an address");
        let len = write_icmp_error(&mut frame, &headers, error, source).expect("an error");
        prop_assert_eq!(quote_of(&frame[..len]).expect("a quote").key, spec.key);
    }
}

/// The client's packet to a service, and an error from a router behind its backend.
#[test]
fn an_error_about_a_backend_reaches_the_client_as_one_about_the_service() {
    let sent = key("10.0.0.1", "10.96.0.1", 40000, 53, protocol::UDP);
    let backend = (Addr::from_v4([10, 244, 1, 7]), 5353);
    let translation = Translation::new(&sent, None, Some(backend));
    let arrived = translation.key_after(&sent);
    let datagram = |key| Spec { key, ttl: 64, ..Spec::default() }.frame()[14..].to_vec();
    let router = Addr::from_v4([10, 244, 1, 1]);
    for source in [router, backend.0] {
        let error = error_about(source, sent.src, &datagram(arrived));
        let flow = arrived.reversed();
        let after = apply(&translation.for_replies(&sent), &flow, &error);
        assert_eq!(after, error_about(sent.dst, sent.src, &datagram(sent)));
    }
}

#[test]
fn a_quoted_udp_packet_without_checksum_stays_without() {
    let sent = key("10.0.0.1", "10.96.0.1", 40000, 53, protocol::UDP);
    let mut datagram = Spec { key: sent, ttl: 64, ..Spec::default() }.frame()[14..].to_vec();
    datagram[26..28].fill(0);
    let error = error_about(sent.dst, sent.src, &datagram);
    let flow = sent.reversed();
    let to = FlowKey { src: Addr::from_v4([10, 1, 1, 1]), sport: 54, ..flow };
    let after = apply(&Translation::between(&flow, &to), &flow, &error);
    assert_eq!(after[42 + 26..42 + 28], [0, 0]);
    assert!(l4_is_valid(&after, &parse_ip(&after).headers));
}

#[test]
fn some_errors_quote_nothing_usable() {
    let sent = key("10.0.0.1", "10.96.0.1", 40000, 53, protocol::UDP);
    let datagram = Spec { key: sent, ttl: 64, ..Spec::default() }.frame()[14..].to_vec();
    let quoted = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut datagram = datagram.clone();
        change(&mut datagram);
        quote_of(&error_about(sent.dst, sent.src, &datagram))
    };
    assert!(quoted(&|_| {}).is_some());
    assert!(quoted(&|quote| quote[2..4].fill(0xff)).is_some(), "a long total length");
    assert!(quoted(&|quote| quote[2..4].fill(0)).is_some(), "no total length");
    assert_eq!(quoted(&|quote| quote[7] = 1), None, "a later fragment");
    assert_eq!(quoted(&|quote| quote[0] = 0x65), None, "version 6");
    assert_eq!(quoted(&|quote| quote[0] = 0x44), None, "a header of 16 bytes");
    assert_eq!(quoted(&|quote| quote[0] = 0x4f), None, "a header beyond the end");
    assert_eq!(quoted(&|quote| quote[15] = 9), None, "sent by somebody else");
    assert_eq!(quoted(&|quote| (quote[9], quote[20]) = (protocol::ICMP, 3)), None, "an error");
    assert_eq!(quoted(&Vec::clear), None, "nothing");
    // A redirect quotes a packet too, but is no error about it.
    let mut frame = error_about(sent.dst, sent.src, &datagram);
    frame[34] = 5;
    assert_eq!(parse_ip(&frame).headers.icmp, IcmpKind::Redirect);
    assert_eq!(quote_of(&frame), None);
    // And a packet that is not ICMP quotes nothing.
    assert_eq!(quote_of(&Spec { key: sent, ttl: 64, ..Spec::default() }.frame()), None);
    // Ethernet padding is not part of the quote.
    let mut padded = error_about(sent.dst, sent.src, &datagram[..24]);
    padded.resize(100, 0);
    assert_eq!(quote_of(&padded), None);
}

#[test]
fn types_that_are_errors() {
    let sent = key("10.0.0.1", "10.96.0.1", 40000, 53, protocol::UDP);
    let sent6 = key("fd00::1", "fd00::2", 40000, 53, protocol::UDP);
    for (sent, errors) in [(sent, &[3, 4, 11, 12][..]), (sent6, &[1, 2, 3, 4])] {
        let datagram = Spec { key: sent, ttl: 64, ..Spec::default() }.frame()[14..].to_vec();
        let mut frame = error_about(sent.dst, sent.src, &datagram);
        let at = usize::from(parse_ip(&frame).headers.l4);
        for kind in 0..=255 {
            frame[at] = kind;
            if errors.contains(&kind) {
                assert_eq!(quote_of(&frame).expect("a quote").key, sent, "type {kind}");
            } else if sent.family == 4 || kind >= 128 {
                assert_eq!(quote_of(&frame), None, "type {kind}");
            }
        }
    }
}
