//! What the others push and save is the same for us.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::source::{CHANGES, make, pack};
use crate::support::engines::{Containers, Docker, ok};
use crate::support::tree::{Tree, assert_same, in_seconds, tree};
use crate::support::{Installation, text};
use crate::{Stage, assert_ours, can_run};

/// An image of somebody else's.
struct Theirs {
    id: String,
    files: Tree,
}

#[test]
fn heavy_what_others_push_and_save_is_the_same_here() {
    if !can_run() {
        return;
    }
    let stage = Stage::new();
    let source = stage.here.root.join("source");
    make(&source);
    // Docker cannot push what it has imported with holes: it puts it together again without them.
    pack(&source, &stage.here.root.join("source.tar"), &[]);
    let files = tree(&source);
    from_docker(&stage, &files);
    let containers = stage.containers();
    let theirs = build(&stage, &containers, &files);
    from_podman_and_buildah(&stage, &containers, &theirs);
    stage.here.assert_clean();
}

/// Pulls what somebody has pushed with this digest.
fn pulls(stage: &Stage, name: &str, digest: &str, theirs: &Theirs) {
    let there = Installation::new();
    there.ok(&["pull", "-q", name]);
    assert_ours(stage, &there, name, &theirs.id, &theirs.files, name);
    let digests = there.inspect(name)["RepoDigests"].to_string();
    assert!(digests.contains(&format!("@{digest}")), "{name}: {digests}");
}

/// Loads what somebody has saved, and saves it for them again.
fn loads(stage: &Stage, archive: &str, name: &str, theirs: &Theirs) -> String {
    let there = Installation::new();
    there.ok(&["load", "-q", "-i", archive]);
    assert_ours(stage, &there, name, &theirs.id, &theirs.files, archive);
    let again = format!("{archive}.again");
    there.ok(&["save", "-o", &again, name]);
    again
}

fn from_docker(stage: &Stage, source: &Tree) {
    let docker = stage.docker();
    let root = &stage.here.root;
    let tar = root.join("source.tar");
    docker.ok(&["import", tar.to_str().unwrap(), "base"]);
    assert_same("docker import", &stage.docker_tree(&docker, "base"), source);
    let name = stage.registry.name("docker:1");
    docker.ok(&[
        "create",
        "--name",
        "made",
        "--network",
        "none",
        "base",
        "sh",
    ]);
    copy_into(&docker, root, "made:/");
    docker.ok(&["commit", "-c", "CMD sh", "made", &name]);
    let inspect = |format: &str| docker.ok(&["image", "inspect", "--format", format, &name]);
    let theirs = Theirs {
        id: inspect("{{.Id}}"),
        files: stage.docker_tree(&docker, &name),
    };
    assert!(theirs.files.contains_key(Path::new("d/added/link")));

    docker.ok(&["push", "-q", &name]);
    let digests = inspect("{{index .RepoDigests 0}}");
    pulls(stage, &name, digests.split_once('@').unwrap().1, &theirs);
    let archive = root.join("docker.tar").to_str().unwrap().to_owned();
    docker.ok(&["save", "-o", &archive, &name]);
    let again = loads(stage, &archive, &name, &theirs);
    docker.ok(&["rm", "made"]);
    docker.ok(&["rmi", "-f", &name]);
    docker.ok(&["load", "-q", "-i", &again]);
    assert_eq!(inspect("{{.Id}}"), theirs.id);
}

/// Copies a few new and changed files into a container that does not run.
fn copy_into(docker: &Docker, root: &Path, to: &str) {
    let changes = root.join("changes");
    fs::create_dir_all(changes.join("d/added")).unwrap();
    fs::write(changes.join("d/text"), "replaced").unwrap();
    fs::write(changes.join("d/added/file"), "added").unwrap();
    fs::hard_link(changes.join("d/added/file"), changes.join("d/added/link")).unwrap();
    let tar = root.join("changes.tar");
    pack(&changes, &tar, &[]);
    let input = Stdio::from(fs::File::open(tar).unwrap());
    ok(docker.command(&["cp", "-", to]).stdin(input));
}

