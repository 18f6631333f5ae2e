//! Packets as text, in both directions.
//!
//! ```text
//!  tcp/S client:4000 > web:80 mss 1460        udp client:4000 > web:53 len 100
//!  sctp client:4000 > web:36412               udp client:4000 > web:53 first fragment
//!  ping client > web id 7                     udp client > web later fragment
//!  icmp too-big 1400 router > web/lb about [tcp/A web/lb:80 > client:4000]
//!  geneve node-2 > node-1 for web/lb:80 [tcp/S client:4000 > web-1:8080]
//!  ipip node-2 > web-1 [tcp/S client:4000 > web/lb:80]
//!  option web/lb:80 [tcp/S client:4000 > web-1:8080]
//! ```
//! Not written: the usual length of a payload (4 bytes, none for TCP, 100 for what is fragmented),
//! and the usual TTL: 64, or 63 behind a router. What is wrong with a packet follows in words.

use std::fmt::Write as _;

use weir_packet::build::{DEFAULT_TTL, Path, Segment, emit_echo, emit_tcp, emit_udp};
use weir_packet::dsr::{
    ByteOrder, encapsulate_geneve, encapsulate_ipip, geneve_overhead, insert_option, ipip_overhead,
    option_overhead, parse_geneve, parse_ipip, parse_option, remove_option,
};
use weir_packet::reply::{IcmpError, write_icmp_error};
use weir_packet::{
    Addr, Fragment, Headers, IcmpKind, Mac, Packet, Parsed, checksum, parse, protocol, rewrite,
    set_macs, tcp_flags,
};

use super::names::Names;
use crate::common::packet::{as_frame, fragment, ones_sum, quoted_frame};

const FLAGS: [(char, u8); 5] = [
    ('S', tcp_flags::SYN),
    ('A', tcp_flags::ACK),
    ('F', tcp_flags::FIN),
    ('R', tcp_flags::RST),
    ('P', tcp_flags::PSH),
];

/// An ICMP error: its name, type and code in IPv4, and in IPv6.
struct Error(&'static str, (u8, u8), (u8, u8), IcmpError);

const ERRORS: [Error; 5] = [
    Error("no-route", (3, 0), (1, 0), IcmpError::NoRoute),
    Error("host-unreachable", (3, 1), (1, 3), IcmpError::HostUnreachable),
    Error("port-unreachable", (3, 3), (1, 4), IcmpError::PortUnreachable),
    Error("time-exceeded", (11, 0), (3, 0), IcmpError::TimeExceeded),
    Error("too-big", (3, 4), (2, 0), IcmpError::TooBig { mtu: 0 }),
];

/// Identity of the world: the virtual network of packets in Geneve.
const VNI_WORLD: u32 = 2;
/// An SCTP chunk without content.
const SCTP_CHUNK: [u8; 4] = [1, 0, 0, 4];

type Result<T> = std::result::Result<T, String>;

/// The frame of a text, from one MAC to another.
pub fn build(text: &str, names: &Names, family: u8, (src, dst): (Mac, Mac)) -> Result<Vec<u8>> {
    let reader = Reader { names, family };
    let mut frame = reader.packet(text)?;
    set_macs(&mut frame, dst, src);
    Ok(frame)
}

struct Reader<'a> {
    names: &'a Names,
    family: u8,
}

