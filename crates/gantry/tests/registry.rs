//! Pulling from a real registry what another tool has pushed there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::{Installation, text, wait_until};

/// Debian's docker-registry on a free port of the loopback, with a directory of its own.
struct Registry {
    process: Child,
    port: u16,
    directory: PathBuf,
}

impl Registry {
    fn new(installation: &Installation) -> Registry {
        Registry::with(installation, "registry", "")
    }

    fn with(installation: &Installation, name: &str, extra: &str) -> Registry {
        let directory = installation.root.join(name);
        fs::create_dir_all(&directory).unwrap();
        // It cannot be told to choose a port itself: the one found may be gone by then.
        for _ in 0..10 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let config = directory.join("config.yml");
            let storage = directory.join("storage");
            let lines = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{extra}",
                storage.display()
            );
            fs::write(&config, lines).unwrap();
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
                return Registry {
                    process,
                    port,
                    directory,
                };
            }
        }
        panic!(
            "the registry does not start: {:?}",
            fs::read_to_string(directory.join("log"))
        );
    }

    fn reference(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    /// Pushes from an OCI layout; returns the digest of what the tag names.
    fn push(&self, layout: &Path, tag: &str, flags: &[&str], to: &str) -> String {
        let digest = self.directory.join("digest");
        let pushed = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args(flags)
            .arg("--digestfile")
            .arg(&digest)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{}", self.reference(to)))
            .output()
            .expect("skopeo is installed");
        assert!(pushed.status.success(), "{}", text(&pushed.stderr));
        fs::read_to_string(digest).unwrap()
    }

    /// File in which the registry keeps a blob.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.directory
            .join("storage/docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An OCI layout in the making.
struct Layout {
    directory: PathBuf,
}

impl Layout {
    fn new(directory: PathBuf) -> Layout {
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Layout { directory }
    }

    /// Adds a blob; returns its descriptor.
    fn add(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(
            self.directory.join("blobs/sha256").join(&digest[7..]),
            bytes,
        )
        .unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds an image; returns the descriptor of its manifest.
    fn image(&self, architecture: &str, layers: &[(Vec<u8>, Compression)]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| sha256(tar)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin", format!("BUILT_FOR={architecture}")], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let layers: Vec<Value> = layers
            .iter()
            .map(|(tar, compression)| {
                let kind = "application/vnd.oci.image.layer.v1.tar";
                match compression {
                    Compression::None => self.add(kind, tar),
                    Compression::Gzip => self.add(&format!("{kind}+gzip"), &filter("gzip", tar)),
                    Compression::Zstd => self.add(&format!("{kind}+zstd"), &filter("zstd", tar)),
                }
            })
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
        });
        self.add(media_type, manifest.to_string().as_bytes())
    }

    /// Gives a descriptor a name.
    fn tag(&self, name: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let path = self.directory.join("index.json");
        let mut index = fs::read(&path).map_or_else(
            |_| json!({"schemaVersion": 2, "manifests": []}),
            |bytes| serde_json::from_slice(&bytes).unwrap(),
        );
        index["manifests"].as_array_mut().unwrap().push(descriptor);
        fs::write(path, index.to_string()).unwrap();
    }

    /// An index of images for several architectures.
    fn index(&self, images: &[(&str, Value)]) -> Value {
        let manifests: Vec<Value> = images
            .iter()
            .map(|(architecture, descriptor)| {
                let mut entry = descriptor.clone();
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
                entry
            })
            .collect();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.add(media_type, index.to_string().as_bytes())
    }
}

#[derive(Clone, Copy)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a program makes of its standard input.
fn filter(program: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap().stdout
    })
}

fn sha256(bytes: &[u8]) -> String {
    let sum = text(&filter("sha256sum", bytes));
    format!("sha256:{}", sum.split(' ').next().unwrap())
}

