//! Packet in, packet out: what a node does, case by case, in every arrangement of workers.

#[path = "golden/bandwidth.rs"]
mod bandwidth;
#[path = "golden/changes.rs"]
mod changes;
#[path = "golden/choice.rs"]
mod choice;
mod common;
#[path = "golden/dsr.rs"]
mod dsr;
#[path = "golden/fragments.rs"]
mod fragments;
#[path = "golden/icmp.rs"]
mod icmp;
#[path = "golden/links.rs"]
mod links;
#[path = "golden/loopback.rs"]
mod loopback;
#[path = "golden/policy.rs"]
mod policy;
#[path = "golden/refusals.rs"]
mod refusals;
#[path = "golden/routes.rs"]
mod routes;
#[path = "golden/services.rs"]
mod services;
#[path = "golden/snat.rs"]
mod snat;