impl Reader<'_> {
    fn packet(&self, text: &str) -> Result<Vec<u8>> {
        // An IPv6 address with a port has brackets, too, but nothing ends with one.
        let nested = text.strip_suffix(']').and_then(|text| text.split_once(" ["));
        let Some((outer, inner)) = nested else { return self.plain(text) };
        let inner = self.packet(inner)?;
        let words: Vec<&str> = outer.split(' ').collect();
        match words[..] {
            ["geneve", src, ">", dst, ref service @ ..] => {
                let service = match service {
                    [] => None,
                    [_, service] => Some(self.end(service)?),
                    _ => return Err(format!("  what is {outer}?")),
                };
                let path = self.path((src, 0xc000), (dst, 0))?;
                let room = geneve_overhead(self.family, service.map(|_| self.family));
                let mut frame = [vec![0; room], inner].concat();
                set_macs(&mut frame[room..], Mac::ZERO, Mac::ZERO);
                let done = encapsulate_geneve(&mut frame, &path, VNI_WORLD, service);
                done.map(|_| frame).ok_or_else(|| format!("  does not fit: {text}"))
            }
            ["ipip", src, ">", dst] => {
                let path = self.path((src, 0), (dst, 0))?;
                let headers = headers(&inner);
                let mut frame = [vec![0; ipip_overhead(self.family)], inner].concat();
                let done = encapsulate_ipip(&mut frame, &headers, &path);
                done.map(|_| frame).ok_or_else(|| format!("  does not fit: {text}"))
            }
            ["option", service] => {
                let (headers, service) = (headers(&inner), self.end(service)?);
                let mut frame = [vec![0; option_overhead(self.family)], inner].concat();
                let done = insert_option(&mut frame, &headers, service, ByteOrder::Network);
                done.map(|_| frame).ok_or_else(|| format!("  does not fit: {text}"))
            }
            ["icmp", name, ref rest @ ..] => self.error(name, rest, inner),
            _ => Err(format!("  what is {outer}?")),
        }
    }

    /// `rest` is `[MTU] SOURCE > DESTINATION about`.
    fn error(&self, name: &str, rest: &[&str], quoted: Vec<u8>) -> Result<Vec<u8>> {
        let row = ERRORS.iter().find(|row| row.0 == name);
        let row = row.ok_or_else(|| format!("  no ICMP error is called {name}"))?;
        let (error, rest) = match (row.3, rest) {
            (IcmpError::TooBig { .. }, [mtu, rest @ ..]) => {
                (IcmpError::TooBig { mtu: number(mtu)? }, rest)
            }
            (error, rest) => (error, rest),
        };
        let [src, ">", dst, "about"] = rest else { return Err(format!("  what is {rest:?}?")) };
        let (src, _) = self.end(src)?;
        let headers = headers(&quoted);
        let mut frame = quoted;
        frame.resize(4096, 0);
        let len = write_icmp_error(&mut frame, &headers, error, src);
        frame.truncate(len.ok_or("  no error may be sent about that")?);
        match parse(&frame) {
            Ok(Parsed::Ip(packet)) if packet.key.dst == self.end(dst)?.0 => Ok(frame),
            _ => Err(format!("  an error goes to the sender of what it is about, not to {dst}")),
        }
    }

    fn plain(&self, text: &str) -> Result<Vec<u8>> {
        let mut words = text.split(' ');
        let mut next = || words.next().ok_or_else(|| format!("  too short: {text}"));
        let kind = next()?;
        let (kind, flags) = kind.split_once('/').unwrap_or((kind, ""));
        let src = next()?;
        if next()? != ">" {
            return Err(format!("  no > in {text}"));
        }
        let ((src, sport), (dst, dport)) = (self.end(src)?, self.end(next()?)?);
        let path = Path { src, dst, sport, dport, ttl: DEFAULT_TTL, ..EMPTY };
        let len = if kind == "tcp" { 0 } else { 4 };
        let mut say = Said { path, flags: 0, len, mss: None, fragment: None };
        for letter in flags.chars() {
            let row = FLAGS.iter().find(|row| row.0 == letter);
            say.flags |= row.ok_or_else(|| format!("  {letter} is no TCP flag"))?.1;
        }
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("  what is {word} in {text}?"))?;
            match (word, value, kind) {
                ("first" | "later", "fragment", _) => say.fragment = Some(word == "first"),
                ("ttl", value, _) => say.path.ttl = number(value)? as u8,
                ("len", value, _) => say.len = number(value)?.into(),
                ("mss", value, "tcp") => say.mss = Some(number(value)?),
                ("id", value, "ping") => say.path.sport = number(value)?,
                ("id", value, "pong") => say.path.dport = number(value)?,
                _ => return Err(format!("  what is {word} {value} in {text}?")),
            }
        }
        if say.fragment.is_some() && say.len < 100 {
            say.len = 100;
        }
        let frame = say.frame(kind)?;
        Ok(match say.fragment {
            Some(is_first) => fragment(&frame, is_first),
            None => frame,
        })
    }

    fn path(&self, src: (&str, u16), dst: (&str, u16)) -> Result<Path> {
        let ((src, sport), (dst, dport)) =
            ((self.end(src.0)?.0, src.1), (self.end(dst.0)?.0, dst.1));
        Ok(Path { src, dst, sport, dport, ttl: DEFAULT_TTL, ..EMPTY })
    }

    /// `name:port`, `name`, or the same with an address.
    fn end(&self, text: &str) -> Result<(Addr, u16)> {
        if let Ok(addr) = text.parse() {
            return Ok((addr, 0));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, number(port)?),
            None => (text, 0),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        Ok((self.names.addr(name, self.family)?, port))
    }
}

