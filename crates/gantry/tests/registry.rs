//! Pulling from a real registry what another tool has pushed there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "registry/credentials.rs"]
mod credentials;
#[path = "registry/interrupted.rs"]
mod interrupted;
#[path = "registry/layout.rs"]
mod layout;
#[path = "registry/pull.rs"]
mod pull;
#[path = "registry/refused.rs"]
mod refused;

use std::fs;
use std::path::PathBuf;

use support::Installation;
use support::docker_registry::DockerRegistry;

/// Starts a registry in a directory of the installation.
fn start_registry(installation: &Installation) -> DockerRegistry {
    DockerRegistry::start(&installation.root)
}

/// Files and directories of images that are left.
fn image_files(installation: &Installation) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in ["blobs/sha256", "layers/sha256", "ingest"] {
        let entries = fs::read_dir(installation.data.join(directory));
        found.extend(
            entries
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path()),
        );
    }
    found
}

fn ingests(installation: &Installation) -> usize {
    fs::read_dir(installation.data.join("ingest")).map_or(0, Iterator::count)
}

/// The only sound state after a failure: as if nothing had been tried.
fn assert_no_image(installation: &Installation) {
    assert_eq!(installation.ok(&["images", "-a", "-q"]), "");
    let left = image_files(installation);
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Runs a pull that has to fail; returns its one line (and at most one with a hint).
fn fails_to_pull(installation: &Installation, reference: &str) -> String {
    let error = installation.fails(1, &["pull", reference]);
    assert!(error.lines().count() <= 2, "{error}");
    assert!(error.contains(reference), "which image? {error}");
    assert_no_image(installation);
    error
}

/// What a pull that failed has fetched and verified is used by the next one, whatever the
/// registry has in its place by then.
fn forget_partial_blobs(installation: &Installation) {
    let _ = fs::remove_dir_all(installation.data.join("partial"));
}

const LOOK: &str = "cd /data && ls -A . emptied && cat replaced pointer other last && \
                    stat -c %h linked && echo $BUILT_FOR";

fn looks(architecture: &str) -> String {
    format!(
        ".:\nemptied\nlast\nlinked\nother\npointer\nreplaced\n\nemptied:\nnew\n\
         newsamesamelast2\n{architecture}"
    )
}

fn look(installation: &Installation, image: &str) -> String {
    installation.ok(&["run", "--rm", "--network", "none", image, "sh", "-c", LOOK])
}
