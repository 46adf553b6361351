//! `gantry registry serve` and `gantry registry gc` with the clients that people use.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "registry_serve/access.rs"]
mod access;
#[path = "registry_serve/clients.rs"]
mod clients;
#[path = "registry_serve/collect.rs"]
mod collect;
#[path = "registry_serve/crash.rs"]
mod crash;
#[path = "registry_serve/engines.rs"]
mod engines;
#[path = "registry_serve/layout.rs"]
mod layout;
#[path = "registry_serve/server.rs"]
mod server;
