//! DSR on the wire: the service's address travels beside the packet, to the backend's node and no
//! further (see `weir_packet::dsr` for the forms).

use weir_packet::build::Path;
use weir_packet::dsr::{
    self, ByteOrder, Dispatch, GENEVE_PORT, decapsulate_ipip, encapsulate_geneve, encapsulate_ipip,
    insert_option, parse_geneve, parse_ipip, parse_option, remove_option,
};
use weir_packet::reply::IcmpError;
use weir_packet::{
    Fragment, IcmpKind, Mac, Parsed, Translation, decrement_ttl, parse, protocol, set_macs,
    tcp_flags,
};
use weir_tables::{Adjacency, BackendAddr, DsrDispatch, Egress, FrontendKey};

use super::{Context, fragment, refuse, related};
use crate::batch::{Packet, Stage, Verdict};
use crate::drops::Drop;

/// IP protocol numbers of IP in IP (RFC 2003, RFC 2473).
pub(super) const IPV4_INSIDE: u8 = 4;
pub(super) const IPV6_INSIDE: u8 = 41;

/// Identity of a source outside the cluster: the virtual network of tunnelled packets, as others
/// who speak this form expect it.
const VNI_WORLD: u32 = 2;
const TUNNEL_TTL: u8 = 64;
const ETHERNET_BYTES: usize = 14;

/// Takes a packet from outside out of its tunnel, if it came in one for a pod of this node; the
/// pod's worker goes on with it. Other packets stay as they are: somebody else's tunnel ends at the
/// host.
#[cold]
pub(super) fn open(packet: &mut Packet, cx: &mut Context<'_>) {
    let (snapshot, key) = (cx.snapshot, packet.key);
    if packet.headers.protocol == protocol::UDP && key.dport == GENEVE_PORT {
        let Some(geneve) = parse_geneve(packet.frame.bytes(), &packet.headers) else { return };
        let inner = parse(&packet.frame.bytes()[geneve.inner_at..]);
        let is_for_pod = matches!(inner, Ok(Parsed::Ip(inner))
            if matches!(snapshot.resolve(&inner.key.dst), Egress::Pod { .. }));
        if !snapshot.is_host_addr(&key.dst) || !is_for_pod {
            return;
        }
        // Of pods, which are in the cluster as well, nobody may wrap what he likes.
        if !snapshot.is_node_addr(&key.src) {
            packet.verdict = Verdict::Drop(Drop::TunnelRefused);
            return;
        }
        let service = geneve.service.map(|(addr, l4_port)| BackendAddr { addr, l4_port });
        packet.frame.cut_front(geneve.inner_at);
        return go_on(packet, |_, _| Some(Stage::Tunnelled { service }), cx);
    }
    if !matches!(snapshot.resolve(&key.dst), Egress::Pod { .. }) {
        return;
    }
    match snapshot.dsr_dispatch() {
        DsrDispatch::Ipip => {
            let Some(ipip) = parse_ipip(packet.frame.bytes(), &packet.headers) else { return };
            if !snapshot.is_node_addr(&key.src) {
                packet.verdict = Verdict::Drop(Drop::TunnelRefused);
                return;
            }
            let cut = decapsulate_ipip(packet.frame.bytes_mut(), &ipip);
            packet.frame.cut_front(cut);
            go_on(packet, |packet, cx| chosen(packet, &key.dst, cx), cx);
        }
        DsrDispatch::Option if packet.headers.has_extensions => {
            let order = ByteOrder::Network;
            let found = parse_option(packet.frame.bytes(), &packet.headers, order);
            let Some((addr, l4_port)) = found else { return };
            if matches!(snapshot.resolve(&key.src), Egress::Pod { .. } | Egress::Host { .. }) {
                packet.verdict = Verdict::Drop(Drop::SourceSpoofed);
                return;
            }
            let headers = packet.headers;
            let cut = remove_option(packet.frame.bytes_mut(), &headers);
            packet.frame.cut_front(cut);
            let service = Some(BackendAddr { addr, l4_port });
            go_on(packet, |_, _| Some(Stage::Tunnelled { service }), cx);
        }
        _ => {}
    }
}

