//! `push`, `pull`, `image cp`, `manifest` and `login` with a registry that is not ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;

use crate::id_of;
use crate::support::docker_registry::DockerRegistry;
use crate::support::{Installation, text};

/// `pull --no-blobs` drops what a registry has, and not what others count on here.
#[test]
fn dropped_blobs_are_nobody_elses() {
    let here = Installation::with_busybox();
    let registry = DockerRegistry::start(&here.root);
    here.ok(&[
        "run",
        "--name",
        "made",
        "--network",
        "none",
        "busybox",
        "touch",
        "/new",
    ]);
    here.ok(&["commit", "made", "child:1"]);
    here.ok(&["rm", "made"]);
    let layers = here.inspect("child:1")["RootFS"]["Layers"].clone();
    let shared = layers[0].as_str().unwrap()["sha256:".len()..].to_owned();
    let save = |name: &str, file: &str| {
        let path = here.root.join(file).to_str().unwrap().to_owned();
        here.ok(&["save", "-o", &path, name]);
        path
    };
    let (base, child) = (save("busybox", "base.tar"), save("child:1", "child.tar"));
    // Not compressed: with the layer that the child has, too.
    let name = registry.name("base:1");
    let digest = here.ok(&[
        "image",
        "cp",
        "-q",
        &format!("oci-archive:{base}"),
        &format!("docker://{name}"),
    ]);

    let other = Installation::new();
    let blob = other.data.join("blobs/sha256").join(&shared);
    other.ok(&["load", "-q", "-i", &child]);
    assert!(blob.exists());
    other.ok(&["pull", "-q", "--no-blobs", &name]);
    assert!(blob.exists(), "the child was loaded, and needs it");
    other.ok(&["rmi", "child:1"]);
    assert!(blob.exists());
    // Somebody who pulls or loads has found it here, and has nothing on record yet.
    let lock = fs::File::open(other.data.join("ingest")).unwrap();
    lock.lock_shared().unwrap();
    other.ok(&["pull", "-q", "--no-blobs", &name]);
    assert!(blob.exists(), "the store is held");
    drop(lock);
    other.ok(&["pull", "-q", "--no-blobs", &name]);
    assert!(!blob.exists());

    // A tag beside a digest says nothing of what is here by that tag.
    let pinned = format!("{name}@{digest}");
    other.ok(&["tag", &name, &registry.name("base:2")]);
    other.ok(&["rmi", &name]);
    other.ok(&["pull", "-q", &pinned]);
    let names = other.inspect(&pinned)["RepoTags"].clone();
    assert_eq!(names.as_array().unwrap().len(), 1, "{names}");
    let works = ["run", "--rm", "--network", "none", &pinned, "echo", "works"];
    assert_eq!(other.ok(&works), "works");
    other.assert_clean();
}

/// A layer that came compressed and has to be packed again gets another digest, which the
/// manifest of an image that was made here has to name.
#[test]
fn a_layer_that_is_packed_again_is_named_as_such() {
    let here = Installation::with_busybox();
    let registry = DockerRegistry::start(&here.root);
    let name = registry.name("base:1");
    let commit = |on: &Installation, image: &str, file: &str, name: &str| {
        on.ok(&[
            "run",
            "--name",
            "made",
            "--network",
            "none",
            image,
            "touch",
            file,
        ]);
        on.ok(&["commit", "made", name]);
        on.ok(&["rm", "made"]);
    };
    commit(&here, "busybox", "/one", &name);
    here.ok(&["push", "-q", &name]);
    let other = Installation::new();
    other.ok(&["pull", "-q", &name]);
    commit(&other, &name, "/two", "child:1");
    drop(registry);
    let blobs = other.data.join("blobs/sha256");
    let layers: Vec<String> = fs::read_dir(&blobs)
        .unwrap()
        .filter_map(|entry| {
            serde_json::from_slice::<Value>(&fs::read(entry.unwrap().path()).ok()?).ok()
        })
        .filter_map(|manifest| {
            Some(
                manifest["layers"].as_array()?.get(1)?["digest"]
                    .as_str()?
                    .to_owned(),
            )
        })
        .collect();
    fs::remove_file(blobs.join(&layers[0]["sha256:".len()..])).unwrap();
    let file = other.root.join("child.tar").to_str().unwrap().to_owned();
    other.ok(&["save", "-o", &file, "child:1"]);
    let third = Installation::new();
    third.ok(&["load", "-q", "-i", &file]);
    let check = [
        "run",
        "--rm",
        "--network",
        "none",
        "child:1",
        "ls",
        "/one",
        "/two",
    ];
    assert_eq!(third.ok(&check), "/one\n/two");
    third.assert_clean();
}

