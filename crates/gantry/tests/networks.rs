//! Networks that users make: as objects, and with containers on them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "networks/endpoints.rs"]
mod endpoints;
#[path = "networks/helpers.rs"]
mod helpers;
#[path = "networks/objects.rs"]
mod objects;
#[path = "networks/races.rs"]
mod races;
#[path = "networks/traffic.rs"]
mod traffic;
