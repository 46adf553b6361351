//! What nobody sends by accident.

use super::Served;
use super::client::read_reply;
use crate::Limits;
use gantry_image::Digest;
use std::io::Write;
use std::time::{Duration, Instant};

/// CVE-2024-3727, CVE-2014-9358: no name becomes a path outside, whatever its spelling.
#[test]
fn names_stay_inside() {
    let served = Served::new();
    let canary = served.directory.path().join("canary");
    std::fs::write(&canary, "here").unwrap();
    let digest = Digest::of(b"x");
    let long = "a".repeat(256);
    for name in [
        "..",
        "../..",
        "a/../..",
        "%2e%2e",
        "%2e%2e/%2e%2e",
        "a%2f..%2f..",
        "%252e%252e",
        "a/./b",
        "_blobs",
        "a/_tags",
        "a//b",
        "a%00b",
        "A",
        "a%5c..%5cb",
        &long,
    ] {
        for (method, path) in [
            ("POST", format!("/v2/{name}/blobs/uploads/")),
            ("POST", format!("/v2/{name}/blobs/uploads/?digest={digest}")),
            ("GET", format!("/v2/{name}/blobs/{digest}")),
            ("GET", format!("/v2/{name}/tags/list")),
            ("PUT", format!("/v2/{name}/manifests/x")),
            ("DELETE", format!("/v2/{name}/manifests/x")),
            ("GET", format!("/v2/{name}/referrers/{digest}")),
        ] {
            let status = served.peer.send(method, &path, &[], b"x").status;
            assert!(status == 400 || status == 404, "{method} {path}: {status}");
        }
    }
    for path in [
        "/v2/a/manifests/..",
        "/v2/a/manifests/%2e%2e%2fx",
        "/v2/a/manifests/.x",
    ] {
        let reply = served.peer.send("PUT", path, &[], b"{}");
        assert!(matches!(reply.status, 400 | 404), "{path}");
    }
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "here");
    assert_eq!(
        std::fs::read_dir(served.root().join("repositories"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::read_dir(served.root().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn methods_that_are_not_there() {
    let served = Served::new();
    for (method, path) in [
        ("POST", "/v2/"),
        ("PUT", "/v2/_catalog"),
        ("PUT", "/v2/a/tags/list"),
        ("GET", "/v2/a/blobs/uploads/"),
        ("POST", "/v2/a/manifests/x"),
        ("TRACE", "/v2/a/manifests/x"),
    ] {
        let reply = served.peer.send(method, path, &[], b"").expect(405);
        assert_eq!(reply.code(), "UNSUPPORTED");
        assert!(!reply.header("allow").is_empty());
    }
    served.peer.get("/").expect(404);
}

#[test]
fn headers_are_bounded() {
    let served = Served::new();
    let long = "x".repeat(1 << 20);
    let status = served
        .peer
        .send("GET", "/v2/", &[("X-Long", &long)], b"")
        .status;
    assert!(status == 431 || status == 0, "{status}");
    let many: Vec<(String, &str)> = (0..500).map(|i| (format!("X-{i}"), "y")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let status = served.peer.send("GET", "/v2/", &many, b"").status;
    assert!(status == 431 || status == 0, "{status}");
    served.peer.get("/v2/").expect(200);
}

/// A body without end is cut off at the limit, and nothing of it stays.
#[test]
fn an_endless_blob_ends() {
    let served = Served::with(|options| {
        options.limits = Limits {
            blob: 1 << 20,
            ..Limits::default()
        };
    });
    let location = served.peer.start("a");
    let too_long = vec![0; (1 << 20) + 1];
    served
        .peer
        .send("PATCH", &location, &[], &too_long)
        .expect(400);
    let mut stream = served.peer.connect();
    let head =
        format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![0; 0x10000], b"\r\n".to_vec()].concat();
    let sent = (0..4096)
        .take_while(|_| stream.write_all(&chunk).is_ok())
        .count();
    assert!(sent < 4096, "256 MiB were taken");
    drop(stream);
    assert_eq!(served.peer.get(&location).header("range"), "0-0");
}

/// Clients that say nothing, or next to nothing, do not stay.
#[test]
fn slow_clients_are_given_up() {
    let served = Served::with(|options| {
        options.limits = Limits {
            idle: Duration::from_millis(600),
            ..Limits::default()
        };
    });
    let location = served.peer.start("a");
    let begun = Instant::now();
    // Half a header, and a body of which a byte comes now and then.
    let mut header = served.peer.connect();
    header.write_all(b"GET /v2/ HTT").unwrap();
    let mut body = served.peer.connect();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
    body.write_all(head.as_bytes()).unwrap();
    let mut trickle = body.try_clone().unwrap();
    let trickling = std::thread::spawn(move || {
        for _ in 0..100 {
            if trickle.write_all(b"x").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert_eq!(read_reply(&mut body).status, 408);
    drop(body);
    read_reply(&mut header);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    trickling.join().unwrap();
    served.peer.get("/v2/").expect(200);
}

/// Whoever does not read what he asked for is given up as well.
#[test]
fn clients_that_do_not_read_are_given_up() {
    let served = Served::with(|options| {
        options.limits = Limits {
            idle: Duration::from_millis(500),
            connections: 1,
            ..Limits::default()
        };
    });
    let digest = served.peer.push_blob("a", &vec![1; 32 << 20]);
    let mut stream = served.peer.connect();
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    // There is one connection: this one waits until the other is given up.
    let begun = Instant::now();
    served.peer.get("/v2/").expect(200);
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(stream);
}

#[test]
fn uploads_are_counted() {
    let served = Served::with(|options| {
        options.limits = Limits {
            uploads: 3,
            repository_uploads: 2,
            ..Limits::default()
        };
    });
    let peer = &served.peer;
    let started = |name: &str| {
        let location = peer.start(name);
        peer.send("PATCH", &location, &[], b"x").expect(202);
        location
    };
    let refused = |name: &str| {
        let path = format!("/v2/{name}/blobs/uploads/");
        let reply = peer.send("POST", &path, &[], b"").expect(429);
        assert_eq!(reply.code(), "TOOMANYREQUESTS");
    };
    let first = started("a");
    started("a");
    // One repository does not take the place of the others.
    refused("a");
    started("b");
    refused("b");
    refused("c");
    peer.send("DELETE", &first, &[], b"").expect(204);
    peer.start("c");
}

/// Uploads that were only started keep nobody out: the oldest of them makes room.
#[test]
fn empty_uploads_make_room() {
    let served = Served::with(|options| {
        options.limits = Limits {
            uploads: 3,
            repository_uploads: 2,
            ..Limits::default()
        };
    });
    let peer = &served.peer;
    let there = |location: &str| peer.get(location).status == 204;
    let used = peer.start("a");
    peer.send("PATCH", &used, &[], b"x").expect(202);
    let oldest = peer.start("b");
    std::thread::sleep(Duration::from_millis(20));
    let in_a = peer.start("a");
    // The repository is full: its own makes room. Then the whole registry is: the oldest does.
    let next = peer.start("a");
    assert!(there(&used) && there(&oldest) && !there(&in_a) && there(&next));
    std::thread::sleep(Duration::from_millis(20));
    let last = peer.start("c");
    assert!(there(&used) && !there(&oldest) && there(&next) && there(&last));
    // One that is being written stays.
    let mut writing = peer.connect();
    let head = format!("PATCH {next} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
    writing.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    peer.start("d");
    assert!(!there(&last));
    drop(writing);
    assert!(there(&next));
}

/// A body in the smallest chunks there are is kept in as little memory as any other.
#[test]
fn chunks_of_one_byte() {
    let served = Served::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(400_000).collect();
    let chunked: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| [b'1', b'\r', b'\n', *byte, b'\r', b'\n'])
        .chain(*b"0\r\n\r\n")
        .collect();
    let digest = Digest::of(&bytes);
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    served
        .peer
        .raw(&[head.into_bytes(), chunked].concat())
        .expect(201);
    let reply = served
        .peer
        .get(&format!("/v2/a/blobs/{digest}"))
        .expect(200);
    assert!(reply.body == bytes);
}

/// Two requests that write one upload do not mix: the second waits, and then is out of order.
#[test]
fn one_writer_at_a_time() {
    let served = Served::new();
    let location = served.peer.start("a");
    let mut first = served.peer.connect();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Range: 0-9\r\nContent-Length: 10\r\n\r\nhello"
    );
    first.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let peer = &served.peer;
    std::thread::scope(|scope| {
        let second =
            scope.spawn(|| peer.send("PATCH", &location, &[("Content-Range", "0-4")], b"xxxxx"));
        std::thread::sleep(Duration::from_millis(200));
        first.write_all(b"world").unwrap();
        assert_eq!(read_reply(&mut first).status, 202);
        assert_eq!(second.join().unwrap().status, 416);
    });
    let digest = Digest::of(b"helloworld");
    peer.send("PUT", &format!("{location}?digest={digest}"), &[], b"")
        .expect(201);
}