const EMPTY: Path = Path {
    dst_mac: Mac::ZERO,
    src_mac: Mac::ZERO,
    src: Addr::UNSPECIFIED,
    dst: Addr::UNSPECIFIED,
    sport: 0,
    dport: 0,
    ttl: 0,
};

/// What a text says of a plain packet.
struct Said {
    path: Path,
    flags: u8,
    len: usize,
    mss: Option<u16>,
    fragment: Option<bool>,
}

impl Said {
    fn frame(&self, kind: &str) -> Result<Vec<u8>> {
        let counting: Vec<u8> = (0..self.len).map(|at| at as u8).collect();
        let mut frame = vec![0; 128 + self.len];
        let len = match (kind, self.mss) {
            ("udp", _) => emit_udp(&mut frame, &self.path, &counting),
            ("ping" | "pong", _) => emit_echo(&mut frame, &self.path, 1, &counting),
            ("sctp", _) => return Ok(sctp(&self.path)),
            ("tcp", mss) => {
                let segment = Segment { seq: 1000, ack: 2000, flags: self.flags, window: 64 };
                let option = mss.map(|mss| [[2, 4], mss.to_be_bytes()].concat());
                let payload = [option.unwrap_or_default(), counting].concat();
                emit_tcp(&mut frame, &self.path, &segment, &payload)
            }
            _ => return Err(format!("  no packet is called {kind}")),
        };
        frame.truncate(len.ok_or("  one packet is of one family")?);
        if self.mss.is_some() {
            let headers = headers(&frame);
            frame[usize::from(headers.l4) + 12] = 6 << 4;
            checksum::complete_l4(&mut frame, &headers);
        }
        Ok(frame)
    }
}

/// A packet with an empty chunk.
fn sctp(path: &Path) -> Vec<u8> {
    let mut frame = vec![0; 128];
    let len = emit_udp(&mut frame, path, &[0; 8]).expect("the buffer is long enough");
    frame.truncate(len);
    let Headers { l3, l4, family, .. } = headers(&frame);
    let (l3, l4) = (usize::from(l3), usize::from(l4));
    if family == 4 {
        frame[l3 + 9] = protocol::SCTP;
        frame[l3 + 10..l3 + 12].fill(0);
        let sum = !ones_sum(&frame[l3..l3 + 20]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[l3 + 6] = protocol::SCTP;
    }
    frame[l4 + 4..l4 + 12].fill(0);
    frame[l4 + 12..].copy_from_slice(&SCTP_CHUNK);
    let headers = headers(&frame);
    checksum::complete_l4(&mut frame, &headers);
    frame
}

fn headers(frame: &[u8]) -> Headers {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => packet.headers,
        other => panic!("not an IP packet: {other:?}"),
    }
}

fn number(text: &str) -> Result<u16> {
    text.parse().map_err(|_| format!("  {text} is no number up to 65535"))
}

/// A frame as text. `macs` are those that it should have: source and destination.
pub fn show(frame: &[u8], names: &Names, macs: (Mac, Mac)) -> String {
    let mut text = show_packet(frame, names);
    let found = (rewrite::src_mac(frame), rewrite::dst_mac(frame));
    if found != macs {
        write!(text, " from MAC {} to MAC {}", found.0, found.1).expect("a string");
    }
    text
}

fn show_packet(frame: &[u8], names: &Names) -> String {
    let Ok(Parsed::Ip(packet)) = parse(frame) else { return format!("{:?}", parse(frame)) };
    let (key, headers) = (&packet.key, &packet.headers);
    let end = |addr: &Addr, port: u16| match addr.is_v4() || !names.name(addr).contains(':') {
        true => format!("{}:{port}", names.name(addr)),
        false => format!("[{addr}]:{port}"),
    };
    let (src, dst) = (names.name(&key.src), names.name(&key.dst));
    if let Some(geneve) = parse_geneve(frame, headers) {
        let service =
            geneve.service.map_or(String::new(), |it| format!(" for {}", end(&it.0, it.1)));
        let inner = show_packet(&frame[geneve.inner_at..], names);
        return format!("geneve {src} > {dst}{service} [{inner}]");
    }
    if let Some(ipip) = parse_ipip(frame, headers) {
        let is_v4 = frame[ipip.inner_at] >> 4 == 4;
        let inner = as_frame(&frame[ipip.inner_at..], if is_v4 { 4 } else { 6 });
        return format!("ipip {src} > {dst} [{}]", show_packet(&inner, names));
    }
    if let Some((addr, port)) = parse_option(frame, headers, ByteOrder::Network) {
        let mut inner = frame.to_vec();
        let cut = remove_option(&mut inner, headers);
        return format!("option {} [{}]", end(&addr, port), show_packet(&inner[cut..], names));
    }
    let (mut text, payload, usual) = headline(frame, &packet, names);
    text.push_str(&remarks(frame, headers, payload, usual));
    text
}

