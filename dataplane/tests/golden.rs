//! Packet in, packet out: what a node does, case by case, in every arrangement of workers.

#[path = "golden/changes.rs"]
mod changes;
mod common;
#[path = "golden/links.rs"]
mod links;
#[path = "golden/refusals.rs"]
mod refusals;
#[path = "golden/routes.rs"]
mod routes;
#[path = "golden/services.rs"]
mod services;
