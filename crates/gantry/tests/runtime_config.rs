//! `config.json`, field by field: what is seen inside of a container of `gantry-runtime run`
//! is what was asked for. The groups follow the sections of the runtime-spec.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[path = "runtime_config/bundle.rs"]
mod bundle;
#[path = "runtime_config/devices.rs"]
mod devices;
#[path = "runtime_config/hooks.rs"]
mod hooks;
#[path = "runtime_config/invalid.rs"]
mod invalid;
#[path = "runtime_config/mounts.rs"]
mod mounts;
#[path = "runtime_config/namespaces.rs"]
mod namespaces;
#[path = "runtime_config/process.rs"]
mod process;
#[path = "runtime_config/users.rs"]
mod users;
