use super::Served;
use super::client::Peer;
use crate::Access;
use crate::testing::Directory;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

fn users(directory: &Directory) -> std::path::PathBuf {
    let path = directory.path().join("users");
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&path, format!("ann:{hash}\n")).unwrap();
    path
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

fn status(peer: &Peer, method: &str, path: &str, authorization: &str) -> u16 {
    peer.send(method, path, &[("Authorization", authorization)], b"")
        .status
}

#[test]
fn users_of_a_file() {
    let directory = Directory::new();
    let file = users(&directory);
    let served = Served::with(|options| {
        options.access = Access::Users {
            file,
            anonymous_pull: false,
        };
    });
    let peer = &served.peer;
    for path in [
        "/v2/",
        "/v2/a/tags/list",
        "/v2/_catalog",
        "/v2/a/manifests/x",
    ] {
        let reply = peer.get(path).expect(401);
        assert_eq!(reply.code(), "UNAUTHORIZED");
        assert!(reply.header("www-authenticate").starts_with("Basic realm="));
    }
    let good = basic("ann:secret");
    assert_eq!(status(peer, "GET", "/v2/", &good), 200);
    assert_eq!(status(peer, "POST", "/v2/a/blobs/uploads/", &good), 202);
    for pair in ["ann:wrong", "ann:", "bob:secret", ":", "ann"] {
        assert_eq!(status(peer, "GET", "/v2/", &basic(pair)), 401, "{pair}");
        assert_eq!(
            status(peer, "POST", "/v2/a/blobs/uploads/", &basic(pair)),
            401,
            "{pair}"
        );
    }
    assert_eq!(peer.get("/v2/_token").status, 404);
}

#[test]
fn anonymous_pulls() {
    let directory = Directory::new();
    let file = users(&directory);
    let served = Served::with(|options| {
        options.access = Access::Users {
            file,
            anonymous_pull: true,
        };
    });
    let peer = &served.peer;
    let challenge = peer.get("/v2/a/tags/list").expect(401);
    let challenge = challenge.header("www-authenticate").to_owned();
    assert_eq!(
        challenge,
        "Bearer realm=\"http://test/v2/_token\",service=\"gantry\",scope=\"repository:a:pull\""
    );
    let token = |reply: super::client::Reply| {
        format!(
            "Bearer {}",
            reply.expect(200).json()["token"].as_str().unwrap()
        )
    };
    let anonymous = token(peer.get("/v2/_token?service=gantry&scope=repository:a:pull"));
    let named = token(peer.send(
        "GET",
        "/v2/_token",
        &[("Authorization", &basic("ann:secret"))],
        b"",
    ));
    peer.send(
        "GET",
        "/v2/_token",
        &[("Authorization", &basic("ann:x"))],
        b"",
    )
    .expect(401);
    assert_eq!(status(peer, "GET", "/v2/", &anonymous), 200);
    assert_eq!(status(peer, "GET", "/v2/a/tags/list", &anonymous), 404);
    // What there is to pull is not told.
    assert_eq!(status(peer, "GET", "/v2/_catalog", &anonymous), 401);
    assert_eq!(status(peer, "GET", "/v2/_catalog", &named), 200);
    // containerd and BuildKit post the password first, and ask with GET when they get a 405.
    let form = b"grant_type=password&service=gantry&username=ann&password=secret";
    let kind = ("Content-Type", "application/x-www-form-urlencoded");
    let posted = peer.send("POST", "/v2/_token", &[kind], form).expect(405);
    assert_eq!(posted.header("allow"), "GET, HEAD");
    peer.send("PUT", "/v2/_token", &[], b"").expect(405);
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/x"),
        ("DELETE", "/v2/a/manifests/x"),
    ] {
        assert_eq!(status(peer, method, path, &anonymous), 401, "{method}");
        assert_ne!(status(peer, method, path, &named), 401, "{method}");
        assert_ne!(
            status(peer, method, path, &basic("ann:secret")),
            401,
            "{method}"
        );
    }
    assert_eq!(status(peer, "GET", "/v2/", "Bearer x.y"), 401);
}

/// The gatekeeper comes before everything else: a stranger learns nothing from the answers.
#[test]
fn strangers_get_the_same_answer_for_everything() {
    let directory = Directory::new();
    let file = users(&directory);
    let served = Served::with(|options| {
        options.access = Access::Users {
            file,
            anonymous_pull: false,
        };
    });
    for (method, path) in [
        (
            "GET",
            "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef",
        ),
        (
            "PATCH",
            "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef",
        ),
        ("DELETE", "/v2/a/manifests/x"),
        ("TRACE", "/v2/a/manifests/x"),
        ("OPTIONS", "/v2/"),
    ] {
        assert_eq!(
            served.peer.send(method, path, &[], b"").status,
            401,
            "{method} {path}"
        );
    }
}
