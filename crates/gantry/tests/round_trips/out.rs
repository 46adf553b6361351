//! What we push and save is the same for the others.

use std::fs;
use std::path::Path;

use crate::source::{CHANGES, is_sparse, make, pack};
use crate::support::tree::{Tree, assert_same, tree};
use crate::support::{Installation, text, wait_until};
use crate::{Stage, assert_ours, can_run};

/// An image of ours, in the registry and in an archive.
struct Made {
    name: String,
    id: String,
    digest: String,
    /// Of where it was made, with layers as they are there.
    archive: String,
    /// Of where it was pulled, with those of the registry.
    pulled_archive: String,
    files: Tree,
}

/// Imports a tree, changes it in a container, and commits, pushes and saves that.
fn make_image(stage: &Stage) -> Made {
    let here = &stage.here;
    let source = here.root.join("source");
    make(&source);
    let tar = here.root.join("source.tar");
    pack(&source, &tar, &["--sparse"]);
    here.ok(&["import", tar.to_str().unwrap(), "base"]);
    assert_same("import", &stage.our_tree(here, "base"), &tree(&source));

    let script = format!("cd / && {CHANGES} && echo > /ready && exec sleep 1000");
    let run = [
        "run",
        "-d",
        "--name",
        "made",
        "--network",
        "none",
        "base",
        "sh",
        "-c",
    ];
    here.ok(&[&run[..], &[&script]].concat());
    let pid = here.inspect("made")["State"]["Pid"].to_string();
    let root = format!("/proc/{pid}/root");
    let root = Path::new(&root);
    wait_until("the container has changed its files", || {
        root.join("ready").exists()
    });
    let files = tree(root);
    let name = stage.registry.name("ours:1");
    let id = here.ok(&["commit", "-c", "CMD [\"sh\"]", "made", &name]);
    here.ok(&["rm", "-f", "made"]);
    assert_ours(stage, here, &name, &id, &files, "commit");

    here.ok(&["push", "-q", &name]);
    let digests = here.inspect(&name)["RepoDigests"].clone();
    let digest = digests[0].as_str().unwrap().split_once('@').unwrap().1;
    let archive = here.root.join("ours.tar").to_str().unwrap().to_owned();
    here.ok(&["save", "-o", &archive, &name]);
    let there = Installation::new();
    there.ok(&["pull", "-q", &name]);
    let pulled_archive = here.root.join("pulled.tar").to_str().unwrap().to_owned();
    there.ok(&["save", "-o", &pulled_archive, &name]);
    Made {
        digest: digest.to_owned(),
        name,
        id,
        archive,
        pulled_archive,
        files,
    }
}

#[test]
fn heavy_what_we_push_and_save_is_the_same_elsewhere() {
    if !can_run() {
        return;
    }
    let stage = Stage::new();
    let ours = make_image(&stage);
    to_docker(&stage, &ours);
    to_podman_and_buildah(&stage, &ours);
    with_skopeo(&stage, &ours);
    to_ourselves(&stage, &ours);
    stage.here.assert_clean();
}

fn to_docker(stage: &Stage, ours: &Made) {
    let docker = stage.docker();
    let inspect = |format: &str| docker.ok(&["image", "inspect", "--format", format, &ours.name]);
    docker.ok(&["pull", "-q", &ours.name]);
    assert_eq!(inspect("{{.Id}}"), ours.id);
    assert!(inspect("{{.RepoDigests}}").contains(&format!("@{}", ours.digest)));
    assert_same(
        "docker pull",
        &stage.docker_tree(&docker, &ours.name),
        &ours.files,
    );
    docker.ok(&["rmi", "-f", &ours.name]);
    docker.ok(&["load", "-q", "-i", &ours.archive]);
    assert_eq!(inspect("{{.Id}}"), ours.id);
    assert_same(
        "docker load",
        &stage.docker_tree(&docker, &ours.name),
        &ours.files,
    );
}

