use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::model::media_type;
use crate::reference::Reference;
use crate::registry::{Client, ClientOptions, ManifestName, RetryPolicy};
use crate::testing::TestDirectory;
use crate::testing::registry::{Behaviour, Registry};

fn options() -> ClientOptions {
    ClientOptions {
        certificate_directories: Vec::new(),
        retry: RetryPolicy {
            retries: 1,
            delay: Duration::from_millis(1),
            ..RetryPolicy::default()
        },
        ..ClientOptions::default()
    }
}

fn reference(registry: &Registry, rest: &str) -> Reference {
    Reference::parse(&format!("{}/{rest}", registry.host())).unwrap()
}

/// Puts an index of two images with a shared layer into `a/b:v1`, with a referrer of the first.
fn filled() -> (Registry, Digest) {
    let registry = Registry::start(Behaviour::default());
    let client = Client::new(&registry.host(), &options()).unwrap();
    let blob = |kind: &str, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        let key = ("a/b".to_owned(), digest.to_string());
        registry.content.lock().unwrap().blobs.insert(key, bytes);
        json!({"mediaType": kind, "digest": digest, "size": size})
    };
    let layer = blob(
        media_type::LAYER_GZIP,
        (0..5_000_000_u32).map(|i| (i % 251) as u8).collect(),
    );
    let mut entries = Vec::new();
    for platform in ["amd64", "arm64"] {
        let config = blob(media_type::CONFIG, platform.as_bytes().to_vec());
        let document = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
            "config": config, "layers": [layer]})
        .to_string();
        let digest = Digest::of(document.as_bytes());
        let name = ManifestName::Digest(&digest);
        client
            .put_manifest("a/b", name, media_type::MANIFEST, document.as_bytes())
            .unwrap();
        entries.push(json!({"mediaType": media_type::MANIFEST, "digest": digest,
            "size": document.len(), "platform": {"os": "linux", "architecture": platform}}));
    }
    let index = json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries});
    let index = index.to_string();
    let digest = client
        .put_manifest(
            "a/b",
            ManifestName::Tag("v1"),
            media_type::INDEX,
            index.as_bytes(),
        )
        .unwrap();
    let empty = blob("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let signature = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
        "artifactType": "application/x.signature", "config": empty, "layers": [],
        "subject": {"mediaType": media_type::INDEX, "digest": digest, "size": index.len()}})
    .to_string();
    let name = Digest::of(signature.as_bytes());
    let name = ManifestName::Digest(&name);
    client
        .put_manifest("a/b", name, media_type::MANIFEST, signature.as_bytes())
        .unwrap();
    (registry, digest)
}

fn with_referrers() -> CopyOptions {
    CopyOptions {
        referrers: true,
        ..CopyOptions::default()
    }
}

#[test]
fn between_registries_and_through_a_layout() {
    let (first, digest) = filled();
    let second = Registry::start(Behaviour::default());
    let directory = TestDirectory::new();
    let layout = directory.path().join("layout");
    let events = Mutex::new(Vec::new());
    let source = RegistrySource::new(&reference(&first, "a/b:v1"), &options()).unwrap();
    let target = LayoutTarget::new(&layout, Some("one")).unwrap();
    let copied = copy(&source, &target, &with_referrers(), &|event| {
        events.lock().unwrap().push(event);
    })
    .unwrap();
    assert_eq!((copied.digest, copied.manifests), (digest, 4));
    assert_eq!(copied.media_type, media_type::INDEX);
    let events = events.into_inner().unwrap();
    assert_eq!(events.last(), Some(&CopyEvent::Done { digest }));

    let source = LayoutSource::new(&layout, Some("one"));
    let target = RegistryTarget::new(&reference(&second, "c/d:v2"), &options()).unwrap();
    let again = copy(&source, &target, &with_referrers(), &|_| {}).unwrap();
    assert_eq!((again.digest, again.manifests), (digest, 4));
    let (one, two) = (
        first.content.lock().unwrap(),
        second.content.lock().unwrap(),
    );
    assert_eq!(two.blobs.len(), 4);
    for ((_, digest), bytes) in &two.blobs {
        assert!(one.blobs[&("a/b".to_owned(), digest.clone())] == *bytes);
    }
    assert_eq!(two.manifests.len(), one.manifests.len());
    assert!(
        two.manifests
            .contains_key(&("c/d".to_owned(), "v2".to_owned()))
    );
    drop((one, two));

    let other = copy(
        &LayoutSource::new(&layout, None),
        &target,
        &CopyOptions::default(),
        &|_| {},
    );
    assert!(
        matches!(other, Err(CopyError::Unusable { .. })),
        "two entries: {other:?}"
    );
    let missing = LayoutSource::new(&layout, Some("two")).root();
    assert!(
        matches!(missing, Err(CopyError::Unusable { .. })),
        "{missing:?}"
    );
}

