//! Images go from Gantry to Docker, Podman, buildah and skopeo and back, through a registry and
//! in archives, and are the same everywhere: digests, and all that can be seen of their files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

#[path = "round_trips/back.rs"]
mod back;
#[path = "round_trips/out.rs"]
mod out;
#[path = "round_trips/source.rs"]
mod source;

use std::path::{Path, PathBuf};

use support::Installation;
use support::docker_registry::DockerRegistry;
use support::engines::{Containers, Docker, Room};
use support::tree::{Tree, assert_same, tree};

/// Whether all programs are there, and may do what they have to.
fn can_run() -> bool {
    let programs = [
        "docker-registry",
        "dockerd",
        "docker",
        "podman",
        "buildah",
        "skopeo",
    ];
    support::is_root()
        && programs
            .iter()
            .all(|program| support::is_installed(program))
}

/// A registry, and a room to look at images in.
struct Stage {
    // What is mounted in the room goes before the directory that it is in.
    room: Room,
    registry: DockerRegistry,
    here: Installation,
}

impl Stage {
    fn new() -> Stage {
        let here = Installation::new();
        Stage {
            room: Room::new(),
            registry: DockerRegistry::start(&here.root),
            here,
        }
    }

    fn docker(&self) -> Docker {
        let directory = self.here.root.join("docker");
        Docker::start(&directory, |program| self.room.command(program), &[])
    }

    fn containers(&self) -> Containers<'_> {
        Containers::new(&self.room, &self.here.root.join("containers"))
    }

    /// The files of an image of an installation.
    fn our_tree(&self, installation: &Installation, image: &str) -> Tree {
        let layers = installation.inspect(image)["RootFS"]["Layers"].clone();
        let layers = layers.as_array().unwrap().iter().rev();
        let layers: Vec<PathBuf> = layers
            .map(|layer| layer.as_str().unwrap()["sha256:".len()..].to_owned())
            .map(|layer| installation.data.join("layers/sha256").join(layer))
            .collect();
        tree(
            &self.room.overlay(
                &layers,
                &installation
                    .root
                    .join("seen")
                    .join(layers[0].file_name().unwrap()),
            ),
        )
    }

    /// The files of an image of Docker's.
    fn docker_tree(&self, docker: &Docker, image: &str) -> Tree {
        let id = docker.ok(&["image", "inspect", "--format", "{{.Id}}", image]);
        let layers = docker.layers(image);
        tree(
            &self
                .room
                .overlay(&layers, &self.here.root.join("seen").join(&id[7..])),
        )
    }

    /// The files of an image that Podman mounts.
    fn podman_tree(&self, containers: &Containers<'_>, image: &str) -> Tree {
        let place = containers.ok("podman", &["image", "mount", image]);
        let seen = tree(&self.room.path(Path::new(&place)));
        containers.ok("podman", &["image", "unmount", image]);
        seen
    }
}

/// Asserts that an image of an installation has this id and these files.
#[track_caller]
fn assert_ours(
    stage: &Stage,
    there: &Installation,
    image: &str,
    id: &str,
    files: &Tree,
    how: &str,
) {
    assert_eq!(there.inspect(image)["Id"], id, "{how}");
    assert_same(how, &stage.our_tree(there, image), files);
}