/// An image of two layers in the storage that Podman and buildah share.
fn build(stage: &Stage, containers: &Containers<'_>, source: &Tree) -> Theirs {
    let buildah = |arguments: &[&str]| containers.ok("buildah", arguments);
    let change = |from: &str, image: &str, script: &str| {
        let container = buildah(&["from", "--pull-never", from]);
        let place = buildah(&["mount", &container]);
        let mut shell = stage.room.command("sh");
        ok(shell.args(["-ec", &format!("cd {place}\n{script}")]));
        let files = tree(&stage.room.path(Path::new(&place)));
        buildah(&["commit", "-q", &container, image]);
        buildah(&["rm", &container]);
        files
    };
    let tar = stage.here.root.join("source.tar");
    let unpack = "tar --xattrs --xattrs-include='*' --numeric-owner -xpf";
    let files = change("scratch", "base", &format!("{unpack} {}", tar.display()));
    assert_same("the first layer", &files, source);
    let committed = stage.podman_tree(containers, "base");
    assert_same("buildah commit", &committed, &in_seconds(source));
    let files = change("base", "built", CHANGES);
    let committed = stage.podman_tree(containers, "built");
    assert_same("buildah commit", &committed, &in_seconds(&files));
    let format = ["image", "inspect", "--format", "{{.Id}}", "built"];
    Theirs {
        id: format!("sha256:{}", containers.ok("podman", &format)),
        files: committed,
    }
}

fn from_podman_and_buildah(stage: &Stage, containers: &Containers<'_>, theirs: &Theirs) {
    let root = &stage.here.root;
    let digest = root.join("digest");
    let flags = [
        "--tls-verify=false",
        "--digestfile",
        digest.to_str().unwrap(),
    ];
    for program in ["podman", "buildah"] {
        let name = stage.registry.name(&format!("by/{program}:1"));
        let to = format!("docker://{name}");
        containers.ok(
            program,
            &[&["push", "-q"], &flags[..], &["built", &to]].concat(),
        );
        pulls(stage, &name, &text(&fs::read(&digest).unwrap()), theirs);
    }
    let name = "localhost/built:latest";
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    for format in ["docker-archive", "oci-archive"] {
        let archive = path(&format!("podman-{format}.tar"));
        containers.ok(
            "podman",
            &["save", "-q", "--format", format, "-o", &archive, name],
        );
        let again = loads(stage, &archive, name, theirs);
        let elsewhere = Containers::new(&stage.room, &root.join(format!("again-{format}")));
        elsewhere.ok("podman", &["load", "-q", "-i", &again]);
        let id = elsewhere.ok("podman", &["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(format!("sha256:{id}"), theirs.id, "{format}");
        assert_same(format, &stage.podman_tree(&elsewhere, name), &theirs.files);
        let archive = path(&format!("buildah-{format}.tar"));
        let to = format!("{format}:{archive}:{name}");
        containers.ok("buildah", &["push", "-q", "built", &to]);
        loads(stage, &archive, name, theirs);
        // By skopeo, from storage that is not its own.
        let archive = path(&format!("skopeo-{format}.tar"));
        let from = format!("docker://{}", stage.registry.name("by/podman:1"));
        let to = format!("{format}:{archive}:{name}");
        let flags = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false"];
        containers.ok("skopeo", &[&flags[..], &[&from, &to]].concat());
        loads(stage, &archive, name, theirs);
    }
    let name = stage.registry.name("by/skopeo:1");
    let from = format!("docker://{}", stage.registry.name("by/podman:1"));
    let copy = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false"];
    let more = [
        "--dest-tls-verify=false",
        "--digestfile",
        digest.to_str().unwrap(),
    ];
    let to = format!("docker://{name}");
    containers.ok("skopeo", &[&copy[..], &more, &[&from, &to]].concat());
    pulls(stage, &name, &text(&fs::read(&digest).unwrap()), theirs);
}
