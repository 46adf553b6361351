//! What cannot be pulled is refused in one line, and leaves nothing.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};

use serde_json::Value;

use crate::layout::{architectures, layout};
use crate::support::{Installation, text};
use crate::{assert_no_image, fails_to_pull, forget_partial_blobs, look, looks, start_registry};

#[test]
fn what_cannot_be_pulled_leaves_nothing() {
    let installation = Installation::new();
    let registry = start_registry(&installation);
    let layout = layout(&installation);
    registry.push(
        &layout.directory,
        "app",
        &["--all", "--preserve-digests"],
        "app:1",
    );

    let error = fails_to_pull(&installation, &registry.name("app:2"));
    assert!(
        error.contains("not found") || error.contains("unknown"),
        "{error}"
    );
    let error = fails_to_pull(&installation, &registry.name("nobody:1"));
    assert!(
        error.contains("not found") || error.contains("unknown"),
        "{error}"
    );
    let wrong = format!("app@sha256:{}", "0".repeat(64));
    fails_to_pull(&installation, &registry.name(&wrong));
    let error = installation.fails(
        1,
        &["pull", "--platform", "linux/s390x", &registry.name("app:1")],
    );
    let (own, other) = architectures();
    for part in ["linux/s390x", own, other] {
        assert!(error.contains(part), "{error}");
    }
    assert_no_image(&installation);
    // The same from `run`, with Docker's exit code for what never was a container.
    installation.fails(125, &["run", "--rm", &registry.name("app:2")]);
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
    let registry = start_registry(&installation);
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
    let reference = registry.name("app:1");
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
    fails_to_pull(&installation, &registry.name(&format!("app@{digest}")));
    fs::write(&path, &sound).unwrap();

    installation.ok(&["pull", &reference]);
    assert_eq!(look(&installation, &reference), looks(architectures().0));
    installation.assert_clean();
}
