//! Fuzzers of what clients send: paths, queries, ranges and manifests, and whole conversations.
//!
//! A failure says the number of its input, which `GANTRY_FUZZ_SEED` tries alone. Each runs 3 s,
//! and `GANTRY_FUZZ_SECONDS` or 10 minutes with `GANTRY_TEST_LONG`.

use super::Served;
use crate::manifest::Outline;
use crate::name::{Query, Route, decode, encode};
use crate::range::{Part, Requested, chunk, requested};
use gantry_image::Digest;
use gantry_image::model::media_type;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Numbers that look random, and are the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Runs `body` with one seed after the other until the time is over.
fn for_a_while(mut body: impl FnMut(&mut Random)) {
    /// Says the seed if the body panics.
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed at GANTRY_FUZZ_SEED={}", self.0);
            }
        }
    }
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap())
    };
    if let Some(seed) = number("GANTRY_FUZZ_SEED") {
        let seed = Seed(seed);
        return body(&mut Random::new(seed.0));
    }
    let is_long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let seconds = number("GANTRY_FUZZ_SECONDS").unwrap_or(if is_long { 600 } else { 3 });
    let start = Instant::now();
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        let seed = Seed(((first.as_millis() as u64) << 20) + count);
        body(&mut Random::new(seed.0));
        count += 1;
    }
    eprintln!("{count} inputs");
}

/// Parts of a few texts and words in a new order, with a byte changed once in a while.
fn text(seeds: &[&str], words: &[&str], random: &mut Random) -> String {
    let mut bytes = random.pick(seeds).as_bytes().to_vec();
    for _ in 0..*random.pick(&[0, 1, 1, 2, 4]) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(8)).min(bytes.len());
        let word = random.pick(words).as_bytes().to_vec();
        bytes.splice(at..end, word);
    }
    if random.below(3) == 0 && !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// G07, U06 (CVE-2024-3727, CVE-2014-9358): what a path is taken for is safe below the root, and is
