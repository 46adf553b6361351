//! Push and pull with skopeo and ourselves.

use std::path::Path;
use std::process::{Command, Output};

use crate::layout::Layout;
use crate::server::Server;
use crate::support::{Installation, is_installed, text};

#[track_caller]
fn ok(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn skopeo(arguments: &[&str]) -> Output {
    Command::new("skopeo")
        .args(arguments)
        .env("REGISTRY_AUTH_FILE", "/nonexistent/auth.json")
        .output()
        .unwrap()
}

fn push(layout: &Layout, server: &Server, name: &str) {
    let target = format!("docker://{}/{name}", server.host());
    let name = layout.name();
    ok(&skopeo(&[
        "copy",
        "-q",
        "--dest-tls-verify=false",
        &name,
        &target,
    ]));
}

fn digest_of(server: &Server, name: &str) -> String {
    let target = format!("docker://{}/{name}", server.host());
    let format = ["--format", "{{.Digest}}"];
    ok(&skopeo(
        &[&["inspect", "--tls-verify=false"][..], &format, &[&target]].concat(),
    ))
}

#[test]
fn skopeo_pushes_and_we_pull() {
    if !is_installed("skopeo") {
        return;
    }
    let installation = Installation::new();
    let server = Server::start(&installation, &[]);
    let layout = Layout::busybox(&installation.root.join("layout"), "a");
    push(&layout, &server, "team/box:v1");
    assert_eq!(digest_of(&server, "team/box:v1"), layout.digest);
    // Across repositories, with a mount.
    let from = format!("docker://{}/team/box:v1", server.host());
    let to = format!("docker://{}/other:v2", server.host());
    ok(&skopeo(&[
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &from,
        &to,
    ]));
    assert_eq!(digest_of(&server, "other:v2"), layout.digest);

    let image = format!("{}/team/box:v1", server.host());
    installation.ok(&["pull", "-q", &image]);
    let said = installation.ok(&["run", "--rm", "--network", "none", &image, "echo", "hello"]);
    assert_eq!(said, "hello");

    server_holds_only_whole_blobs(&server.root);
}

pub fn server_holds_only_whole_blobs(root: &Path) {
    for entry in std::fs::read_dir(root.join("blobs/sha256"))
        .unwrap()
        .flatten()
    {
        let digest = crate::layout::sha256(&entry.path());
        assert_eq!(entry.file_name().to_str(), Some(&digest[7..]));
    }
}

/// The last of several pushes of a tag wins; all of them stay under their digests.
#[test]
fn pushes_of_one_tag_at_once() {
    if !is_installed("skopeo") {
        return;
    }
    let installation = Installation::new();
    let server = Server::start(&installation, &[]);
    let layouts: Vec<Layout> = (0..4)
        .map(|number| {
            let directory = installation.root.join(format!("layout{number}"));
            Layout::busybox(&directory, &number.to_string())
        })
        .collect();
    std::thread::scope(|scope| {
        for layout in &layouts {
            scope.spawn(|| push(layout, &server, "box:tag"));
        }
    });
    let winner = digest_of(&server, "box:tag");
    assert!(layouts.iter().any(|layout| layout.digest == winner));
    for layout in &layouts {
        assert_eq!(
            digest_of(&server, &format!("box@{}", layout.digest)),
            layout.digest
        );
    }
}

/// A mirror in front of another registry gives the same images, and keeps them.
#[test]
fn a_mirror_serves_what_its_upstream_has() {
    if !is_installed("skopeo") {
        return;
    }
    let installation = Installation::new();
    let mut upstream = Server::start_in(&installation.root.join("upstream"), &[]);
    let layout = Layout::busybox(&installation.root.join("layout"), "a");
    push(&layout, &upstream, "team/box:v1");
    let proxy = upstream.url.clone();
    let mirror = Server::start(&installation, &["--proxy", &proxy]);
    let image = format!("{}/team/box:v1", mirror.host());
    installation.ok(&["pull", "-q", &image]);
    upstream.kill();
    let from = format!("docker://{image}");
    let copy = installation.root.join("copy");
    let to = format!("oci:{}:t", copy.display());
    ok(&skopeo(&[
        "copy",
        "-q",
        "--src-tls-verify=false",
        &from,
        &to,
    ]));
    assert!(copy.join("blobs/sha256").join(&layout.digest[7..]).exists());
    server_holds_only_whole_blobs(&mirror.root);
}

/// Large blobs pass through without being held in memory.
#[test]
fn memory_is_bounded() {
    let installation = Installation::new();
    let server = Server::start(&installation, &[]);
    let file = installation.root.join("large");
    let status = Command::new("sh")
        .args([
            "-c",
            &format!("head -c 150000000 /dev/urandom > {}", file.display()),
        ])
        .status();
    assert!(status.unwrap().success());
    let digest = crate::layout::sha256(&file);
    let data = format!("@{}", file.display());
    let start = server
        .curl(&["--request", "POST"], "/v2/a/blobs/uploads/")
        .expect(202);
    let location = start.header("location");
    server
        .curl(
            &["--request", "PATCH", "--upload-file", &data[1..]],
            &location,
        )
        .expect(202);
    server
        .curl(
            &["--request", "PUT"],
            &format!("{location}?digest={digest}"),
        )
        .expect(201);
    let back = installation.root.join("back");
    let blob = format!("{}/v2/a/blobs/{digest}", server.url);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (blob, back) = (&blob, back.with_extension(number.to_string()));
            scope.spawn(move || {
                let fetched = Command::new("curl")
                    .args(["-sfo"])
                    .arg(&back)
                    .arg(blob)
                    .status();
                assert!(fetched.unwrap().success());
                assert_eq!(crate::layout::sha256(&back), digest_name(blob));
            });
        }
    });
    let peak = server.peak();
    assert!(peak < 64 << 10, "{peak} KiB");
}

fn digest_name(url: &str) -> String {
    url.rsplit('/').next().unwrap().to_owned()
}
