//! An OCI distribution registry on the content store.
//!
//! [`serve`] starts a server with threads of its own and returns a [`Handle`]; [`collect`] removes
//! what nobody refers to any more, beside a running server too. Start reading at `api/mod.rs`,
//! where a request comes in, and at `storage/mod.rs` for what is on the disk.
//!
//! This crate never decides who runs a server or where; it knows nothing of images that the engine
//! has.

mod api;
mod auth;
mod body;
mod collect;
mod fault;
mod follow;
mod manifest;
mod name;
mod options;
mod patience;
mod proxy;
mod range;
mod server;
mod storage;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use auth::{Access, AccessError, TokenError, TokenOptions, UsersError};
pub use collect::{CollectOptions, Collected, collect};
pub use options::{Limits, Log, Options, TlsOptions, UpstreamOptions};
pub use server::{Handle, ServeError, serve};
pub use storage::StorageError;
