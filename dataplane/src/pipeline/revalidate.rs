//! Whether a known flow still holds under a new snapshot.
//!
//! Every entry remembers the revision it was last checked against; the first packet after a change
//! comes by here. What was *chosen* (the backend, translated ports) stays while the backend exists;
//! what merely *follows* (the way to the destination) is looked up again.

use weir_packet::protocol;
use weir_tables::{BackendAddr, Egress, FrontendKey, NextHop, PortId};

use super::Context;
use super::classify::dsr::way_to_node;
use super::classify::{follow, port_is_pod};
use super::host_peer_addr;
use crate::flow::{Action, FlowEntry, flow_flags};

/// What becomes of an entry.
pub(super) enum Judgement {
    /// It holds, with this action from now on.
    Keep { action: Action, unresolved: Option<NextHop> },
    /// As if it had never been: the packet is a first packet.
    Forget,
    /// The service or the backend is gone: TCP is told, so that the client tries again at once.
    Refuse,
}

/// Judges an entry by the snapshot of this turn.
pub(super) fn judge(entry: &FlowEntry, cx: &Context<'_>) -> Judgement {
    if !sender_holds(entry, cx) || entry.has(flow_flags::REPLY) && !client_holds(entry, cx) {
        return Judgement::Forget;
    }
    if !service_holds(entry, cx) {
        let answers = entry.has(flow_flags::FROM_SERVICE);
        let is_tcp = entry.key.protocol == protocol::TCP;
        return if is_tcp || answers { Judgement::Refuse } else { Judgement::Forget };
    }
    let is_service_now =
        || cx.snapshot.frontend(&FrontendKey::of_destination(&entry.key)).is_some();
    if entry.has(flow_flags::PLAIN) && is_service_now() {
        return Judgement::Forget;
    }
    if entry.has(flow_flags::SNAT) && !source_holds(entry, cx) {
        return Judgement::Forget;
    }
    let Some(action) = entry.action() else { return Judgement::Forget };
    match action {
        Action::Direct { .. } | Action::Pinned => Judgement::Keep { action, unresolved: None },
        Action::Tunnel { .. } => match node_of(entry, cx).and_then(|node| {
            // A backend that came here is reached without a tunnel.
            let is_here = matches!(cx.snapshot.resolve(&entry.backend().addr), Egress::Pod { .. });
            if is_here { None } else { way_to_node(&node, cx.snapshot) }
        }) {
            Some((action, unresolved)) => Judgement::Keep { action, unresolved },
            None => Judgement::Forget,
        },
        Action::Chosen { .. } => match cx.snapshot.resolve(&entry.backend().addr) {
            Egress::Pod { worker, .. } if worker != cx.me => {
                Judgement::Keep { action: Action::Chosen { worker }, unresolved: None }
            }
            _ => Judgement::Forget,
        },
        Action::Transmit { .. } | Action::ToKernel { .. } | Action::Deliver { .. } => {
            let dst = entry.translation.key_after(&entry.key).dst;
            match follow(&dst, cx.me, cx.snapshot) {
                // A pod that took over the address of another one starts with no flows.
                Some(way) if way.out_port == entry.out_port => {
                    // Only an answer to the host is delivered without a pod's port: by the worker
                    // that translates for the host, though any worker reaches it.
                    let by_worker = matches!(action, Action::Deliver { .. }) && way.out_port == 0;
                    let action = if by_worker { action } else { way.action };
                    Judgement::Keep { action, unresolved: way.unresolved }
                }
                _ => Judgement::Forget,
            }
        }
    }
}

/// Whether an entry holds no longer, though no packet of its own has shown that yet.
pub(super) fn is_over(entry: &FlowEntry, cx: &Context<'_>) -> bool {
    entry.revision != cx.snapshot.revision() && !matches!(judge(entry, cx), Judgement::Keep { .. })
}

/// Whether the flow's backend takes no new flows any more: a SYN is chosen anew.
#[cold]
pub(super) fn is_draining(entry: &FlowEntry, cx: &Context<'_>) -> bool {
    let takes = |row| {
        let mut sets = cx.snapshot.sets_of(row);
        sets.any(|set| set.takes_flows(&entry.backend()))
    };
    let frontend = cx.snapshot.frontend(&FrontendKey::of_destination(&entry.key));
    entry.has(flow_flags::TO_SERVICE) && frontend.is_some_and(|row| !takes(row))
}

/// A pod's port still belongs to a pod with this address.
fn sender_holds(entry: &FlowEntry, cx: &Context<'_>) -> bool {
    let port = PortId(entry.in_port);
    !port_is_pod(port)
        || cx.snapshot.endpoint_at(port).is_some_and(|pod| pod.addresses.contains(&entry.key.src))
}

/// The pod that asked is still there: another one with its address is not told of what it never
/// asked for.
fn client_holds(entry: &FlowEntry, cx: &Context<'_>) -> bool {
    let client = entry.translation.key_after(&entry.key).dst;
    let pod = cx.snapshot.endpoint_at(PortId(entry.out_port));
    entry.out_port == 0 || pod.is_some_and(|pod| pod.addresses.contains(&client))
}

/// The node of a flow's backend.
fn node_of(entry: &FlowEntry, cx: &Context<'_>) -> Option<weir_packet::Addr> {
    let frontend = cx.snapshot.frontend(&FrontendKey::of_destination(&entry.key))?;
    cx.snapshot.sets_of(frontend).find_map(|set| set.get(&entry.backend())?.node)
}

/// The node still has the address that the flow was given.
fn source_holds(entry: &FlowEntry, cx: &Context<'_>) -> bool {
    let src = entry.translation.key_after(&entry.key).src;
    src == host_peer_addr(src.is_v4()) || cx.snapshot.is_host_addr(&src)
}

/// The service still exists and still has the backend, in whatever state.
fn service_holds(entry: &FlowEntry, cx: &Context<'_>) -> bool {
    let (frontend, backend) = if entry.has(flow_flags::TO_SERVICE) {
        (FrontendKey::of_destination(&entry.key), entry.backend())
    } else if entry.has(flow_flags::FROM_SERVICE) {
        let back = entry.translation.key_after(&entry.key).reversed();
        let sender = BackendAddr { addr: entry.key.src, l4_port: entry.key.sport };
        (FrontendKey::of_destination(&back), sender)
    } else {
        return true;
    };
    let Some(row) = cx.snapshot.frontend(&frontend) else { return false };
    cx.snapshot.sets_of(row).any(|set| set.get(&backend).is_some())
}
