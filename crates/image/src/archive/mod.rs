//! Archives of images: reading them (`load`), writing them (`save`), and making the archives of
//! layers out of directories.
//!
//! Start reading at [`load`] and [`save`]. What is written is an OCI image layout (image-layout.md)
//! and a docker-archive at once; what is read may be either, and docker-archives of any age
//! since 2016.

mod ends;
mod layout;
mod load;
mod pack;
mod save;
mod spool;
mod tree;
mod writer;

pub use ends::{ArchiveKind, ArchiveSource, ArchiveTarget};
pub use load::{LoadError, LoadEvent, LoadOptions, Loaded, load, load_with, unpacked_digest};
pub use pack::{PackError, Packed, Packing, pack_blob, pack_directory, pack_layer, tree_digest};
pub use save::{SaveError, SavedImage, reachable, save};
pub use spool::SpoolError;
pub use tree::{Form, TreeError, Written, write_tree};
pub use writer::TarWriter;
