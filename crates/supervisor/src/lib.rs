//! The supervisor: everything that must live exactly as long as a container.
//!
//! Two processes of one small program, either of which may die: see [`watcher`] and
//! [`worker`]. No async runtime, no state store, one thread each.

mod agent;
pub mod client;
mod foreign;
pub mod log;
pub mod network;
pub mod order;
pub mod protocol;
mod proxy;
pub mod record;
mod relay;
pub mod socket;
pub mod stream;
pub mod task;
pub mod watcher;
pub mod worker;

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