/// what it would be taken for when written again.
#[test]
fn long_paths() {
    let seeds = [
        "/v2/",
        "/v2/_catalog",
        "/v2/a/tags/list",
        "/v2/library/x-y/manifests/v1.0",
        "/v2/a/b/c/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "/v2/a/manifests/sha256%3Ae3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef",
        "/v2/blobs/uploads/blobs/uploads/",
        "/v2/a/referrers/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ];
    let words = [
        "..",
        "/",
        "//",
        "%2e",
        "%2f",
        "%00",
        "%",
        "%25",
        "_",
        "__",
        ".",
        "-",
        "A",
        "\\",
        "\0",
        "ä",
        ":",
        "@",
        "tags",
        "list",
        "manifests",
        "blobs",
        "uploads",
        "referrers",
        "_catalog",
        "?",
        "#",
        SHA,
    ];
    let mut good = 0_u64;
    for_a_while(|random| {
        let path = text(&seeds, &words, random);
        let Ok(route) = Route::parse(&path) else {
            return;
        };
        good += 1;
        if let Some(name) = route.repository() {
            for part in name.as_str().split('/') {
                let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                assert!(part.starts_with(ends) && part.ends_with(ends), "{path}");
                let plain =
                    |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
                assert!(part.bytes().all(plain) && !part.contains(".."), "{path}");
            }
            assert!(name.as_str().len() <= 255, "{path}");
        }
        // Nothing is decoded twice.
        let plain = decode(&path).unwrap();
        if !plain.contains('%') {
            assert_eq!(Route::parse(&plain).ok(), Some(route), "{path}");
        }
    });
    assert!(good > 0);
}

/// Queries and pages: what is written is read as what it was.
#[test]
fn long_queries() {
    let seeds = [
        "n=5&last=a%2Fb",
        "digest=sha256:00&mount=x&from=a/b",
        "artifactType=a/b+json",
        "",
    ];
    let words = [
        "&", "=", "%", "%00", "%zz", "%C3%28", "+", "digest=", "&&", "ä", "\0", "n=-1",
    ];
    for_a_while(|random| {
        let query = text(&seeds, &words, random);
        if let Ok(query) = Query::parse(Some(&query)) {
            for key in ["n", "last", "digest", "mount", "from", "artifactType", ""] {
                let Some(value) = query.get(key) else {
                    continue;
                };
                assert_eq!(decode(&encode(value)).as_deref(), Some(value));
            }
        }
    });
}

/// U22: ranges lie within their content, whatever is asked for.
#[test]
fn long_ranges() {
    let seeds = [
        "bytes=0-0",
        "bytes=5-",
        "bytes=-5",
        "bytes=0-1,3-4",
        "0-9",
        "bytes 5-9/10",
        "5-9/*",
    ];
    let words = [
        "0",
        "9",
        "-",
        "--",
        ",",
        "bytes",
        "bytes=",
        "bytes ",
        "/",
        "*",
        " ",
        "+",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775807",
        "0x5",
        "٣",
        "\t",
        "e3",
    ];
    let (mut parts, mut chunks) = (0_u64, 0_u64);
    for_a_while(|random| {
        let header = text(&seeds, &words, random);
        let sizes = [0, 1, 10, 1 << 40, u64::MAX - 1, u64::MAX];
        let size = *random.pick(&sizes);
        if let Requested::Part(Part { first, length }) = requested(Some(&header), size) {
            parts += 1;
            assert!(
                length > 0 && first < size && length <= size - first,
                "{header} of {size}"
            );
        }
        if let Ok(Part { first, length }) = chunk(&header) {
            chunks += 1;
            let last = first.checked_add(length - 1);
            assert!(length > 0 && last.is_some(), "{header}");
            assert_eq!(
                chunk(&format!("{first}-{}", last.unwrap())).ok(),
                Some(Part { first, length })
            );
            assert!(!header.contains('+'), "{header}");
        }
    });
    assert!(parts > 0 && chunks > 0);
}

/// U18, U19 (CVE-2021-21285, CVE-2021-41190): what a manifest refers to is all that it refers to.
#[test]
fn long_manifests() {
    let blob = |kind: &str| json!({"mediaType": kind, "digest": SHA, "size": 1});
    let seeds = [
        json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": blob(media_type::CONFIG),
            "layers": [blob(media_type::LAYER), blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")],
            "subject": blob(media_type::MANIFEST), "artifactType": "a/b", "annotations": {"k": "v"}}),
        json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [blob(media_type::MANIFEST),
            {"mediaType": media_type::MANIFEST, "digest": SHA, "size": 1,
             "platform": {"os": "linux", "architecture": "amd64"}}]}),
    ]
    .map(|value| value.to_string());
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let words = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "null",
        "\"layers\":",
        "\"manifests\":[],",
        "\"config\":",
        "\"Digest\":\"x\",",
        "\"digest\":",
        "\"size\":-1,",
        "\"subject\":",
        "1e999",
        "\\u0000",
        "\"mediaType\":\"x\",",
        "\"schemaVersion\":1,",
        "\"urls\":[\"http://x\"],",
        "0,0,0,0,0",
    ];
    let kinds = [
        None,
        Some(media_type::MANIFEST),
        Some(media_type::INDEX),
        Some("application/json"),
        Some(""),
    ];
    let mut good = 0_u64;
    for_a_while(|random| {
        let body = text(&seeds, &words, random);
        let kind = *random.pick(&kinds);
        let Ok(outline) = Outline::read(body.as_bytes(), kind) else {
            return;
        };
        good += 1;
        let value: Value = serde_json::from_str(&body).unwrap();
        let count = |name: &str| value[name].as_array().map_or(0, Vec::len);
        assert!(
            outline.blobs.is_empty() || outline.manifests.is_empty(),
            "{body}"
        );
        assert_eq!(outline.manifests.len(), count("manifests"), "{body}");
        let config = usize::from(value.get("config").is_some());
        assert_eq!(
            outline.all_blobs().count(),
            count("layers") + config,
            "{body}"
        );
        assert_eq!(
            outline.subject.is_some(),
            value["subject"].is_object(),
            "{body}"
        );
    });
    assert!(good > 0);
}

/// An upload as it should be: the bytes, as long as it is there.
struct Model {
    location: String,
    bytes: Option<Vec<u8>>,
}