/// A layer of what `make` puts into a directory.
fn layer(installation: &Installation, make: impl FnOnce(&Path)) -> Vec<u8> {
    let directory = installation.root.join("layer");
    fs::create_dir_all(&directory).unwrap();
    make(&directory);
    let tar = Command::new("tar")
        .args([
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--mtime=@1",
            "-C",
        ])
        .arg(&directory)
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    assert!(tar.status.success());
    fs::remove_dir_all(&directory).unwrap();
    tar.stdout
}

/// Names of this host's architecture and of another one.
fn architectures() -> (&'static str, &'static str) {
    if cfg!(target_arch = "x86_64") {
        ("amd64", "arm64")
    } else {
        ("arm64", "amd64")
    }
}

/// Layers of all compressions that hide, replace and link files of each other.
fn layers(installation: &Installation) -> Vec<(Vec<u8>, Compression)> {
    let write = |path: PathBuf, content: &str| fs::write(path, content).unwrap();
    let base = fs::read(support::busybox_tar()).unwrap();
    let files = layer(installation, |root| {
        fs::create_dir_all(root.join("data/emptied")).unwrap();
        write(root.join("data/hidden"), "hidden");
        write(root.join("data/replaced"), "old");
        write(root.join("data/emptied/old"), "old");
        write(root.join("data/linked"), "same");
        fs::hard_link(root.join("data/linked"), root.join("data/other")).unwrap();
        symlink("linked", root.join("data/pointer")).unwrap();
    });
    let changes = layer(installation, |root| {
        fs::create_dir_all(root.join("data/emptied")).unwrap();
        write(root.join("data/.wh.hidden"), "");
        write(root.join("data/replaced"), "new");
        write(root.join("data/emptied/.wh..wh..opq"), "");
        write(root.join("data/emptied/new"), "new");
    });
    let last = layer(installation, |root| {
        fs::create_dir_all(root.join("data")).unwrap();
        write(root.join("data/last"), "last");
    });
    vec![
        (base, Compression::Gzip),
        (files, Compression::Zstd),
        (changes, Compression::None),
        (last, Compression::Gzip),
    ]
}

/// A layout with the index `app` and, for this host alone, the image `single`.
fn layout(installation: &Installation) -> Layout {
    let layout = Layout::new(installation.root.join("layout"));
    let (own, other) = architectures();
    let layers = layers(installation);
    let (own_image, other_image) = (layout.image(own, &layers), layout.image(other, &layers));
    layout.tag("single", own_image.clone());
    layout.tag(
        "app",
        layout.index(&[(other, other_image), (own, own_image)]),
    );
    layout
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

#[test]
fn a_pushed_index_is_pulled_run_listed_and_removed() {
    let installation = Installation::new();
    let registry = Registry::new(&installation);
    let layout = layout(&installation);
    let flags = ["--all", "--preserve-digests"];
    let digest = registry.push(&layout.directory, "app", &flags, "team/app:1");
    let reference = registry.reference("team/app:1");
    let (own, other) = architectures();

    let told = installation.ok(&["pull", &reference]);
    assert!(told.contains(&format!("Digest: {digest}")), "{told}");
    assert!(
        told.contains(&format!("Downloaded newer image for {reference}")),
        "{told}"
    );
    assert!(told.ends_with(&reference), "{told}");
    assert_eq!(look(&installation, &reference), looks(own));
    let listed = installation.ok(&[
        "images",
        "--digests",
        "--format",
        "{{.Repository}} {{.Tag}} {{.Digest}}",
    ]);
    assert_eq!(
        listed,
        format!("{} 1 {digest}", registry.reference("team/app"))
    );

    let again = installation.ok(&["pull", &reference]);
    assert!(
        again.contains(&format!("Image is up to date for {reference}")),
        "{again}"
    );
    assert_eq!(installation.ok(&["pull", "-q", &reference]), reference);

    // The same image by its digest needs nothing new and no tag.
    let by_digest = format!("{}@{digest}", registry.reference("team/app"));
    installation.ok(&["pull", &by_digest]);
    assert_eq!(look(&installation, &by_digest), looks(own));

    installation.ok(&["rmi", "-f", &reference, &by_digest]);
    assert_no_image(&installation);

    // Another platform, as asked; its program is this host's, so it runs all the same.
    installation.ok(&["pull", "--platform", &format!("linux/{other}"), &reference]);
    assert_eq!(look(&installation, &reference), looks(other));
    let id = installation.ok(&["images", "-q"]);
    installation.ok(&["rmi", "-f", &id]);
    assert_no_image(&installation);
    installation.assert_clean();
}

#[test]
fn a_docker_schema_2_image_is_pulled_by_run() {
    let installation = Installation::new();
    let registry = Registry::new(&installation);
    let layout = layout(&installation);
    // That format knows no zstd.
    let layers: Vec<_> = layers(&installation)
        .into_iter()
        .map(|(tar, _)| (tar, Compression::Gzip))
        .collect();
    layout.tag("gzip", layout.image(architectures().0, &layers));
    let digest = registry.push(&layout.directory, "gzip", &["--format", "v2s2"], "app");
    let reference = registry.reference("app");
    let output = installation.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        &reference,
        "sh",
        "-c",
        LOOK,
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), looks(architectures().0));
    let told = text(&output.stderr);
    assert!(told.contains("Unable to find image"), "{told}");
    assert!(told.contains(&digest), "{told}");
    // Two names, one image: it goes with the last one.
    installation.ok(&["pull", &format!("{reference}:latest")]);
    installation.ok(&["rmi", &reference]);
    assert_no_image(&installation);
    installation.assert_clean();
}

