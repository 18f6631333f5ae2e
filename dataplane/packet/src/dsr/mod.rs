//! Direct server return on the wire: a packet brought to its backend's node together with the
//! service that the client addressed, so that the node answers the client itself.
//!
//! ```text
//!  dispatch    on the wire                                              carries the service
//!  geneve      Ethernet IP UDP(6081) Geneve [option] | Ethernet IP ..   in a Geneve option
//!  ipip        Ethernet IP | IP ..                                      no
//!  option      Ethernet IP [option] ..                                  in an IP option
//! ```
//!
//! Making the packet longer is for the owner of the buffer: writers get a frame that already has
//! the dispatch's overhead in front, in bytes, with the old Ethernet frame behind. Making it
//! shorter is also for the owner: whatever removes something says how many bytes to cut in front.
//!
//! The formats are Cilium's.

mod geneve;
mod ip_option;
mod ipip;

pub use geneve::{GENEVE_PORT, Geneve, encapsulate_geneve, geneve_overhead, parse_geneve};
pub use ip_option::{ByteOrder, insert_option, option_overhead, parse_option, remove_option};
pub use ipip::{Ipip, decapsulate_ipip, encapsulate_ipip, ipip_overhead, parse_ipip};

use crate::addr::Addr;

/// The address and the port that the client addressed.
pub type Service = (Addr, u16);

/// How a packet gets to the node of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// In a tunnel whose outer packets are of this family (4 or 6).
    Geneve { outer_family: u8 },
    /// In an outer packet of the same family.
    Ipip,
    /// As it is, with an IPv4 option or an IPv6 Destination Options header.
    Option,
}

impl Dispatch {
    /// By how many bytes a packet of `family` (4 or 6) grows at most: take it from the MTU, and
    /// from the MSS of its TCP. The frame grows by as much as the IP packet.
    pub const fn overhead_max(self, family: u8) -> usize {
        match self {
            Dispatch::Geneve { outer_family } => geneve_overhead(outer_family, Some(family)),
            Dispatch::Ipip => ipip_overhead(family),
            Dispatch::Option => option_overhead(family),
        }
    }
}