/// U22, G11: conversations in which ranges, digests and repositories are right and wrong. The
/// answers are those of a model that is a few lines long, and no blob is anything but its digest.
#[test]
fn long_conversations() {
    let served = Served::new();
    let peer = &served.peer;
    let mut blobs: std::collections::BTreeMap<(&str, Digest), Vec<u8>> = Default::default();
    let mut finished = 0_u64;
    for_a_while(|random| {
        let mut uploads: Vec<Model> = Vec::new();
        let name = *random.pick(&["a", "b/c"]);
        for _ in 0..1 + random.below(12) {
            if uploads.is_empty() || random.below(6) == 0 {
                let location = peer.start(name);
                uploads.push(Model {
                    location,
                    bytes: Some(Vec::new()),
                });
                continue;
            }
            let which = random.below(uploads.len());
            let upload = &mut uploads[which];
            let length = upload.bytes.as_ref().map_or(0, Vec::len);
            let body = vec![random.next() as u8; *random.pick(&[0, 1, 10, 70_000])];
            let last = (length + body.len()).saturating_sub(1);
            let is_right = random.below(3) > 0 && !body.is_empty();
            let range = match random.below(7) {
                _ if is_right => format!("{length}-{last}"),
                0 => format!("{}-{}", length + 1, last + 1),
                1 => format!("{length}-{}", last + 1),
                2 => format!("{length}-18446744073709551615"),
                3 => format!("{last}-{length}x"),
                4 => String::new(),
                5 => format!("bytes={length}-{last}"),
                _ => "0-0".to_owned(),
            };
            let with_range = [("Content-Range", range.as_str())];
            let headers = if random.below(3) == 0 {
                &[][..]
            } else {
                &with_range[..]
            };
            let is_right = headers.is_empty()
                || chunk(&range).is_ok_and(|part| {
                    part.first == length as u64 && part.length == body.len() as u64
                });
            match random.below(8) {
                0..=3 => {
                    let reply = peer.send("PATCH", &upload.location, headers, &body);
                    match &mut upload.bytes {
                        None => drop(reply.expect(404)),
                        Some(_) if !is_right => assert!(matches!(reply.status, 400 | 416)),
                        Some(bytes) => {
                            bytes.extend_from_slice(&body);
                            let end = bytes.len().saturating_sub(1);
                            assert_eq!(reply.expect(202).header("range"), format!("0-{end}"));
                        }
                    }
                }
                4 | 5 => {
                    let all = [upload.bytes.as_deref().unwrap_or_default(), &body].concat();
                    let lies = random.below(3) == 0;
                    let digest = if lies {
                        Digest::of(b"a lie")
                    } else {
                        Digest::of(&all)
                    };
                    let path = format!("{}?digest={digest}", upload.location);
                    let reply = peer.send("PUT", &path, headers, &body);
                    if upload.bytes.is_none() {
                        reply.expect(404);
                    } else if !is_right {
                        assert!(matches!(reply.status, 400 | 416), "{reply:?}");
                    } else if lies {
                        assert_eq!(reply.expect(400).code(), "DIGEST_INVALID");
                        upload.bytes = None;
                    } else {
                        reply.expect(201);
                        finished += 1;
                        upload.bytes = None;
                        blobs.insert((name, digest), all);
                    }
                }
                6 => {
                    let elsewhere = if name == "a" { "b/c" } else { "a" };
                    let path = upload
                        .location
                        .replace(&format!("/{name}/"), &format!("/{elsewhere}/"));
                    let method = *random.pick(&["GET", "PATCH", "DELETE"]);
                    peer.send(method, &path, &[], b"").expect(404);
                }
                _ => {
                    let status = peer.get(&upload.location).status;
                    assert_eq!(status, if upload.bytes.is_some() { 204 } else { 404 });
                }
            }
        }
        for upload in uploads {
            let expected = if upload.bytes.is_some() { 204 } else { 404 };
            peer.send("DELETE", &upload.location, &[], b"")
                .expect(expected);
        }
        if let Some(((name, digest), bytes)) = blobs.iter().nth(random.below(blobs.len().max(1))) {
            let reply = peer.get(&format!("/v2/{name}/blobs/{digest}")).expect(200);
            assert!(reply.body == *bytes && Digest::of(&reply.body) == *digest);
            let other = if *name == "a" { "b/c" } else { "a" };
            let there = blobs.contains_key(&(other, *digest));
            let reply = peer.get(&format!("/v2/{other}/blobs/{digest}"));
            assert_eq!(reply.status, if there { 200 } else { 404 });
        }
    });
    eprintln!("{finished} blobs were finished");
    assert!(
        peer.get(&format!("/v2/a/blobs/{}", Digest::of(b"a lie")))
            .status
            == 404
    );
    let left = std::fs::read_dir(served.root().join("uploads")).unwrap();
    assert_eq!(left.count(), 0);
}
