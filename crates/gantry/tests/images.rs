//! Commands on images, end to end: names, archives, containers as images, registries, and what
//! is on the disk.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Installation, text, wait_until};

fn id_of(installation: &Installation, name: &str) -> String {
    installation.inspect(name)["Id"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Debian's docker-registry; it ends with its value.
struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    fn start(installation: &Installation) -> Registry {
        let directory = installation.root.join("registry");
        fs::create_dir_all(&directory).unwrap();
        // It cannot be told to choose a port itself: the one found may be gone by then.
        for _ in 0..10 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let config = directory.join("config.yml");
            let storage = directory.join("storage");
            fs::write(
                &config,
                format!(
                    "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
                     http:\n  addr: 127.0.0.1:{port}\n",
                    storage.display()
                ),
            )
            .unwrap();
            let mut process = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(directory.join("log")).unwrap())
                .spawn()
                .expect("setpriv and docker-registry are installed");
            let mut ended = false;
            wait_until("the registry listens", || {
                ended = process.try_wait().unwrap().is_some();
                ended || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
            });
            if !ended {
                let host = format!("127.0.0.1:{port}");
                return Registry { process, host };
            }
        }
        panic!("the registry does not start");
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn names_come_and_go_as_in_docker() {
    let here = Installation::with_busybox();
    let id = id_of(&here, "busybox");
    here.ok(&["tag", "busybox", "me/box:1"]);
    here.ok(&["image", "tag", &id, "other"]);
    let rows = here.ok(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    assert_eq!(rows.lines().count(), 3, "{rows}");
    assert_eq!(
        here.ok(&["images", "-q", "--no-trunc", "me/*"]),
        id,
        "a pattern of names"
    );
    for (filter, count) in [
        ("reference=busybox", 1),
        ("dangling=true", 0),
        ("before=busybox", 0),
        ("until=1h", 0),
        ("label=nothing", 0),
    ] {
        let rows = here.ok(&["image", "ls", "-q", "--filter", filter]);
        assert_eq!(rows.lines().count(), count, "{filter}");
    }
    let error = here.fails(
        1,
        &[
            "tag",
            "busybox",
            "x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
    );
    assert!(
        error.contains("refusing to create a tag with a digest reference"),
        "{error}"
    );

    let hex = &id["sha256:".len()..];
    let error = here.fails(1, &["rmi", &hex[..12]]);
    let expected = format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        &hex[..12]
    );
    assert!(error.contains(&expected), "{error}");
    assert_eq!(here.ok(&["rmi", "me/box:1"]), "Untagged: me/box:1");
    here.ok(&["image", "rm", "other"]);

    here.ok(&[
        "run",
        "--name",
        "user",
        "--network",
        "none",
        "busybox",
        "true",
    ]);
    let error = here.fails(1, &["rmi", "busybox"]);
    assert!(
        error.contains(
            "conflict: unable to remove repository reference \"busybox\" (must force) - container"
        ),
        "{error}"
    );
    let error = here.fails(1, &["rmi", &hex[..12]]);
    assert!(
        error.contains("image is being used by stopped container"),
        "{error}"
    );
    here.ok(&[
        "run",
        "-d",
        "--name",
        "runs",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ]);
    let error = here.fails(1, &["rmi", "-f", &hex[..12]]);
    assert!(
        error.contains("(cannot be forced) - image is being used by running container"),
        "{error}"
    );
    // What is used stays usable when its name is taken away by force.
    assert_eq!(
        here.ok(&["rmi", "-f", "busybox"]),
        "Untagged: busybox:latest"
    );
    here.ok(&["start", "user"]);
    here.ok(&["rm", "-f", "user", "runs"]);
    let gone = here.ok(&["image", "prune", "-f"]);
    assert!(gone.contains(&format!("deleted: {id}")), "{gone}");
    assert!(gone.contains("Total reclaimed space: "), "{gone}");
    assert_eq!(
        fs::read_dir(here.data.join("layers/sha256"))
            .unwrap()
            .count(),
        0
    );
    here.assert_clean();
}

#[test]
fn archives_round_trip_with_equal_digests() {
    let one = Installation::with_busybox();
    one.ok(&["tag", "busybox", "me/box:1"]);
    let id = id_of(&one, "busybox");
    let file = one.root.join("saved.tar");
    let path = file.to_str().unwrap();
    one.ok(&["save", "-o", path, "busybox", "me/box:1"]);
    let streamed = one.gantry(&["image", "save", "busybox", "me/box:1"]).stdout;
    assert_eq!(
        fs::read(&file).unwrap(),
        streamed,
        "the same bytes each time"
    );
    let two = Installation::new();
    assert_eq!(
        two.ok(&["load", "-i", path]),
        "Loaded image: busybox:latest\nLoaded image: me/box:1"
    );
    assert_eq!(id_of(&two, "me/box:1"), id);
    let again = two.gantry(&["save", "busybox", "me/box:1"]).stdout;
    assert_eq!(again, streamed, "what was loaded is saved as it was");
    let three = Installation::new();
    let output = three.feed(&["image", "load", "-q"], &again);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(three.shell(&[], "echo works"), "works");
    let error = three.fails(1, &["load", "-i", "/bin/busybox"]);
    assert!(error.contains("cannot load the archive"), "{error}");
    let error = three.fails(1, &["save", "nothing"]);
    assert!(error.contains("no such image"), "{error}");
    three.assert_clean();
    if has("skopeo") {
        for kind in ["oci-archive", "docker-archive"] {
            let single = one.root.join("single.tar");
            one.ok(&["save", "-o", single.to_str().unwrap(), "me/box:1"]);
            let copied = one.root.join(format!("{kind}.tar"));
            let output = Command::new("skopeo")
                .args(["copy", "--quiet"])
                .arg(format!("{kind}:{}", single.display()))
                .arg(format!("docker-archive:{}:from/skopeo:1", copied.display()))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            let back = Installation::new();
            assert_eq!(
                back.ok(&["load", "-i", copied.to_str().unwrap()]),
                "Loaded image: from/skopeo:1"
            );
            assert_eq!(id_of(&back, "from/skopeo:1"), id, "{kind}");
        }
    }
}

#[test]
fn containers_become_images_and_archives() {
    let here = Installation::with_busybox();
    let script = "mkdir /d && echo new > /d/file && ln /d/file /d/link && ln -s file /d/soft \
                  && chown 1000:1001 /d/file && chmod 4755 /d/file && rm /bin/vi \
                  && rm -r /home/app && mkdir /home/app";
    here.ok(&[
        "run",
        "--name",
        "made",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let id = here.ok(&[
        "commit",
        "-a",
        "Somebody",
        "-m",
        "remark",
        "-c",
        "ENV A=b",
        "-c",
        "CMD [\"cat\", \"/d/link\"]",
        "made",
        "committed:1",
    ]);
    assert_eq!(id, id_of(&here, "committed:1"));
    let image = here.inspect("committed:1");
    assert_eq!(image["Author"], "Somebody");
    assert_eq!(image["Comment"], "remark");
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(
        here.ok(&["run", "--rm", "--network", "none", "committed:1"]),
        "new"
    );
    let check =
        "stat -c '%a %u:%g %h' /d/link; readlink /d/soft; ls -A /home/app; ls /bin/vi || echo $A";
    let output = here.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "committed:1",
        "sh",
        "-c",
        check,
    ]);
    assert_eq!(text(&output.stdout), "4755 1000:1001 2\nfile\nb");
    let history = here.ok(&[
        "history",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Comment}} {{.Size}}",
        "committed:1",
    ]);
    assert!(history.starts_with(&format!("{id} remark 4B")), "{history}");

    // The layer of the commit has no blob until it is saved, and the image is the same then.
    let file = here.root.join("committed.tar");
    here.ok(&["save", "-o", file.to_str().unwrap(), "committed:1"]);
    let other = Installation::new();
    other.ok(&["load", "-i", file.to_str().unwrap()]);
    assert_eq!(id_of(&other, "committed:1"), id);
    assert_eq!(
        other.ok(&["run", "--rm", "--network", "none", "committed:1"]),
        "new"
    );
    other.assert_clean();

    let exported = here.root.join("exported.tar");
    here.ok(&[
        "container",
        "export",
        "-o",
        exported.to_str().unwrap(),
        "made",
    ]);
    let listing = Command::new("tar")
        .arg("tvf")
        .arg(&exported)
        .output()
        .unwrap();
    let listing = text(&listing.stdout);
    assert!(listing.contains("-rwsr-xr-x 1000/1001"), "{listing}");
    assert!(listing.contains("d/link link to d/file"), "{listing}");
    assert!(
        !listing.contains("bin/vi\n") && !listing.contains(".wh."),
        "{listing}"
    );
    here.ok(&["import", exported.to_str().unwrap(), "flat"]);
    assert_eq!(
        here.ok(&["run", "--rm", "--network", "none", "flat", "cat", "/d/file"]),
        "new"
    );

    // A container that runs is paused meanwhile, and goes on.
    here.ok(&[
        "run",
        "-d",
        "--name",
        "runs",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo 1 > /one; sleep 1000",
    ]);
    wait_until("the file is written", || {
        here.gantry(&["exec", "runs", "cat", "/one"]).stdout == b"1\n"
    });
    here.ok(&["container", "commit", "runs", "live"]);
    assert_eq!(
        here.ok(&["run", "--rm", "--network", "none", "live", "cat", "/one"]),
        "1"
    );
    assert_eq!(here.ok(&["exec", "runs", "echo", "on"]), "on");
    here.ok(&["rm", "-f", "made", "runs"]);
    here.assert_clean();
}

