//! `gantry-runtime` with the command line of runc, on real bundles.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "runtime_cli/bundle.rs"]
mod bundle;
#[path = "runtime_cli/checkpoint.rs"]
mod checkpoint;
#[path = "runtime_cli/cycles.rs"]
mod cycles;
#[path = "runtime_cli/descriptors.rs"]
mod descriptors;
#[path = "runtime_cli/documents.rs"]
mod documents;
#[path = "runtime_cli/dropin.rs"]
mod dropin;
#[path = "runtime_cli/exec.rs"]
mod exec;
#[path = "runtime_cli/lifecycle.rs"]
mod lifecycle;
#[path = "runtime_cli/resources.rs"]
mod resources;
#[path = "runtime_cli/rootless.rs"]
mod rootless;

/// Whether the full number of cycles is wanted.
fn is_long() -> bool {
    std::env::var_os("GANTRY_TEST_LONG").is_some_and(|value| value == "1")
}
