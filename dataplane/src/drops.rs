//! Why a packet ended here. A drop is a counter: every packet that goes nowhere has one of these.

use weir_packet::Malformed;

/// Declares the reasons once: variant, stable name (the metric's label), what it means for people.
macro_rules! drops {
    ($($variant:ident, $name:literal, $text:literal;)*) => {
        /// A reason to drop a packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Drop {
            $(#[doc = $text] $variant,)*
        }

        impl Drop {
            /// Every reason, in order of its counter.
            pub const ALL: &[Drop] = &[$(Drop::$variant,)*];

            /// Stable name: the label of the metric.
            pub fn name(self) -> &'static str {
                match self { $(Drop::$variant => $name,)* }
            }

            /// What it means and where to look.
            pub fn description(self) -> &'static str {
                match self { $(Drop::$variant => $text,)* }
            }
        }
    };
}

drops! {
    BackendGone, "backend_gone", "the service no longer has the backend of this flow";
    Bandwidth, "bandwidth",
        "beyond what the pod may send or receive: see its annotations kubernetes.io/*-bandwidth";
    EgressFull, "egress_full",
        "the transmit ring is full: the receiver or the wire is slower than the sender";
    FlowTableFull, "flow_table_full",
        "no room for a new flow: raise --flows-max, or look who opens so many";
    FragmentUnmatched, "fragment_unmatched",
        "a later IP fragment whose first fragment did not come by, of a flow that is translated";
    HandoffFull, "handoff_full", "the ring to the worker that owns the flow is full";
    HeaderMalformed, "header_malformed", "the packet's headers contradict its bytes";
    IcmpUnrelated, "icmp_unrelated",
        "an ICMP error that quotes no packet of a known flow";
    LinkLocal, "link_local",
        "multicast or link-local traffic that ends at its link: normal, kernels send some";
    Loopback, "loopback",
        "from or to a loopback address, which only the node itself uses, for its hostPorts";
    NeedsSnat, "needs_snat",
        "needs source translation, but the node has no address of this family";
    NoBackend, "no_backend", "the service has no backend that could answer; the sender was told";
    NoLocalBackend, "no_local_backend",
        "externalTrafficPolicy Local, and no backend of the service is on this node";
    NoEndpoint, "no_endpoint", "came in by a port where no pod is attached";
    NoFrontend, "no_frontend",
        "no service answers on this port of a service address; the sender was told";
    NoRoute, "no_route", "the kernel has no route to the destination";
    NotIp, "not_ip", "neither IP nor ARP, or a VLAN tag that no port expects";
    OtherHost, "other_host",
        "for the MAC of another machine: normal, switches flood what they have not learned";
    PolicyClosed, "policy_closed",
        "the pod's policy rules are missing or were refused: see weir policy show and weir status";
    PolicyDenied, "policy_denied",
        "network policy denies it: see the rules below and weir policy show ENDPOINT";
    PolicyL7, "policy_l7",
        "its policy rule needs the L7 proxy, which is not there: see weir policy show ENDPOINT";
    ReplyRateLimited, "reply_rate_limited",
        "answered too many packets lately, refused ones and pings";
    SnatExhausted, "snat_exhausted",
        "no free source port towards this destination: look who uses them with weir snat top";
    SnatUnsupported, "snat_unsupported",
        "needs source translation, but its protocol has no ports to translate";
    SourceRange, "source_range",
        "the client is not in the loadBalancerSourceRanges of the service";
    SourceSpoofed, "source_spoofed", "a pod sent from an address or MAC that is not its own";
    Stale, "stale", "waited in a ring while its worker did not run";
    TooBig, "too_big", "larger than the MTU of where it should leave";
    TtlExpired, "ttl_expired", "the hop limit reached zero here";
    TunnelRefused, "tunnel_refused",
        "came in a tunnel, but not from a node of the cluster, or its flow is not known here";
    UplinkDown, "uplink_down",
        "no uplink to leave by, or nothing on it answers neighbour discovery";
}

impl From<Malformed> for Drop {
    /// Malformed packets are one drop reason; the parser's own reasons are counted beside it.
    fn from(_: Malformed) -> Drop {
        Drop::HeaderMalformed
    }
}
