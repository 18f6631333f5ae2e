//! Policy: from rules by selector to one look-up per connection and direction.
//!
//! ```text
//!  identities, addresses, ranges --Policies--> address -> class -> group
//!  rules by selector -----------------------> table: group -> row -> (protocol, port) -> rule
//! ```
//!
//! - A *class* is an interned (identity, set of ranges that contain the address): what is known of
//!   a peer. An address leads to it in one look-up.
//! - A *group* is an interned set of selectors: classes that no rule tells apart share one, so
//!   tables stay as small as the policies are, however many identities there are.
//! - A *row* has the deciding rule for each protocol and port. Rows are shared by groups that the
//!   same rules are about.
//!
//! [`Policies`] is the writer's side. [`PolicyView`] is what workers and `weir policy check` read.

mod compile;
mod groups;
mod limits;
mod origins;
mod paged;
mod peers;
mod ranges;
mod row;
mod rows;
mod settle;
mod table;
mod view;
mod writer;

pub use origins::RuleOrigin;
pub use rows::*;
pub use table::PolicyTable;
pub use view::{Peer, PolicyView};
pub use writer::Policies;

#[cfg(test)]
mod tests;
