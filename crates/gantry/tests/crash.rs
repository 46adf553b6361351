//! Kill any one process at any instant: what runs goes on, nothing is lost, nothing is left.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "crash/kills.rs"]
mod kills;
#[path = "crash/pair.rs"]
mod pair;
#[path = "crash/points.rs"]
mod points;
#[path = "crash/state.rs"]
mod state;
#[path = "crash/survival.rs"]
mod survival;

/// Whether every point and the full number of kills is wanted.
fn is_long() -> bool {
    std::env::var_os("GANTRY_TEST_LONG").is_some_and(|value| value == "1")
}