#[test]
fn what_cannot_be_pulled_leaves_nothing() {
    let installation = Installation::new();
    let registry = Registry::new(&installation);
    let layout = layout(&installation);
    registry.push(
        &layout.directory,
        "app",
        &["--all", "--preserve-digests"],
        "app:1",
    );

    let error = fails_to_pull(&installation, &registry.reference("app:2"));
    assert!(
        error.contains("not found") || error.contains("unknown"),
        "{error}"
    );
    let error = fails_to_pull(&installation, &registry.reference("nobody:1"));
    assert!(
        error.contains("not found") || error.contains("unknown"),
        "{error}"
    );
    let wrong = format!("app@sha256:{}", "0".repeat(64));
    fails_to_pull(&installation, &registry.reference(&wrong));
    let error = installation.fails(
        1,
        &[
            "pull",
            "--platform",
            "linux/s390x",
            &registry.reference("app:1"),
        ],
    );
    let (own, other) = architectures();
    for part in ["linux/s390x", own, other] {
        assert!(error.contains(part), "{error}");
    }
    assert_no_image(&installation);
    // The same from `run`, with Docker's exit code for what never was a container.
    installation.fails(125, &["run", "--rm", &registry.reference("app:2")]);
    assert_no_image(&installation);
    installation.assert_clean();
}

/// Nobody is there, or somebody who speaks nothing sensible.
#[test]
fn a_registry_that_cannot_be_reached_is_named() {
    let installation = Installation::new();
    // Bound and not listening: refused, and nobody else gets the port meanwhile.
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (family, kind) = (
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
    );
    let socket = rustix::net::socket_with(family, kind, flags, None).unwrap();
    let any = std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&socket, &any).unwrap();
    let bound = rustix::net::getsockname(&socket).unwrap();
    let port = std::net::SocketAddr::try_from(bound).unwrap().port();
    let error = fails_to_pull(&installation, &format!("127.0.0.1:{port}/app:1"));
    assert!(
        error.to_lowercase().contains("connection refused"),
        "{error}"
    );

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    fails_to_pull(&installation, &format!("127.0.0.1:{port}/app:1"));
    installation.assert_clean();
}

