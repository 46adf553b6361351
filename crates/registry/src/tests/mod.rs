//! The server as a client sees it, over real connections.

mod access;
mod client;
mod confusion;
mod fuzz;
mod hostile;
mod lists;
mod manifests;
mod mirror;
mod rights;
mod uploads;

use crate::testing::Directory;
use crate::{Handle, Options, serve};
use client::Peer;

/// A server with a root of its own.
struct Served {
    directory: Directory,
    handle: Option<Handle>,
    peer: Peer,
}

impl Served {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = Directory::new();
        let mut options = Options::new(directory.path().join("root"));
        change(&mut options);
        let handle = serve(options).unwrap();
        let peer = Peer::new(handle.address());
        Self {
            directory,
            handle: Some(handle),
            peer,
        }
    }

    fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("root")
    }

    /// Stops the server and starts another on the same root.
    fn restart(&mut self) {
        self.handle.take().unwrap().stop();
        let handle = serve(Options::new(self.root())).unwrap();
        self.peer = Peer::new(handle.address());
        self.handle = Some(handle);
    }
}

#[test]
fn the_base_says_what_this_is() {
    let served = Served::new();
    for path in ["/v2/", "/v2"] {
        let reply = served.peer.get(path);
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        assert_eq!(reply.text(), "{}");
    }
}

#[test]
fn a_root_is_served_once() {
    let served = Served::new();
    let error = serve(Options::new(served.root())).unwrap_err();
    assert!(
        error.to_string().contains("served by another process"),
        "{error}"
    );
}
