//! Requests that could be understood in two ways, and two that want the same.

use super::Served;
use super::client::read_reply;
use gantry_image::Digest;
use gantry_image::model::media_type;
use serde_json::{Value, json};
use std::io::Write;

/// Manifests and indexes that the repository `a` has content for.
fn documents(served: &Served) -> (Value, Value) {
    let (image, digest) = served.peer.push_image("a", "image", b"layer");
    let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [{
        "mediaType": media_type::MANIFEST, "digest": digest.to_string(),
        "size": image.to_string().len()}]});
    (image, index)
}

/// U18 (CVE-2021-41190, GHSA-77vh-xpmg-72qh, GHSA-qq97-vm5h-rrhg, GHSA-xmmx-7jpf-fx42): what one
/// client takes for a manifest and another for an index is neither, and is not stored.
#[test]
fn documents_are_of_one_kind() {
    const KINDS: [&str; 4] = [
        media_type::MANIFEST,
        media_type::INDEX,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_INDEX,
    ];
    let served = Served::new();
    let (image, index) = documents(&served);
    let put = |kind: &str, body: &str| {
        let path = "/v2/a/manifests/doubtful";
        let headers = [("Content-Type", kind)];
        served.peer.send("PUT", path, &headers, body.as_bytes())
    };
    for (document, own) in [(&image, [0, 2]), (&index, [1, 3])] {
        for (number, served_as) in KINDS.iter().enumerate() {
            for body_says in KINDS.iter().map(Some).chain([None]) {
                let mut document = document.clone();
                match body_says {
                    Some(kind) => document["mediaType"] = json!(kind),
                    None => drop(document.as_object_mut().unwrap().remove("mediaType")),
                }
                let agrees = body_says.is_none_or(|says| says == served_as);
                let expected = if own.contains(&number) && agrees {
                    201
                } else {
                    400
                };
                let body = document.to_string();
                let reply = put(served_as, &body).expect(expected);
                if expected == 400 {
                    assert_eq!(reply.code(), "MANIFEST_INVALID");
                    continue;
                }
                // It comes back as what it was, to the byte.
                let back = served.peer.get("/v2/a/manifests/doubtful").expect(200);
                assert_eq!(
                    (back.header("content-type"), back.text()),
                    (*served_as, body)
                );
                served
                    .peer
                    .send("DELETE", "/v2/a/manifests/doubtful", &[], b"")
                    .expect(202);
            }
        }
    }

    let text = image.to_string();
    let list = index["manifests"].to_string();
    let with = |member: &str| text.replacen('{', &format!("{{{member},"), 1);
    let config = image["config"].to_string();
    let hidden = Digest::of(b"hidden");
    let both: Vec<String> = vec![
        with(&format!("\"manifests\":{list}")),
        with("\"manifests\":[]"),
        with("\"manifests\":null"),
        with(&format!("\"Manifests\":{list}")),
        with("\"manifest\\u0073\":[]"),
        with("\"LAYERS\":[]"),
        with("\"layers\":[]"),
        with(&format!("\"config\":{config}")),
        with(&format!("\"mediaType\":\"{}\"", media_type::INDEX)),
        with("\"fsLayers\":[],\"signatures\":[]"),
        with("\"schemaVersion\":1"),
        with("\"Subject\":null"),
        // What is checked is not what Go would read.
        text.replace(
            "\"digest\":",
            &format!("\"Digest\":\"{hidden}\",\"digest\":"),
        ),
        text.replace("\"size\":", "\"SIZE\":1,\"size\":"),
        text.replace(
            "\"digest\":",
            &format!("\"digest\":\"{hidden}\",\"digest\":"),
        ),
        format!("[{text}]"),
        format!("{text}{text}"),
        format!("{text}\0"),
        format!("\u{feff}{text}"),
    ];
    for body in both {
        for kind in [
            media_type::MANIFEST,
            media_type::INDEX,
            "application/json",
            "",
        ] {
            let reply = put(kind, &body).expect(400);
            assert_eq!(reply.code(), "MANIFEST_INVALID", "{kind}: {body}");
        }
    }
    served.peer.get("/v2/a/manifests/doubtful").expect(404);
    let tags = served.peer.get("/v2/a/tags/list").json();
    assert_eq!(tags["tags"], json!(["image"]));
}

/// A type said twice is said once, or not at all.
#[test]
fn content_types_that_disagree() {
    let served = Served::new();
    let (image, _) = documents(&served);
    let body = image.to_string();
    for kinds in [
        [media_type::MANIFEST, media_type::INDEX],
        [media_type::INDEX, media_type::MANIFEST],
    ] {
        let headers = kinds.map(|kind| ("Content-Type", kind));
        let status = served
            .peer
            .send("PUT", "/v2/a/manifests/two", &headers, body.as_bytes())
            .status;
        // Whichever counts, what comes back is what it is.
        assert!(matches!(status, 201 | 400), "{kinds:?}: {status}");
        let back = served.peer.get("/v2/a/manifests/two");
        assert!(back.status == 404 || back.header("content-type") == media_type::MANIFEST);
    }
    let listed = format!("{}, {}", media_type::MANIFEST, media_type::INDEX);
    let headers = [("Content-Type", listed.as_str())];
    served
        .peer
        .send("PUT", "/v2/a/manifests/three", &headers, body.as_bytes())
        .expect(400);
}