/// Who says what to whom, where in the frame the payload starts, and its usual length.
fn headline(frame: &[u8], packet: &Packet, names: &Names) -> (String, usize, usize) {
    let (headers, key) = (&packet.headers, &packet.key);
    let at = usize::from(headers.l4);
    let l4 = &frame[at..headers.end.into()];
    let (src, dst) = (names.name(&key.src), names.name(&key.dst));
    let ports = || format!("{src}:{} > {dst}:{}", key.sport, key.dport);
    let kind = protocol::Name(key.protocol).to_string().to_lowercase();
    match (key.protocol, headers.icmp) {
        _ if headers.fragment == Fragment::Later => (format!("{kind} {src} > {dst}"), at, l4.len()),
        (protocol::UDP, _) => (format!("udp {}", ports()), at + 8, 4),
        (protocol::SCTP, _) => (format!("sctp {}", ports()), at + 12, 4),
        (protocol::TCP, _) => {
            let flags = FLAGS.iter().filter(|flag| headers.tcp_flags & flag.1 != 0);
            let flags: String = flags.map(|flag| flag.0).collect();
            let flags = if flags.is_empty() { flags } else { format!("/{flags}") };
            let data_at = l4.get(12).map_or(20, |octet| usize::from(octet >> 4) * 4);
            let mss = match l4.get(20..24) {
                Some([2, 4, high, low]) if data_at >= 24 => {
                    format!(" mss {}", u16::from_be_bytes([*high, *low]))
                }
                _ => String::new(),
            };
            (format!("tcp{flags} {}{mss}", ports()), at + data_at, 0)
        }
        (_, IcmpKind::EchoRequest) => (format!("ping {src} > {dst} id {}", key.sport), at + 8, 4),
        (_, IcmpKind::EchoReply) => (format!("pong {src} > {dst} id {}", key.dport), at + 8, 4),
        (_, IcmpKind::Error) => {
            let kind = (l4[0], l4[1]);
            let row = ERRORS.iter().find(|row| kind == if key.src.is_v4() { row.1 } else { row.2 });
            let mut name = row.map_or_else(|| format!("{kind:?}"), |row| row.0.to_owned());
            if name == "too-big" {
                write!(name, " {}", u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]))
                    .expect("a string");
            }
            let about = quoted(&l4[8..], headers.family, names);
            (format!("icmp {name} {src} > {dst} about [{about}]"), headers.end.into(), 0)
        }
        (_, icmp) => (format!("{kind} {icmp:?} {src} > {dst}"), at, l4.len()),
    }
}

/// The packet that an ICMP error quotes.
fn quoted(datagram: &[u8], family: u8, names: &Names) -> String {
    let frame = quoted_frame(datagram, family);
    match parse(&frame) {
        Ok(Parsed::Ip(packet)) => headline(&frame, &packet, names).0,
        other => format!("{other:?}"),
    }
}

/// What is not as usual.
fn remarks(frame: &[u8], headers: &Headers, payload: usize, usual: usize) -> String {
    let mut text = String::new();
    let mut note = |note: String| text.push_str(&note);
    let payload = frame.get(payload..headers.end.into()).unwrap_or_default();
    if headers.ttl != DEFAULT_TTL && headers.ttl != DEFAULT_TTL - 1 {
        note(format!(" ttl {}", headers.ttl));
    }
    match headers.fragment {
        Fragment::First => note(" first fragment".into()),
        Fragment::Later => note(" later fragment".into()),
        Fragment::None => {
            if payload.len() != usual {
                note(format!(" len {}", payload.len()));
            }
            if !checksum::l4_is_valid(frame, headers) {
                note(" bad checksum".into());
            }
            let counts = payload.iter().enumerate().all(|(at, byte)| *byte == at as u8);
            if !counts && payload != SCTP_CHUNK {
                note(" damaged".into());
            }
        }
    }
    if !checksum::l3_is_valid(frame, headers) {
        note(" bad IPv4 checksum".into());
    }
    text
}