#[test]
fn what_is_pushed_comes_back_the_same() {
    let here = Installation::with_busybox();
    let registry = DockerRegistry::start(&here.root);
    let (first, second) = (registry.name("team/box:1"), registry.name("team/box:2"));
    here.ok(&["tag", "busybox", &first]);
    here.ok(&["tag", "busybox", &second]);
    let said = here.ok(&["push", &first]);
    assert!(
        said.starts_with(&format!(
            "The push refers to repository [{}]\n",
            registry.name("team/box")
        )),
        "{said}"
    );
    let digest = said
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("1: digest: "))
        .and_then(|line| line.split(' ').next())
        .unwrap()
        .to_owned();
    assert_eq!(here.ok(&["push", "-q", &second]), second);
    let digests = here.inspect(&first)["RepoDigests"].to_string();
    assert!(digests.contains(&format!("team/box@{digest}")), "{digests}");
    let error = here.fails(1, &["push", &registry.name("team/none")]);
    assert!(
        error.contains("An image does not exist locally with the tag"),
        "{error}"
    );

    let other = Installation::new();
    other.ok(&["pull", "-q", "-a", &registry.name("team/box")]);
    assert_eq!(other.ok(&["images", "-q"]).lines().count(), 2);
    assert_eq!(id_of(&other, &first), id_of(&here, "busybox"));
    let moved = registry.name("moved:1");
    other.ok(&["tag", &first, &moved]);
    let said = other.ok(&["push", &moved]);
    assert!(said.contains(": Mounted from team/box"), "{said}");
    assert!(said.contains(&digest), "{said}");

    // Blobs that were dropped come back for a push elsewhere, as they were.
    let freed = other.ok(&["image", "drop-blobs", &first]);
    assert!(
        freed.starts_with("Freed: ") && !freed.ends_with(" 0B"),
        "{freed}"
    );
    let archive = other.root.join("dropped.tar");
    other.ok(&["save", "-o", archive.to_str().unwrap(), &first]);
    other.ok(&["image", "verify", "--deep"]);
    let third = Installation::new();
    third.ok(&["load", "-i", archive.to_str().unwrap()]);
    let again = registry.name("again:1");
    third.ok(&["tag", &first, &again]);
    assert!(third.ok(&["push", &again]).contains(&digest));

    // Past the store, between all kinds of places.
    let layout = format!("oci:{}/layout:x", here.root.display());
    let file = format!("{}/copied.tar", here.root.display());
    for (from, to) in [
        (format!("docker://{first}"), layout.clone()),
        (layout, format!("docker-archive:{file}:a/b:1")),
        (
            format!("docker-archive:{file}"),
            format!("oci-archive:{file}.2:y"),
        ),
        (
            format!("oci-archive:{file}.2:y"),
            format!("docker://{}", registry.name("copied:1")),
        ),
    ] {
        assert_eq!(
            here.ok(&["image", "cp", "-q", &from, &to]),
            digest,
            "{from} {to}"
        );
    }

    // A list of manifests.
    let list = registry.name("team/box:list");
    let manifests = |arguments: &[&str]| {
        let output = here
            .command(arguments)
            .env("DOCKER_CONFIG", here.root.join("docker"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    manifests(&["manifest", "create", &list, &first]);
    manifests(&[
        "manifest",
        "annotate",
        "--arch",
        "arm64",
        "--variant",
        "v8",
        &list,
        &first,
    ]);
    manifests(&["manifest", "push", "--purge", &list]);
    let listed: Value = serde_json::from_str(&manifests(&["manifest", "inspect", &list])).unwrap();
    assert_eq!(listed["manifests"][0]["platform"]["architecture"], "arm64");
    assert_eq!(listed["manifests"][0]["digest"], digest);
    here.assert_clean();
}

#[test]
fn a_login_is_kept_for_the_docker_client() {
    let here = Installation::with_busybox();
    let registry = DockerRegistry::start(&here.root);
    let config = here.root.join("docker/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, r#"{"HttpHeaders":{"X":"y"}}"#).unwrap();
    let run = |arguments: &[&str], input: &[u8]| {
        let mut child = here
            .command(arguments)
            .env("DOCKER_CONFIG", config.parent().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = run(
        &["login", "-u", "user", "--password-stdin", &registry.host],
        b"secret\n",
    );
    assert_eq!(
        text(&output.stdout),
        "Login Succeeded",
        "{}",
        text(&output.stderr)
    );
    assert!(text(&output.stderr).contains("stored unencrypted"));
    let kept: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    assert_eq!(kept["HttpHeaders"]["X"], "y");
    assert_eq!(kept["auths"][&registry.host]["auth"], "dXNlcjpzZWNyZXQ=");
    assert_eq!(
        fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let output = run(&["logout", &registry.host], b"");
    assert_eq!(
        text(&output.stdout),
        format!("Removing login credentials for {}", registry.host)
    );
    assert!(!fs::read_to_string(&config).unwrap().contains("dXNl"));
    let output = run(&["login", &registry.host], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("Cannot perform an interactive login from a non TTY device")
    );
}