/// U22, G07 (CVE-2024-3727): of a digest that stands twice in a query the bytes match the one
/// that the answer names, or nothing is stored.
#[test]
fn queries_that_say_two_things() {
    let served = Served::new();
    let peer = &served.peer;
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    for (query, body) in [
        (format!("digest={one}&digest={two}"), "two"),
        (format!("digest={one}&Digest={two}"), "two"),
        (format!("digest={one}&digest={one}"), "two"),
        (format!("digest={two}%26digest={one}"), "two"),
        (format!("digest={one}%00"), "one"),
        (format!("digest={one}%0d%0aX:y"), "one"),
        (format!("digest=%20{one}"), "one"),
    ] {
        let path = format!("/v2/a/blobs/uploads/?{query}");
        let reply = peer.send("POST", &path, &[], body.as_bytes()).expect(400);
        assert_eq!(reply.code(), "DIGEST_INVALID", "{query}");
        for digest in [one, two] {
            peer.get(&format!("/v2/a/blobs/{digest}")).expect(404);
        }
    }
    // A mount that does not work is an upload of what follows, and not a blob of its body.
    let path = format!("/v2/a/blobs/uploads/?mount={one}&from=b&digest={two}");
    peer.send("POST", &path, &[], b"two").expect(202);
    peer.get(&format!("/v2/a/blobs/{two}")).expect(404);
    let count = std::fs::read_dir(served.root().join("blobs/sha256"))
        .unwrap()
        .count();
    assert_eq!(count, 0);
}

/// Bodies of which two readers would see different ends: nothing after them is a request.
#[test]
fn bodies_have_one_length() {
    let served = Served::new();
    let digest = Digest::of(b"hello");
    let start = format!("POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\n");
    let hidden = "POST /v2/hidden/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    for (what, headers, body) in [
        (
            "two lengths",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "hello",
        ),
        ("two lengths in one", "Content-Length: 5, 6\r\n", "hello"),
        ("a sign", "Content-Length: +5\r\n", "hello"),
        ("negative", "Content-Length: -5\r\n", "hello"),
        ("hexadecimal", "Content-Length: 0x5\r\n", "hello"),
        (
            "beyond 64 bits",
            "Content-Length: 18446744073709551621\r\n",
            "hello",
        ),
        (
            "an unknown coding",
            "Transfer-Encoding: xchunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "chunked, and then another",
            "Transfer-Encoding: chunked, gzip\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk without size",
            "Transfer-Encoding: chunked\r\n",
            "\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk with a sign",
            "Transfer-Encoding: chunked\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk beyond 64 bits",
            "Transfer-Encoding: chunked\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a line that is folded",
            "Content-Length: 5\r\n X: y\r\n",
            "hello",
        ),
        (
            "a blank before the colon",
            "Content-Length : 5\r\n",
            "hello",
        ),
    ] {
        let request = format!("{start}{headers}\r\n{body}{hidden}");
        let mut stream = served.peer.connect();
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let reply = read_reply(&mut stream);
        assert!(
            matches!(reply.status, 0 | 400 | 408 | 411 | 413 | 501),
            "{what}: {reply:?}"
        );
        let blob = served.peer.get(&format!("/v2/a/blobs/{digest}"));
        assert_eq!(blob.status, 404, "{what}");
        let hidden = std::fs::read_dir(served.root().join("uploads")).unwrap();
        assert_eq!(hidden.count(), 0, "{what}");
    }
}

/// One upload that several want to finish, to go on with and to cancel: it becomes the blob that
/// it was said to be or none, and whoever was told of a success finds it.
#[test]
fn one_upload_is_finished_once() {
    let served = Served::new();
    let peer = &served.peer;
    for round in 0..20 {
        let bytes = format!("content of round {round}").into_bytes();
        let digest = Digest::of(&bytes);
        let longer = Digest::of(&[&bytes[..], b"more"].concat());
        let location = peer.start("a");
        peer.send("PATCH", &location, &[], &bytes).expect(202);
        let finish = |digest: &Digest| {
            let path = format!("{location}?digest={digest}");
            peer.send("PUT", &path, &[], b"").status
        };
        let (finished, mixed) = std::thread::scope(|scope| {
            let finishing: Vec<_> = (0..3).map(|_| scope.spawn(|| finish(&digest))).collect();
            let other = match round % 3 {
                0 => scope.spawn(|| peer.send("PATCH", &location, &[], b"more").status),
                1 => scope.spawn(|| peer.send("DELETE", &location, &[], b"").status),
                _ => scope.spawn(|| finish(&longer)),
            };
            let finished: Vec<u16> = finishing
                .into_iter()
                .map(|one| one.join().unwrap())
                .collect();
            (finished, other.join().unwrap())
        });
        let created = finished.iter().filter(|status| **status == 201).count();
        assert!(created <= 1, "{finished:?}");
        assert!(
            finished
                .iter()
                .all(|status| matches!(status, 201 | 400 | 404)),
            "{finished:?}"
        );
        // Nobody else succeeded who was not alone with it.
        assert!(created == 0 || matches!(mixed, 404), "{finished:?} {mixed}");
        let blob = peer.get(&format!("/v2/a/blobs/{digest}"));
        assert_eq!(blob.status, if created == 1 { 200 } else { 404 });
        assert!(created == 0 || blob.body == bytes);
        peer.get(&format!("/v2/a/blobs/{longer}")).expect(404);
        peer.get(&location).expect(404);
    }
    assert_eq!(
        std::fs::read_dir(served.root().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}
