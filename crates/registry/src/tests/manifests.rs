use super::Served;
use super::client::manifest;
use gantry_image::Digest;
use gantry_image::model::media_type;
use serde_json::json;

#[test]
fn by_tag_and_by_digest() {
    let served = Served::new();
    let peer = &served.peer;
    let (document, digest) = peer.push_image("lib/a", "v1", b"layer");
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/lib/a/manifests/{reference}");
        let reply = peer.get(&path).expect(200);
        assert_eq!(reply.text(), document.to_string());
        assert_eq!(reply.header("content-type"), media_type::MANIFEST);
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        let head = peer.send("HEAD", &path, &[], b"").expect(200);
        assert_eq!(
            head.header("content-length"),
            document.to_string().len().to_string()
        );
        assert!(head.body.is_empty());
        let etag = reply.header("etag").to_owned();
        peer.send("GET", &path, &[("If-None-Match", &etag)], b"")
            .expect(304);
    }
    assert_eq!(
        peer.get("/v2/lib/a/manifests/v2").expect(404).code(),
        "MANIFEST_UNKNOWN"
    );
    let elsewhere = format!("/v2/lib/b/manifests/{digest}");
    assert_eq!(peer.get(&elsewhere).expect(404).code(), "MANIFEST_UNKNOWN");
    let other = Digest::of(b"other").to_string();
    assert_eq!(
        peer.put_manifest("lib/a", &other, &document)
            .expect(400)
            .code(),
        "DIGEST_INVALID"
    );
}

#[test]
fn what_is_referred_to_must_be_there() {
    let served = Served::new();
    let peer = &served.peer;
    let config = peer.push_blob("a", b"{}");
    let elsewhere = peer.push_blob("b", b"layer");
    let document = manifest(&config, 2, &elsewhere, 5);
    let reply = peer.put_manifest("a", "v1", &document).expect(404);
    assert_eq!(reply.code(), "MANIFEST_BLOB_UNKNOWN");
    assert!(reply.text().contains(&elsewhere.to_string()));
    peer.get("/v2/a/manifests/v1").expect(404);
    let index = |digest: &Digest| {
        json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [{
            "mediaType": media_type::MANIFEST, "digest": digest.to_string(), "size": 1,
            "platform": { "os": "linux", "architecture": "amd64" } }] })
    };
    let missing = peer.put_manifest("a", "v1", &index(&elsewhere)).expect(404);
    assert_eq!(missing.code(), "MANIFEST_BLOB_UNKNOWN");
    let (_, digest) = peer.push_image("a", "v1", b"x");
    peer.put_manifest("a", "all", &index(&digest)).expect(201);
}

/// CVE-2021-41190, CVE-2023-25153.
#[test]
fn ambiguous_and_oversized_ones_are_refused() {
    let served = Served::new();
    let peer = &served.peer;
    let (mut document, _) = peer.push_image("a", "v1", b"x");
    let index = [("Content-Type", media_type::INDEX)];
    let body = document.to_string();
    let reply = peer.send("PUT", "/v2/a/manifests/v2", &index, body.as_bytes());
    assert_eq!(reply.expect(400).code(), "MANIFEST_INVALID");
    document["manifests"] = json!([]);
    assert_eq!(
        peer.put_manifest("a", "v2", &document).expect(400).code(),
        "MANIFEST_INVALID"
    );
    let large = vec![b' '; (4 << 20) + 1];
    peer.send("PUT", "/v2/a/manifests/v2", &[], &large)
        .expect(413);
    // Without its length, it is read up to the limit and not further.
    let mut request = b"PUT /v2/a/manifests/v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                        Transfer-Encoding: chunked\r\n\r\n500001\r\n"
        .to_vec();
    request.resize(request.len() + 0x50_0001, b' ');
    let status = peer.raw(&request).status;
    // The refusal may be lost when the rest of the body meets a closed connection.
    assert!(status == 413 || status == 0, "{status}");
    peer.get("/v2/a/manifests/v2").expect(404);
}

#[test]
fn accept_decides_what_a_tag_gives() {
    let served = Served::new();
    let peer = &served.peer;
    let (_, digest) = peer.push_image("a", "single", b"x");
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::DOCKER_INDEX, "manifests": [{
        "mediaType": media_type::MANIFEST, "digest": digest.to_string(), "size": 1,
        "platform": { "os": "linux", "architecture": "amd64" } }] });
    peer.put_manifest("a", "multi", &index).expect(201);
    let get = |reference: &str, accept: &str| {
        peer.send(
            "GET",
            &format!("/v2/a/manifests/{reference}"),
            &[("Accept", accept)],
            b"",
        )
    };
    for accept in [
        "*/*",
        "application/*",
        media_type::DOCKER_INDEX,
        media_type::ACCEPT,
    ] {
        assert_eq!(
            get("multi", accept).expect(200).header("content-type"),
            media_type::DOCKER_INDEX
        );
    }
    // A client without indexes gets the image for linux on amd64.
    let substitute = get("multi", media_type::MANIFEST).expect(200);
    assert_eq!(
        substitute.header("docker-content-digest"),
        digest.to_string()
    );
    assert_eq!(
        get("single", media_type::DOCKER_MANIFEST)
            .expect(404)
            .code(),
        "MANIFEST_UNKNOWN"
    );
    get(&digest.to_string(), media_type::DOCKER_MANIFEST).expect(200);
}

