//! Images: references, the OCI model, the content store, registries and layers.
//!
//! Start reading at [`pull`], which goes through all of it. This crate never decides what an
//! image is called or which container uses it: names, tags and reference counts belong to the
//! engine.

pub mod apply;
pub mod archive;
pub mod commit;
pub mod copy;
pub mod credentials;
pub mod digest;
pub mod embedded;
pub mod hosts;
pub mod import;
pub mod model;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registry;
pub mod repair;
pub mod store;
pub mod tar;

mod decompress;
mod documents;
#[cfg(test)]
mod fuzzing;
mod pipe;
#[cfg(test)]
mod testing;
mod unpack;
mod watched;

pub use digest::{Digest, DigestError};
pub use documents::TooManyDocuments;
pub use reference::{Reference, ReferenceError};
pub use store::{Store, StoreError};
pub use unpack::{Expansion, LayerError};
pub use watched::Watched;
