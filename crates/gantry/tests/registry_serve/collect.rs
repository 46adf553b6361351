//! `gantry registry gc`, beside a running server.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::layout::Layout;
use crate::server::Server;
use crate::support::{Installation, is_installed, text};

fn push(layout: &Layout, server: &Server, name: &str) {
    let target = format!("docker://{}/{name}", server.host());
    let output = Command::new("skopeo")
        .args([
            "copy",
            "-q",
            "--dest-tls-verify=false",
            &layout.name(),
            &target,
        ])
        .env("REGISTRY_AUTH_FILE", "/nonexistent/auth.json")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn deleted_images_free_their_space() {
    if !is_installed("skopeo") {
        return;
    }
    let installation = Installation::new();
    let server = Server::start(&installation, &[]);
    let (old, new) = (
        Layout::busybox(&installation.root.join("old"), "old"),
        Layout::busybox(&installation.root.join("new"), "new"),
    );
    push(&old, &server, "box:v1");
    push(&new, &server, "box:v1");
    let root = server.root.to_str().unwrap();
    let blobs = || {
        std::fs::read_dir(server.root.join("blobs/sha256"))
            .unwrap()
            .count()
    };
    assert_eq!(blobs(), 5);
    // Everything is young.
    let said = installation.ok(&["registry", "gc", "--root", root, "-m"]);
    assert_eq!(said, "Removed 0 manifests, 0 blobs and 0 uploads: 0 bytes");
    std::thread::sleep(Duration::from_millis(1100));
    let said = installation.ok(&["registry", "gc", "--root", root, "--grace", "0s"]);
    assert!(said.starts_with("Removed 0 manifests"), "{said}");
    let dry = installation.ok(&[
        "registry", "gc", "--root", root, "--grace", "0s", "-m", "-d",
    ]);
    assert!(dry.contains("Would remove 1 manifests, 2 blobs"), "{dry}");
    assert_eq!(blobs(), 5);
    let said = installation.ok(&["registry", "gc", "--root", root, "--grace", "0s", "-m"]);
    assert!(
        said.contains(&format!("manifest box@{}", old.digest)),
        "{said}"
    );
    assert_eq!(blobs(), 3);
    server.get("/v2/box/manifests/v1").expect(200);
    let path = format!("/v2/box/manifests/{}", new.digest);
    server.curl(&["--request", "DELETE"], &path).expect(202);
    installation.ok(&["registry", "gc", "--root", root, "--grace", "0s"]);
    assert_eq!(blobs(), 0);
    // The server goes on with what is left.
    push(&old, &server, "box:v1");
    installation.fails(1, &["registry", "gc", "--root", "/nonexistent/registry"]);
}

/// An image layout is no registry, though it has blobs in the same place: nothing of it goes.
#[test]
fn layouts_of_others_are_left_alone() {
    let installation = Installation::new();
    let layout = Layout::busybox(&installation.root.join("layout"), "x");
    let root = layout.directory.to_str().unwrap();
    let files = || {
        let entries = std::fs::read_dir(&layout.directory).unwrap();
        let blobs = std::fs::read_dir(layout.directory.join("blobs/sha256")).unwrap();
        (entries.count(), blobs.count())
    };
    let before = files();
    std::thread::sleep(Duration::from_millis(1100));
    installation.fails(1, &["registry", "gc", "--root", root, "--grace", "0s"]);
    let serve = ["registry", "serve", "--address", "127.0.0.1:0"];
    installation.fails(1, &[&serve[..], &["--root", root]].concat());
    assert_eq!(files(), before);
}

/// A collector that runs in a loop takes nothing from pushes that are under way.
#[test]
fn pushes_beside_the_collector_are_whole() {
    if !is_installed("skopeo") {
        return;
    }
    let installation = Installation::new();
    let server = Server::start(&installation, &[]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut runs = 0;
            while !done.load(Ordering::SeqCst) {
                let root = server.root.to_str().unwrap();
                installation.ok(&["registry", "gc", "--root", root, "-m"]);
                runs += 1;
            }
            runs
        });
        for number in 0..6 {
            let directory = installation.root.join(format!("layout{number}"));
            let layout = Layout::busybox(&directory, &number.to_string());
            push(&layout, &server, "box:v1");
            let image = format!("{}/box:v1", server.host());
            installation.ok(&["pull", "-q", &image]);
        }
        done.store(true, Ordering::SeqCst);
        assert!(collector.join().unwrap() > 0);
    });
}
