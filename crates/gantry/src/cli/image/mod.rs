//! Commands on images, one file per verb.

pub mod archive;
pub mod copy;
pub mod filter;
pub mod history;
pub mod list;
pub mod login;
pub mod manifest;
pub mod push;
pub mod remove;
pub mod search;
pub mod tag;
pub mod usage;