#[test]
fn one_wrong_bit_is_found_wherever_it_is() {
    let installation = Installation::new();
    let registry = Registry::new(&installation);
    let layout = layout(&installation);
    let flags = ["--preserve-digests"];
    let digest = registry.push(&layout.directory, "single", &flags, "app:1");
    let manifest: Value =
        serde_json::from_slice(&fs::read(registry.blob(&digest)).unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let mut blobs: Vec<&str> = layers
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap())
        .collect();
    blobs.push(manifest["config"]["digest"].as_str().unwrap());
    let reference = registry.reference("app:1");
    for blob in blobs {
        let path = registry.blob(blob);
        let sound = fs::read(&path).unwrap();
        // In a text or in the checksum of a file: both still look like what they are.
        for place in [sound.len() / 2, sound.len() - 1] {
            let mut broken = sound.clone();
            broken[place] ^= 1;
            fs::write(&path, &broken).unwrap();
            forget_partial_blobs(&installation);
            let error = fails_to_pull(&installation, &reference);
            assert!(error.contains(&blob[7..19]), "{blob} at {place}: {error}");
        }
        fs::write(&path, &sound[..sound.len() - 1]).unwrap();
        forget_partial_blobs(&installation);
        fails_to_pull(&installation, &reference);
        fs::write(&path, &sound).unwrap();
    }
    // The manifest itself, asked for by its digest: still good JSON, but another one.
    let path = registry.blob(&digest);
    let sound = fs::read(&path).unwrap();
    let other = text(&sound).replacen("schemaVersion", "schemaversion", 1);
    fs::write(&path, other).unwrap();
    fails_to_pull(&installation, &registry.reference(&format!("app@{digest}")));
    fs::write(&path, &sound).unwrap();

    installation.ok(&["pull", &reference]);
    assert_eq!(look(&installation, &reference), looks(architectures().0));
    installation.assert_clean();
}

/// A registry that lets in `somebody` with the password `secret`, and holds `app:1`.
fn private_registry(installation: &Installation) -> Registry {
    let passwords = installation.root.join("passwords");
    let made = Command::new("htpasswd")
        .args(["-Bbn", "somebody", "secret"])
        .output()
        .expect("htpasswd is installed");
    fs::write(&passwords, made.stdout).unwrap();
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
        passwords.display()
    );
    let registry = Registry::with(installation, "private", &auth);
    let layout = layout(installation);
    let flags = ["--dest-creds", "somebody:secret"];
    registry.push(&layout.directory, "single", &flags, "app:1");
    registry
}

/// What the docker client would have stored, and what is in PATH beside it.
struct Docker<'a> {
    installation: &'a Installation,
    directory: PathBuf,
}

impl Docker<'_> {
    fn new<'a>(installation: &'a Installation, config: &str) -> Docker<'a> {
        let directory = installation.root.join("docker");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.json"), config).unwrap();
        Docker {
            installation,
            directory,
        }
    }

    /// Puts `docker-credential-NAME` into PATH.
    fn helper(self, name: &str, script: &str) -> Self {
        let path = self.directory.join(format!("docker-credential-{name}"));
        // Written by another process: one that this process has open for writing while another
        // thread forks cannot be executed (ETXTBSY).
        let made = Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod 755 \"$0\"",
            ])
            .arg(path)
            .arg(script)
            .status();
        assert!(made.unwrap().success());
        self
    }

    fn pull(&self, reference: &str) -> std::process::Output {
        let path = std::env::var("PATH").unwrap();
        self.installation
            .command(&["pull", reference])
            .env("DOCKER_CONFIG", &self.directory)
            .env("PATH", format!("{}:{path}", self.directory.display()))
            .output()
            .unwrap()
    }

    /// Pulls, finds the image there, and removes it again.
    fn pulls(&self, reference: &str) {
        let output = self.pull(reference);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "");
        self.installation.ok(&["rmi", reference]);
    }

    /// Runs a pull that has to fail; returns its one line, without the hint.
    fn fails(&self, reference: &str) -> String {
        let output = self.pull(reference);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        let lines: Vec<&str> = error.lines().collect();
        assert!(lines.len() <= 2, "{error}");
        assert!(
            lines[1..].iter().all(|line| line.contains("hint:")),
            "{error}"
        );
        assert!(lines[0].contains(reference), "which image? {error}");
        assert!(!error.contains("secret"), "{error}");
        assert_no_image(self.installation);
        lines[0].to_owned()
    }
}

