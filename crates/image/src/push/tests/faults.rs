//! Registries that misbehave while they are pushed to.

use super::*;

/// Breaks the connection of each of the first `times` bodies after `bytes`.
fn breaking(times: u32, bytes: usize) -> Behaviour {
    let count = AtomicU32::new(0);
    let broken = Mutex::new(std::collections::HashMap::<String, bool>::new());
    Behaviour::default().breaks(move |request| {
        // Asked twice about each request: before the body and after it.
        let key = format!("{:?}", request.headers) + &request.target;
        if request.method != "PATCH" {
            return None;
        }
        let mut broken = broken.lock().unwrap();
        let answer = *broken
            .entry(key)
            .or_insert_with(|| count.fetch_add(1, Ordering::Relaxed) < times);
        answer.then_some(bytes)
    })
}

#[test]
fn a_broken_upload_goes_on_where_it_broke() {
    let setup = setup();
    let layer = noise(1, 3_000_000);
    let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
    let registry = Registry::start(breaking(2, 1_200_000));
    setup.push(&registry.host(), "", &image).0.unwrap();
    let content = registry.content.lock().unwrap();
    let key = ("a/b".to_owned(), Digest::of(&layer).to_string());
    assert!(content.blobs[&key] == layer);
    assert!(
        content.received < 3_000_000 + 10_000,
        "no byte twice: {}",
        content.received
    );
    assert_eq!(content.uploads.len(), 0);
    drop(content);
    assert_eq!(
        registry.count(|r| r.header("content-range") == Some("1200000-2999999")),
        1
    );
}

/// As docker-registry 2.8 does: what a broken request brought is lost with all of the upload.
#[test]
fn an_upload_that_is_forgotten_begins_again() {
    let setup = setup();
    let layer = noise(1, 100_000);
    let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
    let done = AtomicU32::new(0);
    let behaviour = Behaviour::default().fault(move |request| {
        let is_status = request.method == "GET" && is_upload(request);
        let is_first = request.method == "PATCH" && done.fetch_add(1, Ordering::Relaxed) == 0;
        (is_status || is_first).then(|| Reply::new(404, ""))
    });
    let registry = Registry::start(behaviour);
    setup.push(&registry.host(), "", &image).0.unwrap();
    assert_eq!(registry.blob_names("a/b").len(), 2);
}

