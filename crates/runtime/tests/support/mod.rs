//! What the tests of this crate share.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod filter;
pub mod libseccomp;
pub mod random;
