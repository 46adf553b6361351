//! The pull-through cache in front of another server of ours.

use super::Served;
use crate::UpstreamOptions;
use gantry_image::Digest;
use gantry_image::registry::{ClientOptions, RetryPolicy};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn options(registry: String) -> UpstreamOptions {
    let client = ClientOptions {
        certificate_directories: Vec::new(),
        retry: RetryPolicy {
            retries: 0,
            delay: Duration::ZERO,
            ..RetryPolicy::default()
        },
        ..ClientOptions::default()
    };
    UpstreamOptions { registry, client }
}

fn mirror_of(registry: String) -> Served {
    Served::with(|served| served.upstream = Some(options(registry)))
}

#[test]
fn content_is_fetched_and_kept() {
    let mut upstream = Served::new();
    let layer: Vec<u8> = (0..700_000_u32).map(|i| (i % 239) as u8).collect();
    let (document, digest) = upstream.peer.push_image("a/b", "v1", &layer);
    let mirror = mirror_of(upstream.peer.address().to_string());
    let blob = format!("/v2/a/b/blobs/{}", Digest::of(&layer));
    // Nothing in this repository refers to it yet.
    mirror.peer.get(&blob).expect(404);
    let reply = mirror.peer.get("/v2/a/b/manifests/v1").expect(200);
    assert_eq!(reply.text(), document.to_string());
    assert_eq!(
        mirror
            .peer
            .send("HEAD", &blob, &[], b"")
            .expect(200)
            .header("content-length"),
        "700000"
    );
    let part = mirror
        .peer
        .send("GET", &blob, &[("Range", "bytes=10-19")], b"")
        .expect(206);
    assert_eq!(part.body, layer[10..20]);
    assert_eq!(mirror.peer.get(&blob).expect(200).body, layer);
    // In no other repository, though the store has it.
    mirror
        .peer
        .get(&format!("/v2/other/blobs/{}", Digest::of(&layer)))
        .expect(404);
    assert_eq!(
        mirror
            .peer
            .send("POST", "/v2/a/b/blobs/uploads/", &[], b"")
            .expect(405)
            .code(),
        "UNSUPPORTED"
    );
    assert_eq!(
        mirror.peer.get("/v2/a/b/manifests/v2").expect(404).code(),
        "MANIFEST_UNKNOWN"
    );
    // A tag that moves is followed.
    let (_, moved) = upstream.peer.push_image("a/b", "v1", b"other");
    let reply = mirror.peer.get("/v2/a/b/manifests/v1").expect(200);
    assert_eq!(reply.header("docker-content-digest"), moved.to_string());
    assert_eq!(
        mirror.peer.get("/v2/a/b/tags/list").json()["tags"],
        serde_json::json!(["v1"])
    );
    // What refers to an image is found through the mirror, and can be fetched.
    let config = upstream.peer.push_blob("a/b", b"{}");
    let mut signature = super::client::manifest(&config, 2, &config, 2);
    signature["subject"] =
        serde_json::json!({ "mediaType": "x/y", "digest": digest.to_string(), "size": 1 });
    let own = Digest::of(signature.to_string().as_bytes());
    upstream
        .peer
        .put_manifest("a/b", &own.to_string(), &signature)
        .expect(201);
    let listed = mirror
        .peer
        .get(&format!("/v2/a/b/referrers/{digest}"))
        .expect(200)
        .json();
    assert_eq!(listed["manifests"][0]["digest"], own.to_string());
    mirror
        .peer
        .get(&format!("/v2/a/b/manifests/{own}"))
        .expect(200);
    // Without its upstream the mirror has what it has.
    drop(upstream.handle.take());
    mirror.peer.get("/v2/a/b/manifests/v1").expect(200);
    mirror
        .peer
        .get(&format!("/v2/a/b/manifests/{digest}"))
        .expect(200);
    assert_eq!(mirror.peer.get(&blob).expect(200).body, layer);
    mirror.peer.get("/v2/a/b/manifests/v9").expect(502);
    mirror
        .peer
        .get(&format!("/v2/a/b/blobs/{}", Digest::of(b"other")))
        .expect(502);
}

/// An upstream that counts requests for one blob and answers them slowly, with what it is given.
fn odd_upstream(document: String, blob: Vec<u8>, pause: Duration) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fetched = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&fetched);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (document, blob, counter) = (document.clone(), blob.clone(), Arc::clone(&counter));
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") {
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    request.push(byte[0]);
                    // Clients try TLS first; this one speaks none.
                    if request[0] == 0x16 {
                        return;
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let kind = gantry_image::model::media_type::MANIFEST;
                let mut head = |length: usize| {
                    let _ = write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
                    );
                };
                if request.contains("/manifests/") {
                    head(document.len());
                    if request.starts_with("GET") {
                        let _ = stream.write_all(document.as_bytes());
                    }
                } else if request.contains("/blobs/") {
                    counter.fetch_add(1, Ordering::SeqCst);
                    head(blob.len());
                    for piece in blob.chunks(blob.len() / 4 + 1) {
                        let _ = stream.write_all(piece);
                        std::thread::sleep(pause);
                    }
                } else {
                    head(0);
                }
            });
        }
    });
    (address, fetched)
}

fn document_of(blob: &[u8]) -> String {
    let digest = Digest::of(blob);
    super::client::manifest(&digest, blob.len(), &digest, blob.len()).to_string()
}

#[test]
fn many_clients_make_one_fetch() {
    let blob: Vec<u8> = (0..400_000_u32).map(|i| (i % 233) as u8).collect();
    let (address, fetched) =
        odd_upstream(document_of(&blob), blob.clone(), Duration::from_millis(100));
    let mirror = mirror_of(address);
    let peer = &mirror.peer;
    peer.get("/v2/a/manifests/v1").expect(200);
    let path = format!("/v2/a/blobs/{}", Digest::of(&blob));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| peer.get(&path).expect(200).body))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), blob);
        }
    });
    assert_eq!(peer.get(&path).expect(200).body, blob);
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
}

/// Content that is not what its digest says never looks complete, and is never kept.
#[test]
fn bad_content_is_not_kept() {
    let blob: Vec<u8> = vec![5; 300_000];
    let mut bad = blob.clone();
    bad[299_999] = 6;
    let (address, fetched) = odd_upstream(document_of(&blob), bad, Duration::from_millis(20));
    let mirror = mirror_of(address);
    mirror.peer.get("/v2/a/manifests/v1").expect(200);
    let path = format!("/v2/a/blobs/{}", Digest::of(&blob));
    for round in 1..=2 {
        let reply = mirror.peer.get(&path);
        assert!(
            reply.status == 502 || reply.body.len() < 300_000,
            "{}",
            reply.status
        );
        assert_eq!(fetched.load(Ordering::SeqCst), round);
    }
    let store = gantry_image::Store::open(&mirror.root()).unwrap();
    assert!(!store.has_blob(&Digest::of(&blob)).unwrap());
    assert_eq!(
        std::fs::read_dir(mirror.root().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}
