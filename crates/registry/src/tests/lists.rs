use super::Served;
use gantry_image::Digest;
use gantry_image::model::media_type;
use serde_json::{Value, json};

#[test]
fn tags_come_in_pages() {
    let served = Served::new();
    let peer = &served.peer;
    let (document, _) = peer.push_image("a/b", "c", b"x");
    for tag in ["b", "A", "a", "_", "10"] {
        peer.put_manifest("a/b", tag, &document).expect(201);
    }
    let all = peer.get("/v2/a/b/tags/list").expect(200).json();
    assert_eq!(
        all,
        json!({ "name": "a/b", "tags": ["10", "A", "_", "a", "b", "c"] })
    );
    let (mut path, mut found) = ("/v2/a/b/tags/list?n=4".to_owned(), Vec::new());
    loop {
        let reply = peer.get(&path).expect(200);
        found.extend(reply.json()["tags"].as_array().unwrap().clone());
        let link = reply.header("link").to_owned();
        if link.is_empty() {
            break;
        }
        let (target, rest) = link[1..].split_once('>').unwrap();
        assert_eq!(rest, "; rel=\"next\"");
        path = target.to_owned();
    }
    assert_eq!(Value::from(found), all["tags"]);
    assert_eq!(
        peer.get("/v2/a/tags/list").expect(404).code(),
        "NAME_UNKNOWN"
    );
    assert_eq!(
        peer.get("/v2/a/b/tags/list?n=x").expect(400).code(),
        "PAGINATION_NUMBER_INVALID"
    );
    // CVE-2023-2253.
    peer.get("/v2/a/b/tags/list?n=2147483648").expect(200);
}

#[test]
fn the_catalog_lists_repositories() {
    let served = Served::new();
    let peer = &served.peer;
    for name in ["z", "a/b/c", "a", "a-b"] {
        peer.push_image(name, "v", b"x");
    }
    peer.push_blob("blobs/only", b"x");
    let first = peer.get("/v2/_catalog?n=3").expect(200);
    assert_eq!(first.json()["repositories"], json!(["a", "a-b", "a/b/c"]));
    assert_eq!(
        first.header("link"),
        "</v2/_catalog?n=3&last=a%2Fb%2Fc>; rel=\"next\""
    );
    let second = peer.get("/v2/_catalog?n=3&last=a%2Fb%2Fc").expect(200);
    assert_eq!(second.json()["repositories"], json!(["z"]));
    assert_eq!(second.header("link"), "");
}

#[test]
fn referrers() {
    let served = Served::new();
    let peer = &served.peer;
    let (_, subject) = peer.push_image("a", "v1", b"x");
    let list = |query: &str| {
        peer.get(&format!("/v2/a/referrers/{subject}{query}"))
            .expect(200)
    };
    let empty = list("");
    assert_eq!(empty.header("content-type"), media_type::INDEX);
    assert_eq!(empty.json()["manifests"], json!([]));
    let config = peer.push_blob("a", b"{}");
    let attach = |kind: &str, number: u32| {
        let document = json!({
            "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": kind,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(), "size": 2 },
            "layers": [], "annotations": { "number": number.to_string() },
            "subject": { "mediaType": media_type::MANIFEST, "digest": subject.to_string(), "size": 1 },
        });
        let digest = Digest::of(document.to_string().as_bytes());
        let reply = peer
            .put_manifest("a", &digest.to_string(), &document)
            .expect(201);
        assert_eq!(reply.header("oci-subject"), subject.to_string());
        digest
    };
    let signature = attach("application/signature", 1);
    attach("application/sbom+json", 2);
    attach("application/sbom+json", 3);
    let all = list("");
    assert_eq!(all.header("oci-filters-applied"), "");
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 3);
    let filtered = list("?artifactType=application/signature");
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let found = &filtered.json()["manifests"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["digest"], signature.to_string());
    assert_eq!(found[0]["annotations"]["number"], "1");
    for filter in ["application/sbom+json", "application%2Fsbom%2Bjson"] {
        assert_eq!(
            list(&format!("?artifactType={filter}")).json()["manifests"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
    }
    // In pages.
    let (mut path, mut count) = (format!("/v2/a/referrers/{subject}?n=1"), 0);
    loop {
        let reply = peer.get(&path).expect(200);
        count += reply.json()["manifests"].as_array().unwrap().len();
        match reply.header("link").split_once('>') {
            Some((link, _)) => path = format!("{}&n=1", &link[1..]),
            None => break,
        }
    }
    assert_eq!(count, 3);
    peer.send("DELETE", &format!("/v2/a/manifests/{signature}"), &[], b"")
        .expect(202);
    assert_eq!(list("").json()["manifests"].as_array().unwrap().len(), 2);
    // The list of another repository, and of one that does not exist, is empty and not absent.
    for name in ["b", "c/d"] {
        let path = format!("/v2/{name}/referrers/{subject}");
        assert_eq!(peer.get(&path).expect(200).json()["manifests"], json!([]));
    }
    assert_eq!(
        peer.get("/v2/a/referrers/x").expect(400).code(),
        "DIGEST_INVALID"
    );
}
