use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::credentials::CredentialSource;
use crate::model::media_type;
use crate::registry::{Credentials, RetryPolicy};
use crate::testing::registry::{Behaviour, Registry};
use crate::testing::{Reply, Request, Server, TestDirectory};

mod faults;

/// Bytes without a pattern.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}

struct Setup {
    _directory: TestDirectory,
    store: Store,
    options: PushOptions,
}

fn setup() -> Setup {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let mut options = PushOptions {
        monolithic: 1000,
        ..PushOptions::default()
    };
    options.client.retry = RetryPolicy {
        retries: 2,
        delay: Duration::from_millis(1),
        longest: Duration::from_secs(2),
    };
    options.client.certificate_directories.clear();
    Setup {
        _directory: directory,
        store,
        options,
    }
}

impl Setup {
    fn put(&self, bytes: &[u8]) -> Digest {
        let ingest = self.store.ingest().unwrap();
        let blob = ingest.blob_of(bytes).unwrap();
        let digest = blob.digest();
        ingest.commit(vec![blob], Vec::new()).unwrap();
        digest
    }

    /// An image with `layers`; returns its descriptor.
    fn image(&self, layers: &[Vec<u8>], platform: &str) -> serde_json::Value {
        let config = json!({"architecture": platform, "os": "linux"}).to_string();
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": self.put(bytes), "size": bytes.len()});
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| descriptor(media_type::LAYER_GZIP, layer))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
            "config": descriptor(media_type::CONFIG, config.as_bytes()), "layers": layers});
        let mut entry = descriptor(media_type::MANIFEST, manifest.to_string().as_bytes());
        entry["platform"] = json!({"os": "linux", "architecture": platform});
        entry
    }

    fn index(&self, entries: &[serde_json::Value]) -> Digest {
        let index =
            json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries});
        self.put(index.to_string().as_bytes())
    }

    fn push(
        &self,
        host: &str,
        suffix: &str,
        target: &Digest,
    ) -> (Result<Pushed, PushError>, Vec<PushEvent>) {
        let reference = Reference::parse(&format!("{host}/a/b{suffix}")).unwrap();
        let events = Mutex::new(Vec::new());
        let result = push(&self.store, &self.options, &reference, target, &|event| {
            events.lock().unwrap().push(event);
        });
        (result, events.into_inner().unwrap())
    }
}

fn digest_of(entry: &serde_json::Value) -> Digest {
    entry["digest"].as_str().unwrap().parse().unwrap()
}

fn chain(error: &PushError) -> String {
    crate::pull::chain(error)
}

fn is_upload(request: &Request) -> bool {
    request.path().contains("/blobs/uploads/")
}

#[test]
fn everything_arrives_bit_for_bit_and_in_order() {
    let setup = setup();
    let shared = noise(1, 50_000);
    let one = setup.image(&[shared.clone(), noise(2, 500)], "amd64");
    let two = setup.image(&[shared.clone(), noise(3, 5000)], "arm64");
    let index = setup.index(&[one.clone(), two.clone()]);
    let registry = Registry::start(Behaviour::default());
    let (pushed, events) = setup.push(&registry.host(), ":v1", &index);
    let pushed = pushed.unwrap();
    assert_eq!(pushed.digest, index);
    assert_eq!(pushed.media_type, media_type::INDEX);
    assert_eq!(
        registry.blob_names("a/b").len(),
        5,
        "three layers, two configs"
    );
    {
        let content = registry.content.lock().unwrap();
        for ((_, digest), bytes) in &content.blobs {
            let digest = digest.parse().unwrap();
            assert_eq!(setup.store.read_blob(&digest, 1 << 20).unwrap(), *bytes);
        }
        let names: Vec<_> = content
            .manifests
            .keys()
            .map(|(_, name)| name.clone())
            .collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(content.received as u64, pushed.sent);
    }
    // The registry refuses a manifest before its blobs, and an index before its manifests.
    let puts =
        registry.count(|request| request.method == "PUT" && request.path().contains("manif"));
    assert_eq!(puts, 3);
    let of = |event: &dyn Fn(&PushEvent) -> bool| events.iter().filter(|one| event(one)).count();
    assert_eq!(of(&|event| matches!(event, PushEvent::Preparing { .. })), 3);
    assert_eq!(of(&|event| matches!(event, PushEvent::Pushed { .. })), 3);
    let id = Digest::of(&shared);
    let total = shared.len() as u64;
    assert_eq!(
        of(&|event| *event
            == PushEvent::Progress {
                id,
                uploaded: total,
                total
            }),
        1,
        "progress reaches the end"
    );
    assert!(matches!(events.last(), Some(PushEvent::Done { digest, .. }) if *digest == index));

    let before = registry.server.seen().len();
    let (again, events) = setup.push(&registry.host(), ":v1", &index);
    assert_eq!(again.unwrap().sent, 0);
    assert_eq!(
        events
            .iter()
            .filter(|e| matches!(e, PushEvent::Exists { .. }))
            .count(),
        3
    );
    let asked: Vec<_> = registry.server.seen().split_off(before);
    assert!(
        asked
            .iter()
            .all(|r| r.method == "HEAD" || r.path() == "/v2/"),
        "{asked:?}"
    );
    // Another tag needs one manifest, by digest none.
    setup.push(&registry.host(), ":v2", &index).0.unwrap();
    setup
        .push(&registry.host(), &format!("@{index}"), &index)
        .0
        .unwrap();
    let puts =
        registry.count(|request| request.method == "PUT" && request.path().contains("manif"));
    assert_eq!(puts, 4);
    let other = digest_of(&one);
    let error = setup
        .push(&registry.host(), &format!("@{index}"), &other)
        .0
        .unwrap_err();
    assert!(matches!(error, PushError::OtherDigest { .. }), "{error:?}");
}