/// A removal waits for an export, which otherwise would lack files without a word.
#[test]
fn a_container_stays_while_it_is_read() {
    let here = Installation::with_busybox();
    let script = "head -c 4000000 /dev/zero > /large && echo whole > /zz";
    let arguments = [
        "run",
        "--name",
        "made",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    here.ok(&arguments);
    let mut export = here
        .command(&["export", "made"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut archive = vec![0; 1000];
    let mut output = export.stdout.take().unwrap();
    output.read_exact(&mut archive).unwrap();
    // It waits for its reader now, with more to say than a pipe holds.
    let mut removal = here
        .command(&["rm", "made"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(removal.try_wait().unwrap().is_none(), "the removal waits");
    output.read_to_end(&mut archive).unwrap();
    assert!(export.wait().unwrap().success());
    assert!(removal.wait().unwrap().success());
    let file = here.root.join("exported.tar");
    fs::write(&file, archive).unwrap();
    let listing = Command::new("tar").arg("tvf").arg(&file).output().unwrap();
    let listing = text(&listing.stdout);
    assert!(
        listing.lines().any(|line| line.ends_with(" zz")),
        "it is whole: {listing}"
    );
    let error = here.fails(1, &["commit", "made"]);
    assert!(error.contains("no such container"), "{error}");
    here.assert_clean();
}

/// Whether the processes of a container are frozen, by either version of control groups.
fn is_frozen(here: &Installation, id: &str) -> bool {
    let group = format!("gantry-{}/{id}", here.instance());
    let read = |file: String| fs::read_to_string(file).unwrap_or_default();
    read(format!("/sys/fs/cgroup/freezer/{group}/freezer.state")).starts_with("FROZEN")
        || read(format!("/sys/fs/cgroup/{group}/cgroup.events")).contains("frozen 1")
}

/// A commit that is killed leaves nobody frozen for ever: the next command sees to that.
#[test]
fn a_killed_commit_does_not_leave_its_container_frozen() {
    let here = Installation::with_busybox();
    // Enough to be packed for some time.
    let script = "head -c 300000000 /dev/zero > /large; echo > /ready; sleep 1000";
    let id = here.ok(&[
        "run",
        "-d",
        "--name",
        "runs",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    wait_until("the file is written", || {
        here.gantry(&["exec", "runs", "cat", "/ready"]).stdout == b"\n"
    });
    let mut commit = here
        .command(&["commit", "runs", "never"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the container is frozen", || is_frozen(&here, &id));
    commit.kill().unwrap();
    commit.wait().unwrap();
    assert!(is_frozen(&here, &id), "the commit was still at work");
    here.ok(&["ps"]);
    assert!(!is_frozen(&here, &id), "the next command has thawed it");
    assert_eq!(here.ok(&["exec", "runs", "echo", "on"]), "on");
    here.fails(1, &["inspect", "never"]);
    here.ok(&["rm", "-f", "runs"]);
    here.assert_clean();
}

/// `pull --no-blobs` drops what a registry has, and not what others count on here.
#[test]
fn dropped_blobs_are_nobody_elses() {
    let here = Installation::with_busybox();
    let registry = Registry::start(&here);
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
    let registry = Registry::start(&here);
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
    let registry = Registry::start(&here);
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
    let registry = Registry::start(&here);
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

/// Bytes on the disk as `du` counts them.
fn du(path: &Path) -> u64 {
    let output = Command::new("du")
        .args(["-s", "-B1"])
        .arg(path)
        .output()
        .unwrap();
    text(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_disk_is_accounted_for_and_damage_is_named() {
    let here = Installation::with_busybox();
    here.ok(&[
        "run",
        "--name",
        "one",
        "--network",
        "none",
        "-v",
        "data:/data",
        "busybox",
        "sh",
        "-c",
        "head -c 300000 /dev/zero > /data/x; head -c 200000 /dev/zero > /y; echo logged",
    ]);
    here.ok(&["commit", "one", "two"]);
    let report = here.ok(&["system", "df", "-v", "--format", "json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let sum: u64 = report["Totals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["Size"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, du(&here.data));
    let table = here.ok(&["system", "df"]);
    assert!(
        table.starts_with("TYPE            TOTAL     ACTIVE    SIZE"),
        "{table}"
    );

    here.ok(&["image", "verify", "--deep"]);
    // One byte of a file in an unpacked layer, and one of a blob.
    let layers = here.inspect("two")["RootFS"]["Layers"].clone();
    let layer = |index: usize| layers[index].as_str().unwrap()["sha256:".len()..].to_owned();
    let unpacked: PathBuf = here.data.join("layers/sha256").join(layer(1)).join("y");
    let mut bytes = fs::read(&unpacked).unwrap();
    bytes[1000] ^= 1;
    fs::write(&unpacked, bytes).unwrap();
    let blob = here.data.join("blobs/sha256").join(layer(0));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let output = here.gantry(&["image", "verify", "--deep"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!(
            "damaged: layer sha256:{} (of two:latest)",
            layer(1)
        )),
        "{said}"
    );
    assert!(
        said.contains(&format!("damaged: blob sha256:{}", layer(0))),
        "{said}"
    );
    assert!(said.contains("2 objects are damaged"), "{said}");
    // The rest works on.
    assert_eq!(here.shell(&[], "echo fine"), "fine");
    here.ok(&["rm", "one"]);
    here.assert_clean();
}

/// CVE-2024-36623 and kin: images are removed while others are made and run; what was made stays
/// whole, and what a run has found does not go away under it.
#[test]
fn pruning_never_takes_what_is_used() {
    let here = Installation::with_busybox();
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            for _ in 0..25 {
                here.gantry(&["image", "prune", "-a", "-f"]);
            }
        });
        let tar = support::busybox_tar();
        let mut ran = 0;
        for number in 0..10 {
            let name = format!("image{number}");
            let label = format!("LABEL n={number}");
            here.ok(&["import", "-c", &label, tar.to_str().unwrap(), &name]);
            let output = here.gantry(&["run", "--rm", "--network", "none", &name, "echo", "ran"]);
            if output.status.success() {
                assert_eq!(text(&output.stdout), "ran");
                ran += 1;
            } else {
                // It was pruned between the two commands, as one piece.
                let error = text(&output.stderr);
                assert!(
                    error.contains("no such image")
                        || error.contains("cannot pull")
                        || error.contains("not found"),
                    "{error}"
                );
            }
        }
        pruner.join().unwrap();
        assert!(ran <= 10);
    });
    here.gantry(&["image", "verify", "--deep"]);
    let output = here.gantry(&["image", "verify", "--deep"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    here.assert_clean();
}