#[test]
fn within_one_registry_nothing_is_sent() {
    let (registry, digest) = filled();
    let before = registry.content.lock().unwrap().received;
    let source = RegistrySource::new(&reference(&registry, "a/b:v1"), &options()).unwrap();
    let target = RegistryTarget::new(&reference(&registry, "e/f"), &options()).unwrap();
    let copied = copy(&source, &target, &CopyOptions::default(), &|_| {}).unwrap();
    assert_eq!((copied.digest, copied.sent), (digest, 0));
    let content = registry.content.lock().unwrap();
    assert_eq!(content.received, before);
    assert!(
        content
            .manifests
            .contains_key(&("e/f".to_owned(), "latest".to_owned()))
    );
}

#[test]
fn one_platform_alone() {
    let (first, index) = filled();
    let second = Registry::start(Behaviour::default());
    let source = RegistrySource::new(&reference(&first, "a/b:v1"), &options()).unwrap();
    let target = RegistryTarget::new(&reference(&second, "a/b:arm"), &options()).unwrap();
    let mut wanted = CopyOptions {
        platform: Some("linux/arm64".parse().unwrap()),
        ..CopyOptions::default()
    };
    let copied = copy(&source, &target, &wanted, &|_| {}).unwrap();
    assert_ne!(copied.digest, index);
    assert_eq!(second.blob_names("a/b").len(), 2);
    wanted.platform = Some("linux/s390x".parse().unwrap());
    let error = copy(&source, &target, &wanted, &|_| {}).unwrap_err();
    assert!(matches!(error, CopyError::NoPlatform { .. }), "{error:?}");
}

/// What is damaged at its source arrives nowhere.
#[test]
fn damaged_content_is_not_passed_on() {
    let (first, _) = filled();
    let key = {
        let mut content = first.content.lock().unwrap();
        let (key, bytes) = content
            .blobs
            .iter_mut()
            .max_by_key(|(_, bytes)| bytes.len())
            .unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        key.clone()
    };
    let directory = TestDirectory::new();
    let source = RegistrySource::new(&reference(&first, "a/b:v1"), &options()).unwrap();
    let layout = LayoutTarget::new(directory.path(), Some("x")).unwrap();
    let error = copy(&source, &layout, &CopyOptions::default(), &|_| {}).unwrap_err();
    assert!(
        crate::pull::chain(&error).contains("damaged"),
        "{}",
        crate::pull::chain(&error)
    );
    assert!(!directory.path().join("index.json").exists());
    let names: Vec<_> = std::fs::read_dir(directory.path().join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| key.1.ends_with(name)), "{names:?}");

    let second = Registry::start(Behaviour::default());
    let target = RegistryTarget::new(&reference(&second, "a/b"), &options()).unwrap();
    let error = copy(&source, &target, &CopyOptions::default(), &|_| {}).unwrap_err();
    assert!(
        crate::pull::chain(&error).contains("damaged"),
        "{}",
        crate::pull::chain(&error)
    );
    assert!(second.content.lock().unwrap().manifests.is_empty());
}

#[test]
fn a_broken_target_goes_on_where_it_broke() {
    let (first, digest) = filled();
    let broken = std::sync::atomic::AtomicU32::new(0);
    let second = Registry::start(Behaviour::default().breaks(move |request| {
        use std::sync::atomic::Ordering;
        // Asked before the body and after it.
        let first = request.method == "PATCH" && broken.fetch_add(1, Ordering::Relaxed) < 2;
        first.then_some(3_000_000)
    }));
    let source = RegistrySource::new(&reference(&first, "a/b:v1"), &options()).unwrap();
    let target = RegistryTarget::new(&reference(&second, "a/b"), &options()).unwrap();
    let copied = copy(&source, &target, &CopyOptions::default(), &|_| {}).unwrap();
    assert_eq!(copied.digest, digest);
    let ranged = |request: &crate::testing::Request| request.header("range").is_some();
    assert_eq!(first.count(ranged), 1, "the rest only");
}

/// Indexes of a registry that answers any request with something that leads further.
struct Endless {
    /// Whether every index is another one.
    grows: bool,
    asked: AtomicUsize,
}

