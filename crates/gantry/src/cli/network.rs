//! The group `network`: networks as objects, and containers' places on them.

pub mod create;
pub mod endpoint;
mod filter;
pub mod list;
pub mod remove;
