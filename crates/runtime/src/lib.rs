//! The OCI runtime as a library: from a configuration to a running process.
//!
//! Single-threaded and synchronous; nothing here keeps state between calls.

mod attend;
pub mod birth;
pub mod capabilities;
pub mod cgroup;
mod channel;
pub mod copy;
mod defaults;
mod devices;
pub mod enter;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod group_mounts;
pub mod hooks;
mod id_map;
mod joiner;
mod label;
mod masks;
mod mounts;
pub mod namespaces;
mod net_devices;
mod options;
pub mod path;
mod plan;
mod proc;
pub mod process;
pub mod rdt;
pub mod rootfs;
mod schedule;
pub mod sealed;
pub mod seccomp;
pub mod spec;
mod streams;
mod terminal;
pub mod user;
pub mod validate;

pub use error::BirthError;