impl Endless {
    fn index(&self, names: usize) -> SourceManifest {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let padding = " ".repeat(if self.grows { 1 << 20 } else { 0 });
        let entry = |number: usize| {
            let digest = Digest::of(&number.to_le_bytes());
            json!({"mediaType": media_type::INDEX, "digest": digest, "size": 1})
        };
        let entries: Vec<_> = (0..names)
            .map(|number| entry(if self.grows { number } else { 0 }))
            .collect();
        let number = if self.grows { asked } else { names };
        let bytes = json!({"schemaVersion": 2, "mediaType": media_type::INDEX,
            "annotations": {"number": number.to_string()}, "manifests": entries});
        let bytes = format!("{bytes}{padding}").into_bytes();
        SourceManifest {
            digest: Digest::of(&bytes),
            bytes,
            media_type: None,
        }
    }
}

impl BlobSource for Endless {
    fn name(&self) -> String {
        "endless".to_owned()
    }

    fn root(&self) -> Result<SourceManifest, CopyError> {
        Ok(self.index(1000))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<SourceManifest, CopyError> {
        Ok(SourceManifest {
            digest: descriptor.digest,
            ..self.index(0)
        })
    }

    fn open<'a>(
        &'a self,
        _descriptor: &Descriptor,
        _offset: u64,
    ) -> Result<Box<dyn Read + 'a>, CopyError> {
        unreachable!("an index has no blobs")
    }
}

/// CVE-2023-25153 for the sum of what a hostile registry has, and for the number of questions.
#[test]
fn documents_of_a_source_are_limited() {
    let source = |grows| Endless {
        grows,
        asked: Default::default(),
    };
    let directory = TestDirectory::new();
    let target = LayoutTarget::new(directory.path(), None).unwrap();
    let error = copy(&source(true), &target, &CopyOptions::default(), &|_| {}).unwrap_err();
    assert!(
        matches!(error, CopyError::TooManyDocuments { .. }),
        "{error:?}"
    );
    let same = source(false);
    copy(&same, &target, &CopyOptions::default(), &|_| {}).unwrap();
    assert_eq!(same.asked.into_inner(), 2);
}

/// What has a blob's name and size is not the blob yet, and a link is not followed.
#[test]
fn damaged_blobs_of_a_layout_are_replaced() {
    let (first, _) = filled();
    let source = RegistrySource::new(&reference(&first, "a/b:v1"), &options()).unwrap();
    let directory = TestDirectory::new();
    let layout = directory.path().join("layout");
    let target = LayoutTarget::new(&layout, Some("x")).unwrap();
    let whole = copy(&source, &target, &CopyOptions::default(), &|_| {}).unwrap();
    let (key, bytes) = {
        let content = first.content.lock().unwrap();
        let (key, bytes) = content
            .blobs
            .iter()
            .max_by_key(|(_, bytes)| bytes.len())
            .unwrap();
        (key.clone(), bytes.clone())
    };
    let blob = layout
        .join("blobs/sha256")
        .join(key.1.strip_prefix("sha256:").unwrap());
    std::fs::write(&blob, vec![0; bytes.len()]).unwrap();
    let again = copy(&source, &target, &CopyOptions::default(), &|_| {}).unwrap();
    assert_eq!(again.sent, bytes.len() as u64, "the others are there");
    assert!(again.sent < whole.sent);
    assert!(std::fs::read(&blob).unwrap() == bytes);

    let elsewhere = directory.path().join("elsewhere");
    std::fs::rename(&blob, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &blob).unwrap();
    copy(&source, &target, &CopyOptions::default(), &|_| {}).unwrap();
    assert!(std::fs::symlink_metadata(&blob).unwrap().is_file());
}

/// Several copies into one layout: no name is lost.
#[test]
fn one_layout_takes_several_copies_at_once() {
    let (first, _) = filled();
    let directory = TestDirectory::new();
    let names: Vec<String> = (0..8).map(|number| format!("v{number}")).collect();
    let barrier = std::sync::Barrier::new(names.len());
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| {
                let source = RegistrySource::new(&reference(&first, "a/b:v1"), &options()).unwrap();
                let target = LayoutTarget::new(directory.path(), Some(name)).unwrap();
                let root = source.root().unwrap();
                let descriptor = Descriptor::of(media_type::INDEX, &root.bytes);
                barrier.wait();
                target.put_manifest(&descriptor, &root.bytes, true).unwrap();
            });
        }
    });
    for name in &names {
        let source = LayoutSource::new(directory.path(), Some(name));
        source.root().unwrap();
    }
}
