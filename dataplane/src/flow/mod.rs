//! What a worker remembers: its flows, as plain data of fixed size and fixed capacity.
//!
//! - [`FlowEntry`] is one direction of one flow, 128 bytes: the key and what the fast path checks
//!   in the first cache line, the transform in the second. The two directions name each other
//!   (`peer`).
//! - [`FlowTable`] finds entries by key: buckets of eight tagged slots over a dense array of
//!   entries.
//! - [`tcp`] keeps enough TCP state to expire well; [`Timeouts`] says after how long.
//! - [`Fragments`] remembers the ports of datagrams that come in fragments.
//! - [`store`] maps the entries from a file on tmpfs, so that the next process adopts them.
//!
//! Nothing here evicts an established flow: a full table refuses new ones, and that is counted.

mod entry;
mod fragments;
mod huge;
mod index;
pub mod store;
mod table;
pub mod tcp;

pub use entry::{Action, FlowEntry, flow_flags};
pub use fragments::Fragments;
pub use store::{Adopted, StoreError, StoreHeader};
pub use table::{Direction, FlowTable, TableFull};

/// After how long without a packet a flow is forgotten, in milliseconds. The defaults are those of
/// the reference (conntrack timeouts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, both directions seen.
    pub tcp_established_ms: u32,
    /// TCP, no answer yet.
    pub tcp_syn_ms: u32,
    /// TCP, closed by FINs of both sides or by a reset.
    pub tcp_closing_ms: u32,
    /// TCP, closed by the only side whose packets come by here.
    pub tcp_grace_ms: u32,
    /// Everything else.
    pub any_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            tcp_established_ms: 8_000_000,
            tcp_syn_ms: 60_000,
            tcp_closing_ms: 10_000,
            tcp_grace_ms: 60_000,
            any_ms: 60_000,
        }
    }
}
