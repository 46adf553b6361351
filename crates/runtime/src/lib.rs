//! The OCI runtime as a library: from a configuration to a running process.
//!
//! Single-threaded and synchronous; nothing here keeps state between calls.

pub mod birth;
pub mod capabilities;
pub mod cgroup;
mod copy;
pub mod enter;
mod error;
mod mounts;
mod options;
pub mod path;
pub mod process;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
mod terminal;
pub mod user;

pub use error::BirthError;
