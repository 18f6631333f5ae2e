//! `weir_uplink`: ours or not, by destination address.

use aya_ebpf::programs::XdpContext;
use weir_xdp_redirect::{AddressClass, Counter, Settings};

use crate::{
    ipv4, ipv6, maps,
    node::{self, ICMP, ICMPV6, L4},
    packet::{ETH_LEN, read},
    steer::{Otherwise, pass, to_worker},
};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad and the QinQ type that predates it.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// The action for a packet of an uplink.
#[inline(always)]
pub fn decide(ctx: &XdpContext) -> u32 {
    let Some(ethertype) = read::<2>(ctx, ETH_LEN - 2) else {
        return pass(Counter::UplinkPassedMalformed);
    };
    let Some(settings) = maps::settings() else {
        return pass(Counter::UplinkPassedOther);
    };
    let ethertype = u16::from_be_bytes(ethertype);
    if ethertype == ETHERTYPE_IPV4 {
        decide_ipv4(ctx, settings)
    } else if ethertype == ETHERTYPE_IPV6 {
        decide_ipv6(ctx, settings)
    } else if ETHERTYPES_VLAN.contains(&ethertype) {
        pass(Counter::UplinkPassedVlan)
    } else {
        pass(Counter::UplinkPassedNotIp)
    }
}

#[inline(always)]
fn decide_ipv4(ctx: &XdpContext, settings: &Settings) -> u32 {
    let Some(destination) = ipv4::destination(ctx) else {
        return pass(Counter::UplinkPassedMalformed);
    };
    let Some(class) = maps::address_class(&destination) else {
        return pass(Counter::UplinkPassedOther);
    };
    let Some(header) = ipv4::header(ctx) else {
        return pass(Counter::UplinkPassedMalformed);
    };
    if let Some(otherwise) = whole_address(class, settings) {
        return to_worker(ctx, settings, otherwise);
    }
    steer_node(ctx, settings, ICMP, ipv4::l4(header))
}

#[inline(always)]
fn decide_ipv6(ctx: &XdpContext, settings: &Settings) -> u32 {
    let Some(destination) = ipv6::destination(ctx) else {
        return pass(Counter::UplinkPassedMalformed);
    };
    // The map holds IPv4 addresses in mapped form; on the wire that form is nobody's (RFC 4291).
    if ipv6::is_mapped_ipv4(&destination) {
        return pass(Counter::UplinkPassedOther);
    }
    let Some(class) = maps::address_class(&destination) else {
        return pass(Counter::UplinkPassedOther);
    };
    let Some(header) = ipv6::header(ctx) else {
        return pass(Counter::UplinkPassedMalformed);
    };
    if ipv6::is_neighbour_discovery(ctx, header) {
        return pass(Counter::UplinkPassedNd);
    }
    if let Some(otherwise) = whole_address(class, settings) {
        return to_worker(ctx, settings, otherwise);
    }
    steer_node(ctx, settings, ICMPV6, ipv6::l4(ctx, header))
}

/// For addresses that are wholly ours: what holds while no worker runs.
#[inline(always)]
fn whole_address(class: AddressClass, settings: &Settings) -> Option<Otherwise> {
    if class.class() == AddressClass::SERVICE {
        Some(Otherwise::SERVICE)
    } else if class.class() == AddressClass::POD {
        Some(Otherwise::pod(class, settings))
    } else {
        None
    }
}

#[inline(always)]
fn steer_node(ctx: &XdpContext, settings: &Settings, icmp: u8, l4: L4) -> u32 {
    match node::judge(ctx, settings, icmp, l4) {
        node::Verdict::Ours(otherwise) => to_worker(ctx, settings, otherwise),
        node::Verdict::Kernel => pass(Counter::UplinkPassedNode),
        node::Verdict::Malformed => pass(Counter::UplinkPassedMalformed),
    }
}
