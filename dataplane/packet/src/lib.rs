//! Bytes and their meaning: the leaf crate under everything that touches a frame.
//!
//! ```text
//!  reading order, each using only what stands above it
//!
//!  addr, protocol, flow_key   the nouns: Addr, Mac, FlowKey. Plain data
//!  wire, malformed            offsets of fields; why a frame is refused
//!  headers, parse             frame -> Packet { headers: offsets, key: FlowKey } | Malformed
//!  checksum, crc32c           from scratch, by difference, and completing partial ones
//!  rewrite                    Translation: what one flow's packets become. TTL, MACs
//!  quote                      ICMP errors: the packet they are about, and translating both
//!  mss                        the segment size that a SYN announces, lowered
//!  build                      frames from nothing
//!  dsr                        to the backend's node with the service: Geneve, IP in IP, options
//!  arp, nd, reply             answers: who-has, TCP reset, ICMP error, echo reply
//! ```
//!
//! The life of a frame here: [`parse()`] finds offsets and the key once; the owner of the flow
//! decides; [`checksum::l4_is_partial`] and [`checksum::complete_l4`] where the frame comes from a
//! local veth; [`Translation::apply`], [`decrement_ttl`] and [`set_macs`] write. All take `&mut
//! [u8]` and [`Headers`], so no packet type borrows the frame across stages. An ICMP error belongs
//! to the flow of the packet that [`parse_quote`] finds in it, and
//! [`Translation::apply_to_error`] writes.
//!
//! The rules of this crate: no allocation, no `unsafe`, no panic on any input, no unbounded loop. A
//! function that gets [`Headers`] of another frame does nothing or writes nonsense inside this one.
//! Checksums that were wrong stay wrong, unless a function says that it computes them anew.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod arp;
pub mod build;
pub mod checksum;
mod crc32c;
pub mod dsr;
pub mod flow_key;
pub mod headers;
mod malformed;
pub mod mss;
pub mod nd;
pub mod parse;
pub mod protocol;
pub mod quote;
pub mod reply;
pub mod rewrite;
pub mod wire;

pub use addr::{Addr, Mac};
pub use flow_key::FlowKey;
pub use headers::{Fragment, Headers, IcmpKind, Packet, Parsed};
pub use malformed::Malformed;
pub use mss::clamp_mss;
pub use parse::parse;
pub use quote::{Quote, parse_quote};
pub use rewrite::{Translation, TtlExpired, decrement_ttl, set_macs};
pub use wire::tcp_flags;
