//! What became of a packet in the eBPF programs: one counter for every branch that matters.

macro_rules! counters {
    ($($variant:ident, $name:literal, $text:literal;)*) => {
        /// An index into the map `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter {
            $(#[doc = $text] $variant,)*
        }

        /// All counters in the order of the map: the index, the metric's name, what it counts.
        pub const COUNTERS: &[(Counter, &str, &str)] =
            &[$((Counter::$variant, $name, $text),)*];
    };
}

counters! {
    UplinkRedirected, "uplink_redirected", "uplink packets given to a worker";
    UplinkPassedOther, "uplink_passed_other", "uplink packets for other addresses, to the kernel";
    UplinkPassedNotIp, "uplink_passed_not_ip", "uplink packets that are neither IPv4 nor IPv6";
    UplinkPassedVlan, "uplink_passed_vlan", "VLAN-tagged uplink packets, to the kernel";
    UplinkPassedNd, "uplink_passed_nd", "neighbour discovery on an uplink, to the kernel";
    UplinkPassedMalformed, "uplink_passed_malformed",
        "uplink packets cut short or with impossible lengths, left to the kernel to drop";
    UplinkPassedNode, "uplink_passed_node", "the node's own traffic, to the kernel";
    UplinkPassedStalePod, "uplink_passed_stale_pod",
        "pods' packets left to the kernel because no worker runs (failure mode open)";
    UplinkPassedStaleNode, "uplink_passed_stale_node",
        "packets to the node's SNAT range left to the kernel because no worker runs";
    UplinkDroppedStaleService, "uplink_dropped_stale_service",
        "packets to a Service dropped because no worker runs";
    UplinkDroppedStalePod, "uplink_dropped_stale_pod",
        "pods' packets dropped because no worker runs (failure mode closed)";
    UplinkDroppedStaleNode, "uplink_dropped_stale_node",
        "packets to a NodePort dropped because no worker runs";
    TrunkRedirected, "trunk_redirected", "packets from ports given to a worker";
    TrunkDroppedNoSocket, "trunk_dropped_no_socket",
        "packets on a trunk dropped because its worker has no socket";
    TrunkDroppedUnmarked, "trunk_dropped_unmarked",
        "packets on a trunk dropped because they bear no port";
    PortRedirected, "port_redirected", "packets from ports redirected into a trunk";
    PortPassedUnknown, "port_passed_unknown",
        "packets of an interface that is no port, left to the kernel";
    PortPassedStale, "port_passed_stale",
        "ports' packets left to the kernel because no worker runs (failure mode open)";
    PortDroppedStale, "port_dropped_stale",
        "ports' packets dropped because no worker runs (failure mode closed)";
    PortDroppedVlan, "port_dropped_vlan", "VLAN-tagged packets of ports, dropped";
    PortDroppedUnwritable, "port_dropped_unwritable",
        "packets dropped because the kernel refused to write their Ethernet header";
    HostRedirected, "host_redirected", "packets of the host to a port redirected into a trunk";
    HostPassedNotIp, "host_passed_not_ip",
        "the host's packets to a port that are not unicast IP, given to it directly";
    HostPassedStale, "host_passed_stale",
        "the host's packets to a port given to it directly because no worker runs";
    WorkerToPod, "worker_to_pod", "packets of a worker put into a pod's namespace";
    WorkerToHost, "worker_to_host", "packets of a worker sent out of the host's port";
    WorkerDroppedUnmarked, "worker_dropped_unmarked",
        "packets leaving a trunk dropped because they bear no port";
    UplinkDroppedRestarting, "uplink_dropped_restarting",
        "uplink packets dropped because the worker's socket is being replaced";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_map_and_names_differ() {
        for (i, (counter, name, text)) in COUNTERS.iter().enumerate() {
            assert_eq!(*counter as usize, i);
            assert!(!text.is_empty());
            assert!(COUNTERS.iter().skip(i + 1).all(|(_, other, _)| other != name));
        }
    }
}