/// `user:password` as `config.json` has it.
fn encoded(credentials: &str) -> String {
    text(&filter("base64", credentials.as_bytes()))
}

#[test]
fn a_private_image_is_pulled_with_what_docker_has_stored() {
    let installation = Installation::new();
    let registry = private_registry(&installation);
    let reference = registry.reference("app:1");
    let host = format!("127.0.0.1:{}", registry.port);
    let auth = encoded("somebody:secret");
    for key in [host.clone(), format!("https://{host}/v1/")] {
        let config = json!({"auths": {key: {"auth": auth}, "other.tld": {"auth": "!"}}});
        Docker::new(&installation, &config.to_string()).pulls(&reference);
    }
    // `$HOME/.docker` without DOCKER_CONFIG.
    let home = installation.root.join("home");
    fs::create_dir_all(home.join(".docker")).unwrap();
    let config = json!({"auths": {&host: {"username": "somebody", "password": "secret"}}});
    fs::write(home.join(".docker/config.json"), config.to_string()).unwrap();
    let output = installation
        .command(&["pull", "-q", &reference])
        .env("HOME", home)
        .env_remove("DOCKER_CONFIG")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(look(&installation, &reference), looks(architectures().0));
    installation.ok(&["rmi", &reference]);
    assert_no_image(&installation);
    installation.assert_clean();
}

#[test]
fn a_private_image_is_refused_in_one_line() {
    let installation = Installation::new();
    let registry = private_registry(&installation);
    let reference = registry.reference("app:1");
    let host = format!("127.0.0.1:{}", registry.port);
    let entry = |auth: &str| json!({"auths": {&host: {"auth": auth}}}).to_string();
    let place = installation.root.join("docker/config.json");
    let place = place.to_str().unwrap();
    for (config, expected) in [
        ("{}".to_owned(), format!("{place} has none for {host}")),
        (
            json!({"auths": {"127.0.0.1": {"auth": encoded("somebody:secret")}}}).to_string(),
            format!("{place} has none for {host}"),
        ),
        (
            entry(&encoded("somebody:wrong")),
            format!("user name or password from {place} is wrong"),
        ),
        (entry("!"), format!("cannot use {place}")),
        ("{\"auths\":{".to_owned(), format!("cannot use {place}")),
    ] {
        let error = Docker::new(&installation, &config).fails(&reference);
        assert!(error.contains(&expected), "{config}: {error}");
    }
    let docker = Docker::new(&installation, "{}");
    fs::remove_file(place).unwrap();
    let error = docker.fails(&reference);
    assert!(
        error.contains(&format!("read from {place}, which does not exist")),
        "{error}"
    );
    // An open registry is none of this file's business.
    let open = Registry::new(&installation);
    let layout = layout(&installation);
    open.push(&layout.directory, "single", &[], "app:1");
    Docker::new(&installation, "{").pulls(&open.reference("app:1"));
    installation.assert_clean();
}

