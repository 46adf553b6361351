//! Commands on images, end to end: names, archives, containers as images, registries, and what
//! is on the disk.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "images/archives.rs"]
mod archives;
#[path = "images/containers.rs"]
mod containers;
#[path = "images/disk.rs"]
mod disk;
#[path = "images/names.rs"]
mod names;
#[path = "images/registries.rs"]
mod registries;

use support::Installation;

fn id_of(installation: &Installation, name: &str) -> String {
    installation.inspect(name)["Id"]
        .as_str()
        .unwrap()
        .to_owned()
}
