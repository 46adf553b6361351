use super::Served;
use super::client::read_reply;
use gantry_image::Digest;
use std::io::Write;
use std::time::{Duration, Instant};

fn blob_path(name: &str, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

#[test]
fn in_one_request_and_in_two() {
    let served = Served::new();
    let peer = &served.peer;
    for size in [0, 1, 100_000, 3 << 20] {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8).collect();
        let digest = Digest::of(&bytes);
        assert_eq!(peer.push_blob("one", &bytes), digest);
        let location = peer.start("two");
        let reply = peer.send("PUT", &format!("{location}?digest={digest}"), &[], &bytes);
        assert_eq!(
            reply.expect(201).header("location"),
            blob_path("two", &digest)
        );
        for name in ["one", "two"] {
            let reply = peer.get(&blob_path(name, &digest)).expect(200);
            assert_eq!(reply.body, bytes);
            assert_eq!(reply.header("docker-content-digest"), digest.to_string());
            let head = peer
                .send("HEAD", &blob_path(name, &digest), &[], b"")
                .expect(200);
            assert_eq!(head.header("content-length"), size.to_string());
            assert!(head.body.is_empty());
        }
    }
}

#[test]
fn in_chunks() {
    let served = Served::new();
    let peer = &served.peer;
    let bytes = vec![7; 1000];
    let digest = Digest::of(&bytes);
    let location = peer.start("a");
    let patch = |range: &str, bytes: &[u8]| {
        peer.send("PATCH", &location, &[("Content-Range", range)], bytes)
    };
    // Out of order, malformed, and of another length than the body.
    let early = patch("5-9", &bytes[..5]).expect(416);
    assert_eq!(early.code(), "RANGE_INVALID");
    assert_eq!(early.header("location"), location);
    for range in [
        "x",
        "9-5",
        "-5",
        "0-99999999999999999999",
        "0-18446744073709551615",
    ] {
        assert_eq!(
            patch(range, b"x").expect(416).code(),
            "RANGE_INVALID",
            "{range}"
        );
    }
    assert_eq!(patch("0-9", b"x").expect(400).code(), "SIZE_INVALID");
    assert_eq!(
        patch("0-399", &bytes[..400]).expect(202).header("range"),
        "0-399"
    );
    // The same chunk once more: the answer says where to go on.
    let again = patch("0-399", &bytes[..400]).expect(416);
    assert_eq!(again.header("range"), "0-399");
    let status = peer.get(&location).expect(204);
    assert_eq!(status.header("range"), "0-399");
    assert_eq!(status.header("location"), location);
    assert_eq!(
        patch("400-899", &bytes[400..900])
            .expect(202)
            .header("range"),
        "0-899"
    );
    let finish = format!("{location}?digest={digest}");
    let reply = peer.send(
        "PUT",
        &finish,
        &[("Content-Range", "900-999")],
        &bytes[900..],
    );
    reply.expect(201);
    assert_eq!(peer.get(&blob_path("a", &digest)).expect(200).body, bytes);
    assert_eq!(
        peer.get(&location).expect(404).code(),
        "BLOB_UPLOAD_UNKNOWN"
    );
}

/// A body with `Transfer-Encoding: chunked` that is longer than its `Content-Range` leaves
/// nothing behind.
#[test]
fn a_chunk_is_as_long_as_it_says() {
    let served = Served::new();
    let location = served.peer.start("a");
    let send = |body: &str| {
        let request = format!(
            "PATCH {location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Range: 0-3\r\n\
             Transfer-Encoding: chunked\r\n\r\n{body}"
        );
        served.peer.raw(request.as_bytes())
    };
    assert_eq!(
        send("5\r\nabcde\r\n0\r\n\r\n").expect(400).code(),
        "SIZE_INVALID"
    );
    assert_eq!(served.peer.get(&location).header("range"), "0-0");
    send("4\r\nabcd\r\n0\r\n\r\n").expect(202);
    let digest = Digest::of(b"abcd");
    served
        .peer
        .send("PUT", &format!("{location}?digest={digest}"), &[], b"")
        .expect(201);
}

