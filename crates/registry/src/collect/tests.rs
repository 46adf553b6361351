use super::*;
use crate::api::write_manifest;
use crate::testing::Directory;
use gantry_image::model::media_type;
use serde_json::{Value, json};

struct Root {
    directory: Directory,
    storage: Storage,
}

impl Root {
    fn new() -> Self {
        let directory = Directory::new();
        let storage = Storage::open(directory.path()).unwrap();
        drop(storage.lock_serving().unwrap());
        Self { directory, storage }
    }

    fn blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let name = RepositoryName::parse(name).unwrap();
        let id = self.storage.start_upload(&name).unwrap();
        let mut upload = self.storage.open_upload(&name, &id).unwrap().unwrap();
        upload.append(bytes).unwrap();
        self.storage
            .finish_upload(&name, &upload, &Digest::of(bytes))
            .unwrap();
        Digest::of(bytes)
    }

    fn manifest(&self, name: &str, tag: Option<&str>, document: &Value) -> Digest {
        let (name, bytes) = (RepositoryName::parse(name).unwrap(), document.to_string());
        let digest = Digest::of(bytes.as_bytes());
        let outline = Outline::read(bytes.as_bytes(), None).unwrap();
        write_manifest(
            &self.storage,
            &name,
            tag,
            &digest,
            &outline,
            bytes.as_bytes(),
        )
        .unwrap();
        digest
    }

    fn image(&self, name: &str, tag: Option<&str>, layer: &[u8]) -> Digest {
        let layer_digest = self.blob(name, layer);
        self.manifest(name, tag, &image(&layer_digest, None))
    }

    fn collect(&self, change: impl FnOnce(&mut CollectOptions)) -> Collected {
        let mut options = CollectOptions {
            grace: Duration::ZERO,
            ..CollectOptions::default()
        };
        change(&mut options);
        // Ages are counted in whole seconds.
        std::thread::sleep(Duration::from_millis(1100));
        collect(self.directory.path(), &options).unwrap()
    }

    fn has(&self, digest: &Digest) -> bool {
        self.storage.store.has_blob(digest).unwrap()
    }
}

fn image(layer: &Digest, subject: Option<&Digest>) -> Value {
    let mut document = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST,
        "config": { "mediaType": "x/y", "digest": layer.to_string(), "size": 1 }, "layers": [],
    });
    if let Some(subject) = subject {
        document["subject"] =
            json!({ "mediaType": media_type::MANIFEST, "digest": subject.to_string(), "size": 1 });
    }
    document
}

#[test]
fn only_what_nobody_refers_to_goes() {
    let root = Root::new();
    let tagged = root.image("a", Some("v1"), b"one");
    let untagged = root.image("a", None, b"two");
    let stray = root.blob("a", b"stray");
    root.blob("b", b"one");
    let shared = root.blob("b", b"stray2");
    root.manifest("c", Some("v1"), &image(&root.blob("c", b"stray2"), None));
    let dry = root.collect(|options| options.dry_run = true);
    let done = root.collect(|_| ());
    assert_eq!(
        (dry.blobs, dry.links.len()),
        (done.blobs.clone(), done.links.len())
    );
    assert_eq!(done.blobs, [stray]);
    assert_eq!(done.bytes, 5);
    assert!(done.manifests.is_empty());
    // Taken from b, where nothing refers to them; kept by the others.
    assert_eq!(done.links.len(), 3);
    let b = RepositoryName::parse("b").unwrap();
    assert!(!root.storage.has_blob(&b, &shared).unwrap());
    for digest in [
        tagged,
        untagged,
        Digest::of(b"one"),
        Digest::of(b"two"),
        shared,
    ] {
        assert!(root.has(&digest), "{digest}");
    }
    assert_eq!(root.collect(|_| ()), Collected::default());
}

#[test]
fn untagged_manifests_go_when_that_is_meant() {
    let root = Root::new();
    let old = root.image("a", Some("v1"), b"old");
    let new = root.image("a", Some("v1"), b"new");
    // Of an index that is tagged; a referrer of what stays, and one of what goes.
    let child = root.image("a", None, b"child");
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [
        { "mediaType": media_type::MANIFEST, "digest": child.to_string(), "size": 1 }] });
    let index = root.manifest("a", Some("multi"), &index);
    let signature = root.manifest("a", None, &image(&root.blob("a", b"s1"), Some(&child)));
    let lost = root.manifest("a", None, &image(&root.blob("a", b"s2"), Some(&old)));
    let done = root.collect(|options| options.untagged = true);
    let mut expected = vec![format!("a@{old}"), format!("a@{lost}")];
    let mut found = done.manifests.clone();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    for digest in [
        new,
        child,
        index,
        signature,
        Digest::of(b"s1"),
        Digest::of(b"child"),
    ] {
        assert!(root.has(&digest), "{digest}");
    }
    for digest in [old, lost, Digest::of(b"old"), Digest::of(b"s2")] {
        assert!(!root.has(&digest), "{digest}");
    }
    let a = RepositoryName::parse("a").unwrap();
    assert!(root.storage.referrers(&a, &old).unwrap().is_empty());
    assert_eq!(root.storage.referrers(&a, &child).unwrap(), [signature]);
}