#[test]
fn another_process_continues() {
    let mut setup = setup();
    let layer = noise(1, 2_000_000);
    let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
    let registry = Registry::start(breaking(1, 1_500_000));
    setup.options.client.retry.retries = 0;
    setup.push(&registry.host(), "", &image).0.unwrap_err();
    let records = std::fs::read_dir(setup.store.root().join("uploads"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(records.len(), 1);
    assert!(records[0].contains("/v2/a/b/blobs/uploads/"), "{records:?}");
    setup.store.sweep().unwrap();
    setup.push(&registry.host(), "", &image).0.unwrap();
    let received = registry.content.lock().unwrap().received;
    assert!(received < 2_010_000, "{received}");
    let left = std::fs::read_dir(setup.store.root().join("uploads")).unwrap();
    assert_eq!(left.count(), 0, "nothing stays");
}

#[test]
fn a_large_body_that_is_refused_goes_in_chunks() {
    let setup = setup();
    let layer = noise(1, (8 << 20) + 5);
    let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
    let registry = Registry::start(
        Behaviour::default()
            .fault(|request| (request.bytes.len() > 8 << 20).then(|| Reply::new(413, ""))),
    );
    setup.push(&registry.host(), "", &image).0.unwrap();
    let patches = registry.count(|request| request.method == "PATCH");
    assert_eq!(patches, 3, "one refused, two chunks");
}

#[test]
fn statuses_and_bad_answers_end_with_an_error_or_well() {
    let layer = noise(1, 20_000);
    type Make = fn(&Request, u32) -> Option<Reply>;
    let table: [(&str, Make, Option<&str>); 9] = [
        (
            "one 500",
            |request, number| {
                (request.method == "PATCH" && number == 0).then(|| Reply::new(500, ""))
            },
            None,
        ),
        (
            "always 503",
            |request, _| (request.method == "PATCH").then(|| Reply::new(503, "")),
            Some("503"),
        ),
        (
            "no location",
            |request, _| (request.method == "POST").then(|| Reply::new(202, "")),
            Some("Location"),
        ),
        (
            "an offset beyond the end",
            |request, _| {
                (request.method == "PATCH").then(|| {
                    Reply::new(202, "")
                        .header("Location", "/v2/a/b/blobs/uploads/1")
                        .header("Range", "0-99999")
                })
            },
            Some("at byte 100000"),
        ),
        (
            "an offset that does not move",
            |request, _| {
                (request.method == "PATCH").then(|| {
                    Reply::new(202, "")
                        .header("Location", "/v2/a/b/blobs/uploads/1")
                        .header("Range", "0-0")
                })
            },
            Some("at byte 0"),
        ),
        (
            "wrong digest",
            |request, _| {
                let end = request.method == "PUT" && is_upload(request);
                end.then(|| Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#))
            },
            Some("digest invalid"),
        ),
        (
            "another digest for the manifest",
            |request, _| {
                let put = request.method == "PUT" && request.path().contains("manifests");
                put.then(|| {
                    Reply::new(201, "")
                        .header("Docker-Content-Digest", Digest::of(b"other").to_string())
                })
            },
            Some("instead of"),
        ),
        (
            "429 for long",
            |request, _| {
                (request.method == "POST")
                    .then(|| Reply::new(429, "").header("Retry-After", "3600"))
            },
            Some("asked again in 3600 s"),
        ),
        (
            "denied",
            |request, _| (request.method == "POST").then(|| Reply::new(403, "")),
            Some("denies access"),
        ),
    ];
    for (what, fault, expected) in table {
        let setup = setup();
        let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
        let count = AtomicU32::new(0);
        let registry = Registry::start(Behaviour::default().fault(move |request| {
            let relevant = request.method == "PATCH";
            let number = if relevant {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                0
            };
            fault(request, number)
        }));
        let result = setup.push(&registry.host(), "", &image).0;
        match (result, expected) {
            (Ok(_), None) => assert_eq!(registry.blob_names("a/b").len(), 2, "{what}"),
            (Err(error), Some(expected)) => {
                let text = chain(&error);
                assert!(text.contains(expected), "{what}: {text}");
                let tagged = registry.content.lock().unwrap().manifests.len();
                assert!(tagged == 0 || what.contains("manifest"), "{what}");
            }
            (result, _) => panic!("{what}: {result:?}"),
        }
        assert!(registry.server.seen().len() < 60, "{what}: bounded");
    }
}

/// Also a request with a stream, which is not simply sent again, waits as long as it is told to.
#[test]
fn a_refused_stream_waits_as_long_as_it_is_told() {
    let setup = setup();
    let image = digest_of(&setup.image(&[noise(1, 20_000)], "amd64"));
    let refused = AtomicU32::new(0);
    let registry = Registry::start(Behaviour::default().fault(move |request| {
        let first = request.method == "PATCH" && refused.fetch_add(1, Ordering::Relaxed) == 0;
        first.then(|| Reply::new(429, "").header("Retry-After", "1"))
    }));
    let started = std::time::Instant::now();
    setup.push(&registry.host(), "", &image).0.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

/// CVE-2020-15157 for pushes: what a registry names as the place for an upload gets neither
/// password nor token, and is not written down.
#[test]
fn uploads_elsewhere_carry_no_credentials() {
    let mut setup = setup();
    let layer = noise(1, 20_000);
    let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
    setup.options.client.credentials = CredentialSource::Given(Credentials {
        username: "user".to_owned(),
        password: "secret".to_owned(),
        identity_token: None,
    });
    let other = Server::start(|request| match request.method.as_str() {
        "PATCH" => Reply::new(202, "")
            .header("Location", request.target.clone())
            .header("Range", format!("0-{}", request.bytes.len() - 1)),
        _ => Reply::new(201, ""),
    });
    let place = other.url("/put/here");
    let registry = Registry::start(Behaviour::default().fault(move |request| {
        if request.header("authorization") != Some("Basic dXNlcjpzZWNyZXQ=") {
            let challenge = "Basic realm=\"x\"";
            return Some(Reply::new(401, "").header("WWW-Authenticate", challenge));
        }
        (request.method == "POST").then(|| Reply::new(202, "").header("Location", place.clone()))
    }));
    let error = setup.push(&registry.host(), "", &image).0.unwrap_err();
    assert!(
        chain(&error).contains("400"),
        "its blobs are elsewhere: {}",
        chain(&error)
    );
    let seen = other.seen();
    assert!(seen.iter().any(|request| request.method == "PATCH"));
    assert!(
        seen.iter()
            .all(|request| request.header("authorization").is_none()),
        "{seen:?}"
    );
    let left = std::fs::read_dir(setup.store.root().join("uploads")).unwrap();
    assert_eq!(left.count(), 0);

    let registry = Registry::start(Behaviour::default().fault(|request| {
        let location = "http://192.0.2.1/x";
        (request.method == "POST").then(|| Reply::new(202, "").header("Location", location))
    }));
    let error = setup.push(&registry.host(), "", &image).0.unwrap_err();
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
}

/// A token for a push allows reading and writing, and for a mount reading there.
#[test]
fn tokens_have_the_scopes_of_a_push() {
    let mut setup = setup();
    let layer = noise(1, 20_000);
    let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
    let mounts = vec!["o/t".to_owned()];
    setup.options.mounts.insert(Digest::of(&layer), mounts);
    let registry = Registry::start(Behaviour::default().fault(|request| {
        let host = request.header("host").unwrap();
        if request.path() == "/token" {
            return Some(Reply::new(200, r#"{"token":"t","expires_in":300}"#));
        }
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:a/b:pull\""
        );
        (request.header("authorization") != Some("Bearer t"))
            .then(|| Reply::new(401, "").header("WWW-Authenticate", challenge))
    }));
    setup.push(&registry.host(), "", &image).0.unwrap();
    let asked: Vec<_> = registry
        .server
        .seen()
        .into_iter()
        .filter(|request| request.path() == "/token")
        .map(|request| request.target)
        .collect();
    assert!(
        asked
            .iter()
            .all(|target| target.contains("scope=repository:a/b:pull,push")),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .any(|target| target.ends_with("scope=repository:o/t:pull")),
        "{asked:?}"
    );
    assert!(asked.len() <= 4, "one for all of the push: {asked:?}");
}
