//! Lists, deletion and search.

use super::*;
use crate::testing::registry::{Behaviour, Registry, parameter};

#[test]
fn lists_have_pages() {
    let server = Server::start(|request| {
        let all = ["a", "b", "c", "d", "e"];
        let last = parameter(request, "last").unwrap_or_default();
        let start = all
            .iter()
            .position(|name| *name == last)
            .map_or(0, |at| at + 1);
        let page: Vec<_> = all.iter().skip(start).take(2).collect();
        let (path, field) = match request.path() {
            "/v2/x/tags/list" => ("/v2/x/tags/list", "tags"),
            "/v2/_catalog" => ("/v2/_catalog", "repositories"),
            _ => return Reply::new(404, ""),
        };
        let body = serde_json::json!({ field: page }).to_string();
        let reply = Reply::new(200, body);
        if start + 2 < all.len() {
            let next = format!("<{path}?n=2&last={}>; rel=\"next\"", page[1]);
            reply.header("Link", next)
        } else {
            reply
        }
    });
    let client = Client::new(&server.host(), &options()).unwrap();
    assert_eq!(client.tags("x").unwrap(), ["a", "b", "c", "d", "e"]);
    assert_eq!(client.catalog().unwrap(), ["a", "b", "c", "d", "e"]);
    let error = client.tags("y").unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

/// A list that never ends, or goes on elsewhere, is cut short.
#[test]
fn lists_end() {
    let elsewhere = Server::start(|_| Reply::new(200, r#"{"tags":["evil"]}"#));
    let next = elsewhere.url("/v2/x/tags/list");
    let server = Server::start(move |request| {
        let reply = Reply::new(200, r#"{"tags":null}"#);
        match request.path() {
            "/v2/x/tags/list" => reply.header("Link", format!("<{next}>; rel=\"next\"")),
            _ => reply.header("Link", format!("<{}>; rel=\"next\"", request.target)),
        }
    });
    let client = Client::new(&server.host(), &options()).unwrap();
    assert_eq!(client.tags("x").unwrap(), Vec::<String>::new());
    assert_eq!(client.tags("y").unwrap(), Vec::<String>::new());
    assert_eq!(elsewhere.seen(), []);
    assert!(server.seen().len() < 5);
}

#[test]
fn manifests_are_asked_about_put_and_deleted() {
    let registry = Registry::start(Behaviour::default());
    let client = Client::new(&registry.host(), &options()).unwrap();
    let (tag, bytes) = (ManifestName::Tag("t"), MANIFEST.as_bytes());
    assert_eq!(client.head_manifest("a/b", tag).unwrap(), None);
    let digest = client
        .put_manifest("a/b", tag, media_type::MANIFEST, bytes)
        .unwrap();
    let head = client.head_manifest("a/b", tag).unwrap().unwrap();
    assert_eq!(head.digest, Some(digest));
    assert_eq!(head.size, Some(bytes.len() as u64));
    assert_eq!(head.media_type.as_deref(), Some(media_type::MANIFEST));
    client
        .delete_manifest("a/b", ManifestName::Digest(&digest))
        .unwrap();
    assert!(
        client
            .delete_blob("a/b", &digest)
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(client.has_blob("a/b", &digest).unwrap(), None);
}

#[test]
fn searches() {
    let server = Server::start(|request| {
        if request.path() != "/v1/search" {
            return Reply::new(404, "");
        }
        assert_eq!(parameter(request, "q").as_deref(), Some("a%20b"));
        let one = r#"{"name":"one","description":null,"star_count":3,"is_official":true}"#;
        Reply::new(200, format!("{{\"results\":[{one},{one},{one}]}}"))
    });
    let client = Client::new(&server.host(), &options()).unwrap();
    let found = client.search("a b", 2).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].name.as_str(), found[0].star_count), ("one", 3));
    assert!(found[0].is_official && found[0].description.is_empty());
}