/// A push under way: its blobs are not referred to yet.
#[test]
fn the_young_stay() {
    let root = Root::new();
    let blob = root.blob("a", b"new");
    let untagged = root.image("a", None, b"x");
    let done = root.collect(|options| {
        options.grace = Duration::from_secs(3600);
        options.untagged = true;
    });
    assert_eq!(done, Collected::default());
    assert!(root.has(&blob) && root.has(&untagged));
}

/// Nobody knows what a damaged manifest refers to, so all of its repository stays.
#[test]
fn a_damaged_manifest_keeps_its_blobs() {
    let root = Root::new();
    let manifest = root.image("a", Some("v1"), b"layer");
    std::fs::write(root.storage.store.blob_path(&manifest), "rubbish").unwrap();
    let done = root.collect(|_| ());
    assert_eq!(done.damaged, [format!("a@{manifest}")]);
    assert!(done.blobs.is_empty() && done.links.is_empty());
    assert!(root.has(&Digest::of(b"layer")));
}

/// While somebody adds to a repository, nothing is removed.
#[test]
fn pushes_hold_the_collector_off() {
    let root = Root::new();
    root.blob("a", b"stray");
    let keep = root.storage.keep().unwrap();
    let options = CollectOptions {
        grace: Duration::ZERO,
        patience: Duration::from_millis(50),
        ..CollectOptions::default()
    };
    let error = collect(root.directory.path(), &options).unwrap_err();
    assert!(matches!(error, StorageError::Busy { .. }), "{error}");
    drop(keep);
    assert_eq!(root.collect(|_| ()).blobs.len(), 1);
}

/// What a damaged index leads to is unknown: its images may be meant by its tag.
#[test]
fn a_damaged_index_keeps_all_manifests() {
    let root = Root::new();
    let child = root.image("a", None, b"child");
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [
        { "mediaType": media_type::MANIFEST, "digest": child.to_string(), "size": 1 }] });
    let index = root.manifest("a", Some("multi"), &index);
    let elsewhere = root.image("b", None, b"other");
    std::fs::write(root.storage.store.blob_path(&index), "rubbish").unwrap();
    let done = root.collect(|options| options.untagged = true);
    assert_eq!(done.damaged, [format!("a@{index}")]);
    assert_eq!(done.manifests, [format!("b@{elsewhere}")]);
    assert!(root.has(&child) && root.has(&Digest::of(b"child")));
}

/// What no repository knows of may have come by a way that was not foreseen.
#[test]
fn young_content_stays_whoever_has_it() {
    let root = Root::new();
    let ingest = root.storage.store.ingest().unwrap();
    let staged = ingest.blob_of(b"unknown").unwrap();
    ingest.commit(vec![staged], Vec::new()).unwrap();
    let hour = |options: &mut CollectOptions| options.grace = Duration::from_secs(3600);
    assert_eq!(root.collect(hour), Collected::default());
    let done = root.collect(|_| ());
    assert_eq!((done.blobs, done.bytes), (vec![Digest::of(b"unknown")], 7));
}

/// Image layouts of others, and the engine's own store, have blobs that no repository knows.
#[test]
fn only_a_registry_is_collected() {
    let served = [
        "blobs/sha256/",
        "repositories/",
        "uploads/",
        "serving",
        "oci-layout",
    ];
    let layout = ["blobs/sha256/", "oci-layout"];
    let with = |parts: &[&'static str], more: &'static str| [parts, &[more]].concat();
    for (parts, is_foreign) in [
        (with(&layout, "index.json"), true),
        (with(&layout, "state.db"), true),
        (with(&served, "state.db"), true),
        (with(&served, "index.json"), true),
        (with(&layout, "repositories/"), false),
        (with(&layout, "serving"), false),
        (layout.to_vec(), false),
        (Vec::new(), false),
    ] {
        let directory = Directory::new();
        for part in &parts {
            let path = directory.path().join(part);
            match part.strip_suffix('/') {
                Some(_) => std::fs::create_dir_all(path).unwrap(),
                None => std::fs::write(path, "").unwrap(),
            }
        }
        let precious = directory.path().join("blobs/sha256").join("a".repeat(64));
        let has_blobs = parts.contains(&"blobs/sha256/");
        if has_blobs {
            std::fs::write(&precious, "x").unwrap();
        }
        let listed = || {
            let entries = std::fs::read_dir(directory.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = listed();
        let options = CollectOptions {
            grace: Duration::ZERO,
            ..CollectOptions::default()
        };
        let error = collect(directory.path(), &options).unwrap_err();
        assert!(
            match error {
                StorageError::Foreign { .. } => is_foreign,
                StorageError::Absent { .. } => !is_foreign,
                _ => false,
            },
            "{parts:?}: {error}"
        );
        if is_foreign {
            let error = crate::serve(crate::Options::new(directory.path())).unwrap_err();
            assert!(error.to_string().contains("something else"), "{error}");
        }
        assert_eq!(listed(), before, "{parts:?}");
        assert_eq!(precious.exists(), has_blobs);
    }
}