#[test]
fn deletion_and_its_switch() {
    let served = Served::new();
    let peer = &served.peer;
    let (document, digest) = peer.push_image("a", "v1", b"x");
    peer.put_manifest("a", "v2", &document).expect(201);
    peer.send("DELETE", "/v2/a/manifests/v1", &[], b"")
        .expect(202);
    peer.send("DELETE", "/v2/a/manifests/v1", &[], b"")
        .expect(404);
    peer.get(&format!("/v2/a/manifests/{digest}")).expect(200);
    peer.send("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"")
        .expect(202);
    peer.get("/v2/a/manifests/v2").expect(404);
    assert_eq!(
        peer.get("/v2/a/tags/list").expect(200).json()["tags"],
        json!([])
    );

    // CVE-2026-41888: deletion that is off is off for tags too.
    let served = Served::with(|options| options.deletion = false);
    let peer = &served.peer;
    let (_, digest) = peer.push_image("a", "v1", b"x");
    for path in [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/manifests/{digest}"),
        format!("/v2/a/blobs/{}", Digest::of(b"x")),
    ] {
        assert_eq!(
            peer.send("DELETE", &path, &[], b"").expect(405).code(),
            "UNSUPPORTED"
        );
        peer.get(&path).expect(200);
    }
    let location = peer.start("a");
    peer.send("DELETE", &location, &[], b"").expect(204);
}

/// The last of several pushes of a tag wins, and the others stay under their digests.
#[test]
fn concurrent_pushes_of_one_tag() {
    let served = Served::new();
    let peer = &served.peer;
    let digests: Vec<Digest> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u8)
            .map(|number| scope.spawn(move || peer.push_image("a", "tag", &[number; 100]).1))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let winner = peer.get("/v2/a/manifests/tag").expect(200);
    let winner = winner.header("docker-content-digest");
    assert!(digests.iter().any(|digest| digest.to_string() == winner));
    for digest in digests {
        peer.get(&format!("/v2/a/manifests/{digest}")).expect(200);
    }
}

/// Large ones take other ways in and out than small ones.
#[test]
fn large_manifests_are_whole() {
    let served = Served::new();
    let peer = &served.peer;
    let config = peer.push_blob("a", b"{}");
    let mut document = manifest(&config, 2, &config, 2);
    document["annotations"] = json!({ "long": "x".repeat(3 << 20) });
    peer.put_manifest("a", "v1", &document).expect(201);
    let text = document.to_string();
    let reply = peer.get("/v2/a/manifests/v1").expect(200);
    assert!(reply.text() == text);
    assert_eq!(reply.header("content-length"), text.len().to_string());
    let chunked = format!(
        "PUT /v2/a/manifests/v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
        media_type::MANIFEST,
        text.len()
    );
    peer.raw(chunked.as_bytes()).expect(201);
    assert!(peer.get("/v2/a/manifests/v2").expect(200).text() == text);
}

/// While a manifest is deleted somebody pushes it again under a new tag: either the tag is gone
/// too, or the manifest is there.
#[test]
fn no_tag_dangles() {
    let served = Served::new();
    let peer = &served.peer;
    let (document, digest) = peer.push_image("a", "v", b"layer");
    let path = format!("/v2/a/manifests/{digest}");
    for round in 0..40 {
        std::thread::scope(|scope| {
            for pusher in 0..3 {
                let document = &document;
                scope.spawn(move || {
                    let tag = format!("v{round}-{pusher}");
                    peer.put_manifest("a", &tag, document).expect(201);
                });
            }
            scope.spawn(|| {
                for _ in 0..3 {
                    peer.send("DELETE", &path, &[], b"");
                }
            });
        });
        let tags = peer.get("/v2/a/tags/list").expect(200).json();
        for tag in tags["tags"].as_array().unwrap() {
            let tag = tag.as_str().unwrap();
            peer.get(&format!("/v2/a/manifests/{tag}")).expect(200);
        }
    }
}

/// Who asks for a manifest by its digest may be about to push an index of it: the collector
/// leaves it alone from there on.
#[test]
fn what_was_asked_for_is_young_again() {
    let served = Served::new();
    let peer = &served.peer;
    let pushed = |mark: &str| {
        let config = peer.push_blob("a", b"{}");
        let layer = peer.push_blob("a", mark.as_bytes());
        let document = manifest(&config, 2, &layer, mark.len());
        let digest = Digest::of(document.to_string().as_bytes());
        peer.put_manifest("a", &digest.to_string(), &document)
            .expect(201);
        digest
    };
    let (forgotten, asked, as_blob) = (pushed("1"), pushed("2"), pushed("3"));
    age(&served.root());
    for path in [
        format!("/v2/a/manifests/{asked}"),
        format!("/v2/a/blobs/{as_blob}"),
    ] {
        peer.send("HEAD", &path, &[], b"").expect(200);
    }
    let options = crate::CollectOptions {
        untagged: true,
        ..crate::CollectOptions::default()
    };
    let collected = crate::collect(&served.root(), &options).unwrap();
    assert_eq!(collected.manifests, [format!("a@{forgotten}")]);
    peer.get(&format!("/v2/a/manifests/{asked}")).expect(200);
    for layer in ["2", "3"] {
        let digest = Digest::of(layer.as_bytes());
        peer.get(&format!("/v2/a/blobs/{digest}")).expect(200);
    }
}

/// Makes every file below look two hours old.
fn age(directory: &std::path::Path) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        } else {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(then).unwrap();
        }
    }
}