fn to_podman_and_buildah(stage: &Stage, ours: &Made) {
    let containers = stage.containers();
    let pull = ["pull", "-q", "--tls-verify=false", &ours.name];
    let hex = &ours.id["sha256:".len()..];
    let inspect = |format: &str| {
        let image = ["image", "inspect", "--format", format, hex];
        containers.ok("podman", &image)
    };

    assert_eq!(containers.ok("podman", &pull), hex);
    assert_eq!(inspect("{{.Digest}}"), ours.digest);
    let files = stage.podman_tree(&containers, &ours.name);
    assert_same("podman pull", &files, &ours.files);
    containers.ok("podman", &["rmi", "-f", &ours.name]);
    // Of what is both kinds of archives it reads Docker's, which has no manifest of ours.
    containers.ok("podman", &["load", "-q", "-i", &ours.archive]);
    assert_eq!(inspect("{{.Id}}"), hex);
    let files = stage.podman_tree(&containers, &ours.name);
    assert_same("podman load", &files, &ours.files);
    containers.ok("podman", &["rmi", "-f", &ours.name]);

    let archive = format!("oci-archive:{}", ours.pulled_archive);
    for from in [ours.name.clone(), archive] {
        let flags = ["pull", "-q", "--tls-verify=false", &from];
        assert_eq!(containers.ok("buildah", &flags), hex, "{from}");
        assert_eq!(inspect("{{.Digest}}"), ours.digest, "{from}");
        let container = containers.ok("buildah", &["from", "--pull-never", hex]);
        let place = containers.ok("buildah", &["mount", &container]);
        let files = tree(&stage.room.path(Path::new(&place)));
        assert_same("buildah pull", &files, &ours.files);
        containers.ok("buildah", &["rm", &container]);
        containers.ok("buildah", &["rmi", "-f", hex]);
    }
}

fn with_skopeo(stage: &Stage, ours: &Made) {
    let containers = stage.containers();
    let root = &stage.here.root;
    let digest = root.join("digest");
    let copy = |from: &str, to: &str| {
        let flags = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false"];
        let file = ["--digestfile", digest.to_str().unwrap()];
        containers.ok("skopeo", &[&flags[..], &file, &[from, to]].concat());
        text(&fs::read(&digest).unwrap())
    };
    let remote = format!("docker://{}", ours.name);
    let layout = format!("oci:{}:x", root.join("layout").display());
    assert_eq!(copy(&remote, &layout), ours.digest);
    let archive = format!("oci-archive:{}", ours.pulled_archive);
    assert_eq!(copy(&archive, &layout), ours.digest);
    // Written again by it, ours is still the same for us.
    let written = root.join("written.tar").to_str().unwrap().to_owned();
    let archive = format!("docker-archive:{written}:by/skopeo:1");
    for from in [
        remote,
        format!("oci-archive:{}", ours.archive),
        format!("docker-archive:{}", ours.archive),
    ] {
        let _ = fs::remove_file(&written);
        copy(&from, &archive);
        let there = Installation::new();
        there.ok(&["load", "-q", "-i", &written]);
        assert_ours(stage, &there, "by/skopeo:1", &ours.id, &ours.files, &from);
    }
}

fn to_ourselves(stage: &Stage, ours: &Made) {
    let [pulled, loaded] = [Installation::new(), Installation::new()];
    pulled.ok(&["pull", "-q", &ours.name]);
    loaded.ok(&["load", "-q", "-i", &ours.pulled_archive]);
    for there in [&pulled, &loaded] {
        assert_ours(stage, there, &ours.name, &ours.id, &ours.files, "our own");
        let layers = there.inspect(&ours.name)["RootFS"]["Layers"].clone();
        let layer = &layers[0].as_str().unwrap()["sha256:".len()..];
        let layer = there.data.join("layers/sha256").join(layer);
        assert!(is_sparse(&layer.join("d/sparse")), "zeroes take no space");
    }
}
