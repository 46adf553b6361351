//! What was acknowledged survives the server's death.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::layout::sha256;
use crate::server::Server;
use crate::support::{Installation, text};

/// Killed in the middle of chunks, again and again: each time the upload goes on where it was,
/// and nothing that was acknowledged is sent twice.
#[test]
fn an_upload_goes_on_after_each_kill() {
    let installation = Installation::new();
    let mut server = Server::start(&installation, &[]);
    let file = installation.root.join("blob");
    let made = Command::new("sh")
        .args([
            "-c",
            &format!("head -c 20000000 /dev/urandom > {}", file.display()),
        ])
        .status();
    assert!(made.unwrap().success());
    let bytes = fs::read(&file).unwrap();
    let digest = sha256(&file);
    let location = server
        .curl(&["--request", "POST"], "/v2/a/blobs/uploads/")
        .expect(202)
        .header("location");
    let mut acknowledged = 0;
    let part = installation.root.join("part");
    for round in 0..6_u64 {
        // A whole chunk that is acknowledged, and one that the kill breaks off.
        let next = acknowledged + 1_000_000;
        fs::write(&part, &bytes[acknowledged..next]).unwrap();
        let range = format!("Content-Range: {acknowledged}-{}", next - 1);
        let part_name = part.to_str().unwrap();
        server
            .curl(
                &[
                    "--request",
                    "PATCH",
                    "--header",
                    &range,
                    "--upload-file",
                    part_name,
                ],
                &location,
            )
            .expect(202);
        fs::write(&part, &bytes[next..]).unwrap();
        let mut client = Command::new("curl")
            .args([
                "--silent",
                "--request",
                "PATCH",
                "--limit-rate",
                "20M",
                "--upload-file",
                part_name,
            ])
            .arg(format!("{}{location}", server.url))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + 23 * round));
        server.crash(&[]);
        let _ = client.kill();
        let _ = client.wait();
        let status = server.get(&location).expect(204).header("range");
        let last: usize = status.split_once('-').unwrap().1.parse().unwrap();
        assert!(last + 1 >= next, "{last} of {next} acknowledged");
        acknowledged = last + 1;
    }
    fs::write(&part, &bytes[acknowledged..]).unwrap();
    let range = format!("Content-Range: {acknowledged}-{}", bytes.len() - 1);
    let finish = format!("{location}?digest={digest}");
    server
        .curl(
            &[
                "--request",
                "PUT",
                "--header",
                &range,
                "--upload-file",
                part.to_str().unwrap(),
            ],
            &finish,
        )
        .expect(201);
    server.crash(&[]);
    let blob = server.get(&format!("/v2/a/blobs/{digest}")).expect(200);
    assert!(blob.body == bytes);
    assert_eq!(
        fs::read_dir(server.root.join("uploads")).unwrap().count(),
        0
    );
}

/// Killed right behind each acknowledgement: blob, manifest and tag are there.
#[test]
fn what_is_acknowledged_stays() {
    let installation = Installation::new();
    let mut server = Server::start(&installation, &[]);
    let part = installation.root.join("part");
    for round in 0..5 {
        let config = format!("{{\"round\":{round}}}");
        fs::write(&part, &config).unwrap();
        let digest = sha256(&part);
        let upload = format!("/v2/a/blobs/uploads/?digest={digest}");
        let body = format!("@{}", part.display());
        server
            .curl(&["--request", "POST", "--data-binary", &body], &upload)
            .expect(201);
        server.crash(&[]);
        assert_eq!(
            text(
                &server
                    .get(&format!("/v2/a/blobs/{digest}"))
                    .expect(200)
                    .body
            ),
            config
        );
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"a/b","digest":"{digest}","size":11}},"layers":[]}}"#
        );
        let content_type = format!("Content-Type: {kind}");
        let put = [
            "--request",
            "PUT",
            "--header",
            &content_type,
            "--data-binary",
            &manifest,
        ];
        server.curl(&put, "/v2/a/manifests/latest").expect(201);
        server.crash(&[]);
        assert_eq!(
            text(&server.get("/v2/a/manifests/latest").expect(200).body),
            manifest
        );
        server
            .curl(&["--request", "DELETE"], "/v2/a/manifests/latest")
            .expect(202);
        server.crash(&[]);
        server.get("/v2/a/manifests/latest").expect(404);
    }
}

/// SIGTERM lets what is under way end, takes nothing new, and is no failure.
#[test]
fn stopping_lets_requests_end() {
    let installation = Installation::new();
    let mut server = Server::start(&installation, &[]);
    let location = server
        .curl(&["--request", "POST"], "/v2/a/blobs/uploads/")
        .expect(202)
        .header("location");
    let file = installation.root.join("blob");
    fs::write(&file, vec![7; 3_000_000]).unwrap();
    let client = Command::new("curl")
        .args([
            "--silent",
            "--include",
            "--request",
            "PATCH",
            "--limit-rate",
            "3M",
            "--upload-file",
        ])
        .arg(&file)
        .arg(format!("{}{location}", server.url))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.terminate(), Some(0));
    let answer = text(&client.wait_with_output().unwrap().stdout);
    assert!(answer.contains(" 202 "), "{answer}");
    assert!(answer.contains("0-2999999"), "{answer}");
}

/// Connections take several descriptors each, which the usual soft limit is too low for.
#[test]
fn the_limit_of_open_files_is_raised() {
    let installation = Installation::new();
    assert_eq!(Server::start(&installation, &[]).open_files(), 4096);
}