#[test]
fn a_credential_helper_is_asked_for_the_registry_alone() {
    let installation = Installation::new();
    let registry = private_registry(&installation);
    let reference = registry.reference("app:1");
    let host = format!("127.0.0.1:{}", registry.port);
    let asked = installation.root.join("asked");
    let helper = format!(
        "echo \"$* $(cat)\" >> {}\necho '{{\"ServerURL\":\"\",\"Username\":\"somebody\",\"Secret\":\"secret\"}}'",
        asked.display()
    );
    for config in [
        json!({"auths": {&host: {}}, "credsStore": "test"}),
        json!({"credHelpers": {&host: "test"}, "credsStore": "absent"}),
    ] {
        Docker::new(&installation, &config.to_string())
            .helper("test", &helper)
            .pulls(&reference);
        let line = format!("get {host}\n");
        assert_eq!(
            fs::read_to_string(&asked).unwrap(),
            line,
            "once for all requests"
        );
        fs::remove_file(&asked).unwrap();
    }
    let config = json!({"credsStore": "test"}).to_string();
    for (script, expected) in [
        (
            "echo credentials not found in native keychain; exit 1",
            "has none for",
        ),
        (
            "echo the keyring is locked; exit 1",
            "the keyring is locked",
        ),
        ("echo secret", "is of no use for"),
        (&helper.replace("\"secret\"", "\"wrong\""), "is wrong"),
    ] {
        let docker = Docker::new(&installation, &config).helper("test", script);
        let error = docker.fails(&reference);
        for part in ["docker-credential-test", &host, expected] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let config = json!({"credsStore": "absent"}).to_string();
    let docker = Docker::new(&installation, &config);
    let error = docker.fails(&reference);
    for part in ["docker-credential-absent", &host, "not in PATH"] {
        assert!(error.contains(part), "{error}");
    }
    // Where nobody asks for credentials nobody misses the helper.
    let open = Registry::new(&installation);
    let layout = layout(&installation);
    open.push(&layout.directory, "single", &[], "app:1");
    docker.pulls(&open.reference("app:1"));
    installation.assert_clean();
}

#[test]
fn four_pulls_of_one_image_at_once() {
    let installation = Installation::new();
    let registry = Registry::new(&installation);
    let layout = layout(&installation);
    registry.push(
        &layout.directory,
        "app",
        &["--all", "--preserve-digests"],
        "app:1",
    );
    let reference = registry.reference("app:1");
    let pulls: Vec<Child> = (0..4)
        .map(|_| {
            let mut command = installation.command(&["pull", &reference]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(ingests(&installation), 0);
    assert_eq!(installation.ok(&["images", "-q"]).lines().count(), 1);
    assert_eq!(look(&installation, &reference), looks(architectures().0));
    installation.ok(&["rmi", &reference]);
    assert_no_image(&installation);
    installation.assert_clean();
}

/// Passes on what a registry says until a number of bytes have gone by, and then nothing
/// more; the connections stay open.
fn stalling_proxy(registry: u16, budget: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let passed = Arc::new(AtomicUsize::new(0));
    let count = passed.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, registry)) else {
                return;
            };
            let pass = |mut from: TcpStream, mut to: TcpStream, count: Option<Arc<AtomicUsize>>| {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        let before = count
                            .as_ref()
                            .map_or(0, |count| count.fetch_add(read, Ordering::SeqCst));
                        if before >= budget {
                            // The pull that waits for the rest is killed.
                            loop {
                                std::thread::park();
                            }
                        }
                        if to.write_all(&buffer[..read]).is_err() {
                            return;
                        }
                    }
                });
            };
            let (client_too, server_too) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            pass(client, server, None);
            pass(server_too, client_too, Some(count.clone()));
        }
    });
    (port, passed)
}

#[test]
fn a_killed_pull_is_forgotten_by_the_next_one() {
    let installation = Installation::new();
    let registry = Registry::new(&installation);
    let layout = layout(&installation);
    registry.push(
        &layout.directory,
        "app",
        &["--all", "--preserve-digests"],
        "app:1",
    );
    // Before the first layer, in its middle, and towards the end.
    for budget in [6_000, 300_000, 900_000] {
        let (port, passed) = stalling_proxy(registry.port, budget);
        let mut pull = installation
            .command(&["pull", &format!("127.0.0.1:{port}/app:1")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the pull has come to a stop", || {
            passed.load(Ordering::SeqCst) >= budget
        });
        if budget > 6_000 {
            wait_until("something is being written", || ingests(&installation) == 1);
        }
        pull.kill().unwrap();
        pull.wait().unwrap();
        let reference = registry.reference("app:1");
        installation.ok(&["pull", &reference]);
        assert_eq!(ingests(&installation), 0, "the remains of the killed pull");
        assert_eq!(look(&installation, &reference), looks(architectures().0));
        installation.ok(&["rmi", &reference]);
        assert_no_image(&installation);
    }
    installation.assert_clean();
}
