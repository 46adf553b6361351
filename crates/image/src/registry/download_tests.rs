use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::registry::{Proxies, RetryPolicy};
use crate::testing::{Reply, Request, Server, registry::ranged};

fn options() -> DownloadOptions {
    DownloadOptions {
        client: ClientOptions {
            retry: RetryPolicy {
                retries: 2,
                delay: Duration::from_millis(5),
                ..RetryPolicy::default()
            },
            certificate_directories: Vec::new(),
            proxies: Proxies::none(),
            ..ClientOptions::default()
        },
        ..DownloadOptions::default()
    }
}

fn fetch(url: &str, options: &DownloadOptions) -> Result<Vec<u8>, DownloadError> {
    let mut download = Download::open(url, options)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 700]);
    loop {
        match download.read_some(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes.extend(&buffer[..count]),
        }
    }
}

fn line(error: &DownloadError) -> String {
    crate::pull::chain(error)
}

fn redirect(status: u16, location: &str) -> Reply {
    Reply::new(status, "elsewhere").header("Location", location)
}

#[test]
fn follows_redirects_and_stops_in_circles() {
    let other = Server::start(|_| Reply::new(200, "elsewhere"));
    let target = other.url("/file?signature=secret");
    let server = Server::start(move |request| match request.path() {
        "/file" => Reply::new(200, "content"),
        "/relative" => redirect(301, "file"),
        "/307" => redirect(307, "/relative"),
        "/other" => redirect(302, &target),
        "/circle" => redirect(302, "/circle?again"),
        "/file-url" => redirect(302, "file:///etc/passwd"),
        "/clear" => redirect(302, "http://192.0.2.1/"),
        "/nowhere" => Reply::new(302, ""),
        _ => Reply::new(404, ""),
    });
    for (path, content) in [
        ("/file", "content"),
        ("/file#fragment", "content"),
        ("/relative", "content"),
        ("/307", "content"),
        ("/other", "elsewhere"),
    ] {
        let found = fetch(&server.url(path), &options()).unwrap();
        assert_eq!(found, content.as_bytes(), "{path}");
    }
    let before = server.seen().len();
    for (path, expected) in [
        ("/circle", "redirects more than 10 times"),
        ("/file-url", "which is not an http or https URL"),
        ("/clear", "it leaves this host in clear text"),
        ("/nowhere", "redirects to \"nowhere\""),
        ("/missing?signature=secret", "answered 404 Not Found"),
    ] {
        let error = line(&fetch(&server.url(path), &options()).unwrap_err());
        assert!(error.contains(expected), "{path}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    // 11 of the circle, 4 of the others.
    assert_eq!(server.seen().len(), before + 15);
}

#[test]
fn refuses_what_is_no_plain_url() {
    for url in [
        "ftp://host/x",
        "file:///etc/passwd",
        "http://user:hunter2@127.0.0.1/x?token=hunter2",
        "http://",
        "not a url",
    ] {
        let Err(error) = Download::open(url, &options()) else {
            panic!("{url}");
        };
        assert!(matches!(error, DownloadError::Url { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn size_is_limited_whether_announced_or_not() {
    let server = Server::start(|request| Reply {
        chunked: request.path() == "/chunked",
        ..Reply::new(200, vec![7; 5000])
    });
    for (path, limit, fits) in [
        ("/announced", 5000, true),
        ("/announced", 4999, false),
        ("/chunked", 5000, true),
        ("/chunked", 4999, false),
    ] {
        let options = DownloadOptions { limit, ..options() };
        let result = fetch(&server.url(path), &options);
        assert_eq!(result.is_ok(), fits, "{path} {limit}");
        if let Err(error) = result {
            assert!(matches!(error, DownloadError::TooLarge { .. }), "{error}");
        }
    }
}

/// What is read is the one file, also if the connection breaks and the server changes it.
#[test]
fn goes_on_after_a_break_with_the_same_file_only() {
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = content.clone();
    let server = Server::start(move |request: &Request| {
        let mut reply = match request.path() {
            "/ranges" => {
                // Only what is still the same is sent in part.
                assert!(
                    request.header("range").is_none()
                        || request.header("if-range") == Some("\"one\"")
                );
                ranged(request, &whole).header("ETag", "\"one\"")
            }
            "/changes" => Reply::new(200, &whole[..]).header("ETag", "\"one\""),
            "/weak" => ranged(request, &whole).header("ETag", "W/\"one\""),
            _ => ranged(request, &whole),
        };
        if reply.body.len() > 300_000 {
            reply.cut = Some(300_000);
        }
        reply
    });
    assert!(fetch(&server.url("/ranges"), &options()).unwrap() == content);
    assert_eq!(server.seen().len(), 3);
    for path in ["/changes", "/weak", "/no-tag"] {
        let error = fetch(&server.url(path), &options()).unwrap_err();
        assert!(
            matches!(
                error,
                DownloadError::BrokeOff {
                    received: 300_000,
                    expected: Some(800_000),
                    ..
                }
            ),
            "{path}: {error}"
        );
        let text = error.to_string();
        assert!(
            text.ends_with("broke off after 300000 bytes of 800000"),
            "{text}"
        );
    }
}

#[test]
fn retries_what_is_temporary() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path() {
        "/later" if count.fetch_add(1, Ordering::Relaxed) < 2 => Reply::new(503, ""),
        "/never" => Reply::new(500, ""),
        "/tomorrow" => Reply::new(429, "").header("Retry-After", "86400"),
        _ => Reply::new(200, "content"),
    });
    assert_eq!(
        fetch(&server.url("/later"), &options()).unwrap(),
        b"content"
    );
    for (path, requests) in [("/never", 3), ("/tomorrow", 1)] {
        let before = server.seen().len();
        let error = fetch(&server.url(path), &options()).unwrap_err();
        assert!(matches!(error, DownloadError::Status { .. }), "{error}");
        assert_eq!(server.seen().len() - before, requests, "{path}");
    }
}

/// Nobody's credentials go to a server that is no registry, whatever it asks for.
#[test]
fn sends_no_credentials() {
    let server =
        Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""));
    let mut options = options();
    options.client.credentials =
        crate::credentials::CredentialSource::Given(crate::registry::Credentials {
            username: "user".to_owned(),
            password: "secret".to_owned(),
            identity_token: None,
        });
    let error = fetch(&server.url("/x"), &options).unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
    assert!(
        server
            .seen()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}
