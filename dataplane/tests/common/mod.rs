//! A node without a kernel, and packets written as text: what the tests of the whole path share.
//!
//! ```text
//!  node      the state of one small node: pods, services, routes, and the name of every address
//!  packet    "udp blue:4000 > web:53" <-> bytes
//!  world     workers over memory devices, stepped by hand
//!  variants  the same test with 1, 2 and 4 workers, any arrival queue, both families
//! ```
#![allow(dead_code, reason = "every test binary uses a part")]

pub mod frames;
pub mod node;
pub mod packet;
pub mod rig;
pub mod variants;
pub mod world;