/// Reads the inner packet and gives it to the worker of the pod.
fn go_on(
    packet: &mut Packet,
    stage: impl FnOnce(&Packet, &Context<'_>) -> Option<Stage>,
    cx: &mut Context<'_>,
) {
    packet.verdict = Verdict::Drop(Drop::TunnelRefused);
    let Ok(Parsed::Ip(inner)) = parse(packet.frame.bytes()) else { return };
    (packet.headers, packet.key) = (inner.headers, inner.key);
    packet.stage = Stage::Gathered;
    if packet.headers.fragment != Fragment::None {
        fragment::match_ports(packet, cx);
    }
    let Some(stage) = stage(packet, cx) else { return };
    let dst = match stage {
        Stage::Chosen { backend } => backend.addr,
        _ => packet.key.dst,
    };
    let Egress::Pod { worker, .. } = cx.snapshot.resolve(&dst) else { return };
    if worker == cx.me {
        packet.stage = stage;
        packet.verdict = Verdict::Undecided;
    } else {
        packet.verdict = Verdict::Handoff { worker, stage };
    }
}

/// The choice that another node made by sending a packet for a service to the backend at `addr`.
fn chosen(packet: &Packet, addr: &weir_packet::Addr, cx: &Context<'_>) -> Option<Stage> {
    let mut key = packet.key;
    if packet.headers.icmp == IcmpKind::Error {
        key = weir_packet::parse_quote(packet.frame.bytes(), &packet.headers)?.key.reversed();
    }
    let frontend = cx.snapshot.frontend(&FrontendKey::of_destination(&key))?;
    let backend = cx.snapshot.sets_of(frontend).find_map(|set| set.first_at(addr))?.addr;
    Some(Stage::Chosen { backend })
}

/// The largest MSS with which segments of a client still fit the tunnel from another node, if
/// these leave by an adjacency of its MTU (RFC 9293 section 3.7.1).
pub(super) fn mss_max(packet: &Packet, row: &Adjacency, cx: &Context<'_>) -> u16 {
    let family = packet.headers.family;
    let overhead = match dispatch(family, cx) {
        // Only the first segment has it.
        Dispatch::Option => 0,
        dispatch => dispatch.overhead_max(family),
    };
    let headers = if family == 4 { 40 } else { 60 };
    (usize::from(row.mtu).saturating_sub(overhead + headers)) as u16
}

/// The form for packets of a family. Outer packets have the same, as nodes have both or one.
fn dispatch(family: u8, cx: &Context<'_>) -> Dispatch {
    match cx.snapshot.dsr_dispatch() {
        DsrDispatch::Geneve => Dispatch::Geneve { outer_family: family },
        DsrDispatch::Ipip => Dispatch::Ipip,
        DsrDispatch::Option => Dispatch::Option,
    }
}

/// Translates a packet and sends it to the node of its backend, or tells its sender why not.
pub(super) fn send(
    packet: &mut Packet,
    translation: &Translation,
    adjacency: u16,
    remote: u16,
    cx: &mut Context<'_>,
) {
    packet.verdict = Verdict::Drop(Drop::NoRoute);
    let Some(&row) = cx.snapshot.adjacency(adjacency) else { return };
    let dispatch = dispatch(packet.headers.family, cx);
    let overhead = match dispatch {
        Dispatch::Option if carried(packet).is_none() => 0,
        _ => dispatch.overhead_max(packet.headers.family),
    };
    if packet.frame.len() + overhead > usize::from(row.mtu) + ETHERNET_BYTES {
        let mtu = usize::from(row.mtu).saturating_sub(overhead) as u16;
        return refuse::tell_router(packet, Drop::TooBig, IcmpError::TooBig { mtu }, cx);
    }
    if decrement_ttl(packet.frame.bytes_mut(), &packet.headers).is_err() {
        return refuse::tell_router(packet, Drop::TtlExpired, IcmpError::TimeExceeded, cx);
    }
    let path = || {
        let node = *cx.snapshot.remote(remote)?;
        let src = cx.snapshot.snat_addr(node.is_v4())?;
        // Differs from flow to flow, so that they spread over queues and paths.
        let sport = 0xc000 | (packet.hash >> 48) as u16;
        let (dst_mac, src_mac) = (row.dst_mac, row.src_mac);
        let dport = GENEVE_PORT;
        Some(Path { dst_mac, src_mac, src, dst: node, sport, dport, ttl: TUNNEL_TTL })
    };
    if let Some(path) = path()
        && wrap(packet, translation, dispatch, &path).is_some()
    {
        set_macs(packet.frame.bytes_mut(), row.dst_mac, row.src_mac);
        packet.verdict = Verdict::Transmit { adjacency };
    }
}

/// Writes the form of a dispatch around or into the packet.
fn wrap(
    packet: &mut Packet,
    translation: &Translation,
    dispatch: Dispatch,
    path: &Path,
) -> Option<()> {
    let service = carried(packet);
    let headers = packet.headers;
    let room = match dispatch {
        Dispatch::Geneve { .. } => {
            let service_family = service.map(|_| headers.family);
            dsr::geneve_overhead(path.dst.family(), service_family)
        }
        Dispatch::Ipip => dsr::ipip_overhead(headers.family),
        Dispatch::Option if service.is_some() => dsr::option_overhead(headers.family),
        Dispatch::Option => 0,
    };
    // The inner packet of IP in IP keeps the service's address: that is how it is carried.
    if dispatch != Dispatch::Ipip {
        match headers.icmp {
            IcmpKind::Error => related::translate(translation, packet),
            _ => translation.apply(packet.frame.bytes_mut(), &headers),
        }
    }
    if !packet.frame.prepend(room) {
        return None;
    }
    let frame = packet.frame.bytes_mut();
    match (dispatch, service) {
        (Dispatch::Geneve { .. }, _) => {
            set_macs(&mut frame[room..], Mac::ZERO, Mac::ZERO);
            encapsulate_geneve(frame, path, VNI_WORLD, service).map(|_| ())
        }
        (Dispatch::Ipip, _) => {
            let backend = translation.key_after(&packet.key).dst;
            let path = Path { dst: backend, ..*path };
            encapsulate_ipip(frame, &headers, &path).map(|_| ())
        }
        (Dispatch::Option, Some(service)) => {
            insert_option(frame, &headers, service, ByteOrder::Network).map(|_| ())
        }
        (Dispatch::Option, None) => Some(()),
    }
}

/// What the client asked for, where the packet must say so: a TCP connection's first packet, and
/// every packet of other protocols.
fn carried(packet: &Packet) -> Option<dsr::Service> {
    let headers = &packet.headers;
    let is_later_segment =
        headers.protocol == protocol::TCP && headers.tcp_flags & tcp_flags::SYN == 0;
    let says_nothing = is_later_segment
        || headers.icmp == IcmpKind::Error
        || headers.fragment == Fragment::Later && headers.protocol == protocol::TCP;
    (!says_nothing).then_some((packet.key.dst, packet.key.dport))
}