#[test]
fn wrong_digests_leave_nothing() {
    let served = Served::new();
    let peer = &served.peer;
    let wrong = Digest::of(b"other");
    let reply = peer.send(
        "POST",
        &format!("/v2/a/blobs/uploads/?digest={wrong}"),
        &[],
        b"bytes",
    );
    assert_eq!(reply.expect(400).code(), "DIGEST_INVALID");
    let location = peer.start("a");
    let reply = peer.send("PUT", &format!("{location}?digest={wrong}"), &[], b"bytes");
    assert_eq!(reply.expect(400).code(), "DIGEST_INVALID");
    peer.get(&location).expect(404);
    let sha512 = format!("sha512:{}", "a".repeat(128));
    for digest in ["", "x", "sha256:abc", "sha256:..%2f..%2fx", &sha512] {
        let location = peer.start("a");
        let reply = peer.send("PUT", &format!("{location}?digest={digest}"), &[], b"");
        assert_eq!(reply.expect(400).code(), "DIGEST_INVALID", "{digest}");
    }
    for digest in [wrong, Digest::of(b"bytes")] {
        assert_eq!(
            peer.get(&blob_path("a", &digest)).expect(404).code(),
            "BLOB_UNKNOWN"
        );
    }
    assert_eq!(
        std::fs::read_dir(served.root().join("blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn cancelled_uploads_are_gone() {
    let served = Served::new();
    let location = served.peer.start("a");
    served.peer.send("DELETE", &location, &[], b"").expect(204);
    for method in ["GET", "PATCH", "DELETE"] {
        let reply = served.peer.send(method, &location, &[], b"").expect(404);
        assert_eq!(reply.code(), "BLOB_UPLOAD_UNKNOWN", "{method}");
    }
    assert_eq!(
        std::fs::read_dir(served.root().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}

/// What was acknowledged is there after a restart, and the hash goes on over the gap. A
/// connection that broke in the middle of a chunk keeps what came.
#[test]
fn uploads_survive_a_restart_and_broken_connections() {
    let mut served = Served::new();
    let bytes: Vec<u8> = (0..900_000_u32).map(|i| (i % 241) as u8).collect();
    let digest = Digest::of(&bytes);
    let location = served.peer.start("a");
    served
        .peer
        .send("PATCH", &location, &[], &bytes[..300_000])
        .expect(202);
    served.restart();
    let status = served.peer.get(&location).expect(204);
    assert_eq!(status.header("range"), "0-299999");
    let mut stream = served.peer.connect();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes[300_000..500_000]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(read_reply(&mut stream));
    let status = served.peer.get(&location).expect(204);
    let (_, last) = status.header("range").split_once('-').unwrap();
    let next = last.parse::<usize>().unwrap() + 1;
    assert_eq!(next, 500_000);
    let range = format!("{next}-899999");
    let finish = format!("{location}?digest={digest}");
    served
        .peer
        .send("PUT", &finish, &[("Content-Range", &range)], &bytes[next..])
        .expect(201);
    served.restart();
    assert_eq!(
        served.peer.get(&blob_path("a", &digest)).expect(200).body,
        bytes
    );
}

/// CVE-2026-35172, CVE-2024-39897: a blob is served only where it was pushed or mounted.
#[test]
fn repositories_are_apart() {
    let served = Served::new();
    let peer = &served.peer;
    let digest = peer.push_blob("a", b"secret");
    for method in ["GET", "HEAD", "DELETE"] {
        peer.send(method, &blob_path("b", &digest), &[], b"")
            .expect(404);
    }
    let mount = |query: &str| peer.send("POST", &format!("/v2/b/blobs/uploads/?{query}"), &[], b"");
    // Without a source, from one that does not have it, and from none.
    mount(&format!("mount={digest}")).expect(202);
    mount(&format!("mount={digest}&from=c")).expect(202);
    assert_eq!(
        mount(&format!("mount={digest}&from=../a"))
            .expect(400)
            .code(),
        "NAME_INVALID"
    );
    assert_eq!(mount("mount=x&from=a").expect(400).code(), "DIGEST_INVALID");
    peer.get(&blob_path("b", &digest)).expect(404);
    let mounted = mount(&format!("mount={digest}&from=a")).expect(201);
    assert_eq!(mounted.header("location"), blob_path("b", &digest));
    assert_eq!(
        peer.get(&blob_path("b", &digest)).expect(200).body,
        b"secret"
    );
    peer.send("DELETE", &blob_path("a", &digest), &[], b"")
        .expect(202);
    peer.get(&blob_path("a", &digest)).expect(404);
    peer.get(&blob_path("b", &digest)).expect(200);
    // An upload belongs to the repository that it was started in.
    let location = peer.start("a").replace("/v2/a/", "/v2/b/");
    peer.send("PATCH", &location, &[], b"x").expect(404);
}

#[test]
fn parts_and_conditions() {
    let served = Served::new();
    let peer = &served.peer;
    let bytes: Vec<u8> = (0..=255).cycle().take(600_000).collect();
    let digest = peer.push_blob("a", &bytes);
    let path = blob_path("a", &digest);
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=100-299999", 100, 299_999),
        ("bytes=599999-", 599_999, 599_999),
        ("bytes=-10", 599_990, 599_999),
        ("bytes=5-9999999", 5, 599_999),
    ] {
        let reply = peer
            .send("GET", &path, &[("Range", range)], b"")
            .expect(206);
        assert_eq!(reply.body, bytes[first..=last], "{range}");
        assert_eq!(
            reply.header("content-range"),
            format!("bytes {first}-{last}/600000")
        );
    }
    let beyond = peer
        .send("GET", &path, &[("Range", "bytes=600000-")], b"")
        .expect(416);
    assert_eq!(beyond.header("content-range"), "bytes */600000");
    let etag = peer.get(&path).header("etag").to_owned();
    assert_eq!(etag, format!("\"{digest}\""));
    for condition in [
        etag.as_str(),
        "*",
        "\"x\", W/\"y\"",
        &format!("\"x\", W/{etag}"),
    ] {
        let reply = peer.send("GET", &path, &[("If-None-Match", condition)], b"");
        let expected = if condition.contains("sha256") || condition == "*" {
            304
        } else {
            200
        };
        let reply = reply.expect(expected);
        assert_eq!(reply.body.is_empty(), expected == 304);
    }
    let other = [("Range", "bytes=0-0"), ("If-Range", "\"sha256:other\"")];
    peer.send("GET", &path, &other, b"").expect(200);
    let same = [("Range", "bytes=0-0"), ("If-Range", etag.as_str())];
    peer.send("GET", &path, &same, b"").expect(206);
}

/// An upload that nobody goes on with does not stay for ever, even where nobody collects.
#[test]
fn uploads_that_are_given_up_go() {
    let served = Served::new();
    let location = served.peer.start("a");
    served.peer.send("PATCH", &location, &[], b"x").expect(202);
    let root = served.root();
    let Served {
        directory, handle, ..
    } = served;
    handle.unwrap().stop();
    // Ages are counted in whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    let mut options = crate::Options::new(&root);
    options.limits.upload_age = Duration::ZERO;
    let handle = crate::serve(options).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while std::fs::read_dir(root.join("uploads")).unwrap().count() > 0 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
    handle.stop();
    drop(directory);
}