#[test]
fn blobs_are_mounted_where_the_registry_does_that() {
    for mounts in [true, false] {
        let mut setup = setup();
        let layer = noise(1, 20_000);
        let image = digest_of(&setup.image(std::slice::from_ref(&layer), "amd64"));
        let registry = Registry::start(Behaviour {
            mounts,
            ..Behaviour::default()
        });
        let id = Digest::of(&layer);
        registry
            .content
            .lock()
            .unwrap()
            .blobs
            .insert(("other/place".to_owned(), id.to_string()), layer.clone());
        let from = vec![
            "a/b".to_owned(),
            "none".to_owned(),
            "other/place".to_owned(),
        ];
        setup.options.mounts.insert(id, from);
        let (pushed, events) = setup.push(&registry.host(), "", &image);
        let sent = pushed.unwrap().sent;
        let from = "other/place".to_owned();
        let mounted = events.contains(&PushEvent::Mounted { id, from });
        assert_eq!(mounted, mounts);
        assert_eq!(sent >= 20_000, !mounts);
        assert_eq!(registry.blob_names("a/b").len(), 2);
    }
}

#[test]
fn what_is_missing_is_named() {
    let mut setup = setup();
    let (one, two) = (
        setup.image(&[noise(1, 100)], "amd64"),
        setup.image(&[noise(2, 200)], "arm64"),
    );
    let three = setup.image(&[noise(3, 300)], "s390x");
    let both = setup.index(&[one.clone(), two.clone(), three.clone()]);
    let gone = Digest::of(&noise(2, 200));
    setup.store.remove_blob(&gone).unwrap();
    let registry = Registry::start(Behaviour::default());
    let error = setup.push(&registry.host(), "", &both).0.unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains(&gone.to_string()) && text.contains("linux/arm64"),
        "{text}"
    );
    assert_eq!(registry.server.seen().len(), 0, "nothing is sent before");

    setup.options.platforms = Platforms::Present;
    let error = setup.push(&registry.host(), "", &both).0.unwrap_err();
    assert!(matches!(&error, PushError::Incomplete { present, .. } if present.len() == 2));
    setup.store.remove_blob(&digest_of(&three)).unwrap();
    let pushed = setup.push(&registry.host(), ":one", &both).0.unwrap();
    assert_eq!(pushed.digest, digest_of(&one), "the only one that is whole");
    let all = setup.index(std::slice::from_ref(&one));
    assert_eq!(
        setup.push(&registry.host(), ":all", &all).0.unwrap().digest,
        all
    );
    let none = setup.index(&[two]);
    let error = setup.push(&registry.host(), "", &none).0.unwrap_err();
    assert!(matches!(error, PushError::Missing { .. }), "{error:?}");
}

/// Layers that their owner allows nobody to hand on stay here.
#[test]
fn nondistributable_layers_are_not_pushed() {
    let setup = setup();
    let config = b"{}";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
        "config": {"mediaType": media_type::CONFIG, "digest": setup.put(config), "size": 2},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": setup.put(b"secret"), "size": 6, "urls": ["https://x/"]}]});
    let target = setup.put(manifest.to_string().as_bytes());
    let registry = Registry::start(Behaviour::default());
    let error = setup.push(&registry.host(), "", &target).0.unwrap_err();
    // This registry insists on having everything.
    assert!(chain(&error).contains("400"), "{}", chain(&error));
    assert_eq!(registry.blob_names("a/b").len(), 1);
}

#[test]
fn referrers_are_listed_where_the_registry_has_no_api() {
    for referrers in [true, false] {
        let setup = setup();
        let image = setup.image(&[noise(1, 100)], "amd64");
        let registry = Registry::start(Behaviour {
            referrers,
            ..Behaviour::default()
        });
        setup
            .push(&registry.host(), ":v1", &digest_of(&image))
            .0
            .unwrap();
        for kind in ["application/x.one", "application/x.two"] {
            let empty = json!({"mediaType": "application/vnd.oci.empty.v1+json",
                "digest": setup.put(b"{}"), "size": 2});
            let artefact = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
                "artifactType": kind, "config": empty, "layers": [], "subject": image});
            let target = setup.put(artefact.to_string().as_bytes());
            let digest = format!("@{target}");
            setup.push(&registry.host(), &digest, &target).0.unwrap();
        }
        let client = Client::new(&registry.host(), &setup.options.client).unwrap();
        let subject = digest_of(&image);
        assert_eq!(client.referrers("a/b", &subject, None).unwrap().len(), 2);
        let kind = Some("application/x.two");
        assert_eq!(client.referrers("a/b", &subject, kind).unwrap().len(), 1);
        let other = Digest::of(b"other");
        assert_eq!(client.referrers("a/b", &other, None).unwrap(), []);
    }
}
