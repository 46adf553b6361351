use super::*;
use crate::archive::{SavedImage, TarWriter, save};
use crate::testing::{TestDirectory, tar};

fn config(diff_ids: &[Digest]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["a"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    }))
    .unwrap()
}

/// An archive that `docker save` of before version 25 would write, with one layer as a link.
fn docker_archive(entries: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
    use crate::tar::{Entry, EntryKind, Timestamp};
    let mut writer = TarWriter::new(Vec::new());
    for (name, bytes) in entries {
        writer.document(name, bytes).unwrap();
    }
    for (name, target) in links {
        writer
            .entry(&Entry {
                path: name.as_bytes().to_vec(),
                kind: EntryKind::Symlink,
                link: target.as_bytes().to_vec(),
                mode: 0o777,
                uid: 0,
                gid: 0,
                size: 0,
                mtime: Timestamp::default(),
                device: (0, 0),
                xattrs: Vec::new(),
                sparse: false,
            })
            .unwrap();
    }
    writer.finish().unwrap()
}

fn store() -> (TestDirectory, Store) {
    let directory = TestDirectory::new();
    let store = Store::open(&directory.path().join("data")).unwrap();
    (directory, store)
}

fn try_load(archive: &[u8]) -> Result<Vec<Loaded>, LoadError> {
    let (_directory, store) = store();
    let loaded = load(&store, archive, &LoadOptions::default());
    if loaded.is_err() {
        assert!(store.list_blobs().unwrap().is_empty());
        assert!(store.list_layers().unwrap().is_empty());
    }
    loaded
}

fn simple() -> (Vec<u8>, Vec<u8>, String) {
    let layer = tar(&[("a", b"1"), ("d/", b"")]);
    let config = config(&[Digest::of(&layer), Digest::of(&layer)]);
    let name = format!("{}.json", Digest::of(&config).hex());
    (layer, config, name)
}

#[test]
fn old_and_new_round_trip() {
    let (layer, config, name) = simple();
    let list = format!(
        r#"[{{"Config":"{name}","RepoTags":["x/y:1"],"Layers":["l1/layer.tar","l2/layer.tar"]}}]"#
    );
    let archive = docker_archive(
        &[
            ("l1/VERSION", b"1.0"),
            ("l1/layer.tar", &layer),
            (&name, &config),
            ("manifest.json", list.as_bytes()),
            ("repositories", b"{}"),
        ],
        &[("l2/layer.tar", "../l1/layer.tar")],
    );
    let (_directory, first) = store();
    let loaded = load(&first, &archive[..], &LoadOptions::default()).unwrap();
    assert_eq!(loaded.len(), 1);
    let image = &loaded[0];
    assert_eq!(image.image.config_digest, Digest::of(&config));
    assert_eq!(image.names[0].familiar(), "x/y:1");
    let saved = |store: &Store, image: &Loaded| {
        let images = [SavedImage {
            target: image.target,
            manifest: image.image.manifest_digest,
            names: image.names.clone(),
            tag: None,
        }];
        save(store, &images, Vec::new()).unwrap()
    };
    let written = saved(&first, image);
    let (_other, second) = store_again();
    let again = load(&second, &written[..], &LoadOptions::default()).unwrap();
    assert_eq!(again[0].target, image.target);
    assert_eq!(again[0].image.config_raw, config);
    assert_eq!(again[0].names, image.names);
    assert_eq!(saved(&second, &again[0]), written);
    // Compressed as a whole, the other way in.
    let zstd = zstd::encode_all(&written[..], 1).unwrap();
    assert_eq!(try_load(&zstd).unwrap()[0].target, image.target);
}

fn store_again() -> (TestDirectory, Store) {
    store()
}

/// Section 3 of the list of escapes, as far as it concerns archives of images; each of them must
/// leave nothing behind.
#[test]
fn hostile_archives() {
    let (layer, config, name) = simple();
    let list = |config: &str, layers: &str| {
        format!(r#"[{{"Config":"{config}","RepoTags":["x:1"],"Layers":{layers}}}]"#)
    };
    let both = r#"["l/layer.tar","l/layer.tar"]"#;
    let good = list(&name, both);
    let wrong_name = format!("{}.json", "0".repeat(64));
    let other = tar(&[("b", b"2")]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", docker_archive(&[("x", b"")], &[])),
        (
            "no tar",
            b"hello, this is no archive of any kind".repeat(40),
        ),
        (
            "CVE-2014-9358: an id that is not its content's digest",
            docker_archive(
                &[
                    (&wrong_name, &config),
                    ("l/layer.tar", &layer),
                    ("manifest.json", list(&wrong_name, both).as_bytes()),
                ],
                &[],
            ),
        ),
        (
            "CVE-2014-9358: a config outside of the archive",
            docker_archive(
                &[
                    ("l/layer.tar", &layer),
                    ("manifest.json", list("../../etc/passwd", both).as_bytes()),
                ],
                &[],
            ),
        ),
        (
            "CVE-2014-6407: a link that leaves the archive",
            docker_archive(
                &[(&name, &config), ("manifest.json", good.as_bytes())],
                &[("l/layer.tar", "../../../etc/passwd")],
            ),
        ),
        (
            "an absolute link",
            docker_archive(
                &[(&name, &config), ("manifest.json", good.as_bytes())],
                &[("l/layer.tar", "/etc/passwd")],
            ),
        ),
        (
            "links in a circle",
            docker_archive(
                &[(&name, &config), ("manifest.json", good.as_bytes())],
                &[("l/layer.tar", "m"), ("l/m", "layer.tar")],
            ),
        ),
        (
            "U22: a layer that is not the one of the config",
            docker_archive(
                &[
                    (&name, &config),
                    ("l/layer.tar", &other),
                    ("manifest.json", good.as_bytes()),
                ],
                &[],
            ),
        ),
        (
            "GHSA-xmmx: one name, two files",
            docker_archive(
                &[
                    (&name, &config),
                    ("l/layer.tar", &layer),
                    ("l/layer.tar", &other),
                    ("manifest.json", good.as_bytes()),
                ],
                &[],
            ),
        ),
        (
            "CVE-2021-41190: index.json and manifest.json name different images",
            docker_archive(
                &[
                    ("index.json", br#"{"schemaVersion":2,"manifests":[]}"#),
                    (&name, &config),
                    ("l/layer.tar", &layer),
                    ("manifest.json", good.as_bytes()),
                ],
                &[],
            ),
        ),
        (
            "CVE-2023-25153: a document without end",
            docker_archive(
                &[
                    ("manifest.json", &vec![b' '; 5 << 20][..]),
                    (&name, &config),
                ],
                &[],
            ),
        ),
        (
            "a name above the root",
            docker_archive(&[("../x", b""), ("manifest.json", good.as_bytes())], &[]),
        ),
        (
            "more DiffIDs than layers (CVE-2024-36620)",
            docker_archive(
                &[
                    (&name, &config),
                    ("l/layer.tar", &layer),
                    (
                        "manifest.json",
                        list(&name, r#"["l/layer.tar"]"#).as_bytes(),
                    ),
                ],
                &[],
            ),
        ),
    ];
    for (what, archive) in cases {
        let loaded = try_load(&archive);
        assert!(loaded.is_err(), "{what}: {loaded:?}");
    }
    let fine = docker_archive(
        &[
            (&name, &config),
            ("l/layer.tar", &layer),
            ("manifest.json", good.as_bytes()),
        ],
        &[],
    );
    assert!(try_load(&fine).is_ok());
    // Every cut of it is refused, or is whole without what follows.
    for length in (0..fine.len() - 1024).step_by(307) {
        assert!(try_load(&fine[..length]).is_err(), "cut at {length}");
    }
}

/// An archive that decompresses to more than its size explains stops early.
#[test]
fn a_bomb() {
    let zeros = docker_archive(&[("x", &vec![0; 8 << 20][..])], &[]);
    let small = zstd::encode_all(&zeros[..], 19).unwrap();
    let (_directory, store) = store();
    let options = LoadOptions {
        expansion: Expansion {
            free: 1 << 20,
            ratio: 10,
            total: 1 << 30,
        },
        ..LoadOptions::default()
    };
    let loaded = load(&store, &small[..], &options);
    assert!(
        matches!(loaded, Err(LoadError::Archive(SpoolError::TooLarge { .. }))),
        "{loaded:?}"
    );
}

/// The platform asked for is chosen out of an index; all of it is there if none is.
#[test]
fn platforms_of_an_index() {
    let layer = tar(&[("a", b"1")]);
    let mut documents: Vec<(String, Vec<u8>)> = vec![(
        super::super::spool::blob_path(&Digest::of(&layer)),
        layer.clone(),
    )];
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}
        }))
        .unwrap();
        let manifest = serde_json::to_vec(&Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            config: Descriptor::of(media_type::CONFIG, &config),
            layers: vec![Descriptor::of(media_type::LAYER, &layer)],
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        })
        .unwrap();
        let mut entry = Descriptor::of(media_type::MANIFEST, &manifest);
        entry.platform = Some(Platform::new("linux", architecture, None));
        manifests.push(entry);
        for bytes in [config, manifest] {
            documents.push((super::super::spool::blob_path(&Digest::of(&bytes)), bytes));
        }
    }
    let index = |manifests: Vec<Descriptor>| {
        serde_json::to_vec(&Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.into()),
            manifests,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        })
        .unwrap()
    };
    let inner = index(manifests);
    let mut entry = Descriptor::of(media_type::INDEX, &inner);
    entry.annotations.insert(
        super::super::layout::IMAGE_NAME.into(),
        "docker.io/library/m:1".into(),
    );
    documents.push((super::super::spool::blob_path(&Digest::of(&inner)), inner));
    documents.push(("index.json".into(), index(vec![entry])));
    let borrowed: Vec<(&str, &[u8])> = documents
        .iter()
        .map(|(name, bytes)| (name.as_str(), &bytes[..]))
        .collect();
    let archive = docker_archive(&borrowed, &[]);
    let (_directory, store) = store();
    let arm = LoadOptions {
        platform: Some("linux/arm64".parse().unwrap()),
        ..LoadOptions::default()
    };
    let one = load(&store, &archive[..], &arm).unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].image.config.architecture, "arm64");
    assert_eq!(one[0].names[0].familiar(), "m:1");
    let all = load(&store, &archive[..], &LoadOptions::default()).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all.iter().map(|image| image.names.len()).sum::<usize>(), 1);
    let none = LoadOptions {
        platform: Some("linux/s390x".parse().unwrap()),
        ..LoadOptions::default()
    };
    assert!(matches!(
        load(&store, &archive[..], &none),
        Err(LoadError::NoPlatform { .. })
    ));
}

/// Documents by their digests, as an OCI layout has them, and what lies beside them.
#[derive(Default)]
struct Layout(Vec<(String, Vec<u8>)>);

impl Layout {
    fn put(&mut self, bytes: &[u8]) {
        let path = super::super::spool::blob_path(&Digest::of(bytes));
        if !self.0.iter().any(|(known, _)| *known == path) {
            self.0.push((path, bytes.to_vec()));
        }
    }

    fn index(&mut self, manifests: Vec<Descriptor>) -> Descriptor {
        let bytes = index(manifests);
        self.put(&bytes);
        Descriptor::of(media_type::INDEX, &bytes)
    }

    /// An image of one layer; its config's digest too.
    fn image(&mut self, layer: &[u8], diff_id: Digest) -> (Descriptor, Digest) {
        let config = config(&[diff_id]);
        let manifest = serde_json::to_vec(&Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            config: Descriptor::of(media_type::CONFIG, &config),
            layers: vec![Descriptor::of(media_type::LAYER, layer)],
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        })
        .unwrap();
        for bytes in [layer, &config, &manifest] {
            self.put(bytes);
        }
        let descriptor = Descriptor::of(media_type::MANIFEST, &manifest);
        (descriptor, Digest::of(&config))
    }

    fn archive(&self, entries: Vec<Descriptor>, list: Option<&str>) -> Vec<u8> {
        let index = index(entries);
        let mut files: Vec<(&str, &[u8])> = self
            .0
            .iter()
            .map(|(name, bytes)| (name.as_str(), &bytes[..]))
            .collect();
        files.push(("index.json", &index));
        files.extend(list.map(|list| ("manifest.json", list.as_bytes())));
        docker_archive(&files, &[])
    }
}

fn index(manifests: Vec<Descriptor>) -> Vec<u8> {
    serde_json::to_vec(&Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.into()),
        manifests,
        annotations: BTreeMap::new(),
        extra: BTreeMap::new(),
    })
    .unwrap()
}

fn named_entry(descriptor: &Descriptor, name: &str) -> Descriptor {
    let mut entry = descriptor.clone();
    let key = super::super::layout::IMAGE_NAME;
    entry.annotations.insert(key.into(), name.into());
    entry
}

/// Without a memory of what was read this is 10,000 times 10,000 times the same image.
#[test]
fn indexes_that_repeat_themselves_are_read_once() {
    let mut layout = Layout::default();
    let layer = tar(&[("a", b"1")]);
    let (image, _) = layout.image(&layer, Digest::of(&layer));
    let inner = layout.index(vec![image; 10_000]);
    let outer = layout.index(vec![inner; 10_000]);
    let entries = (0..10_000)
        .map(|number| named_entry(&outer, &format!("docker.io/library/x:{number}")))
        .collect();
    let loaded = try_load(&layout.archive(entries, None)).unwrap();
    assert_eq!((loaded.len(), loaded[0].names.len()), (1, 10_000));
}

/// CVE-2023-25153 for the sum: 20 indexes that each lead to one of 4 MiB.
#[test]
fn the_sum_of_documents_is_limited() {
    let mut layout = Layout::default();
    let mut large = index(Vec::new());
    large.resize(4 << 20, b' ');
    layout.put(&large);
    let large = Descriptor::of(media_type::INDEX, &large);
    let entries = (0..20)
        .map(|number| layout.index(vec![named_entry(&large, &number.to_string())]))
        .collect();
    let loaded = try_load(&layout.archive(entries, None));
    assert!(
        matches!(loaded, Err(LoadError::TooManyDocuments(_))),
        "{loaded:?}"
    );
}

/// Names stay in memory, and those of directories take time: both count.
#[test]
fn names_are_limited() {
    let write = |count: usize, length: usize| {
        let mut writer = TarWriter::new(Vec::new());
        for number in 0..count {
            let name = format!("{number:06}/{}", "x/".repeat(length / 2));
            writer.directory(&name).unwrap();
        }
        writer.finish().unwrap()
    };
    let loaded = try_load(&write(9000, 4000));
    assert!(
        matches!(loaded, Err(LoadError::Archive(SpoolError::LongNames))),
        "{loaded:?}"
    );
    let loaded = try_load(&write(1, 5000));
    assert!(
        matches!(loaded, Err(LoadError::Archive(SpoolError::Name { .. }))),
        "{loaded:?}"
    );
}

/// A layer that is here does not vouch for a blob that says to be it.
#[test]
fn blobs_of_known_layers_are_verified() {
    let (layer, other) = (tar(&[("a", b"1")]), tar(&[("b", b"2")]));
    let mut layout = Layout::default();
    let (image, _) = layout.image(&layer, Digest::of(&layer));
    let (_directory, store) = store();
    let good = layout.archive(vec![image], None);
    load(&store, &good[..], &LoadOptions::default()).unwrap();

    let mut layout = Layout::default();
    let (forged, _) = layout.image(&other, Digest::of(&layer));
    let forged = layout.archive(vec![forged], None);
    let loaded = load(&store, &forged[..], &LoadOptions::default());
    assert!(
        matches!(&loaded, Err(LoadError::Layer { source, .. })
            if matches!(**source, LayerError::DiffId { .. })),
        "{loaded:?}"
    );
    assert!(!store.has_blob(&Digest::of(&other)).unwrap());

    // The same layer in another form is fine.
    let packed = zstd::encode_all(&layer[..], 1).unwrap();
    let mut layout = Layout::default();
    let (image, _) = layout.image(&packed, Digest::of(&layer));
    let archive = layout.archive(vec![image], None);
    load(&store, &archive[..], &LoadOptions::default()).unwrap();
    assert!(store.has_blob(&Digest::of(&packed)).unwrap());
}

/// CVE-2021-41190: what one reader takes for `x:1` is not what another does.
#[test]
fn a_name_is_one_image_in_both_lists() {
    let (first, second) = (tar(&[("a", b"1")]), tar(&[("b", b"2")]));
    let mut layout = Layout::default();
    let (one, one_config) = layout.image(&first, Digest::of(&first));
    let (two, two_config) = layout.image(&second, Digest::of(&second));
    let list = |config: &Digest, name: &str| {
        let config = super::super::spool::blob_path(config);
        format!(r#"[{{"Config":"{config}","RepoTags":["{name}"],"Layers":[]}}]"#)
    };
    let entries = vec![named_entry(&one, "docker.io/library/x:1"), two.clone()];
    let swapped = layout.archive(entries.clone(), Some(&list(&two_config, "x:1")));
    let loaded = try_load(&swapped);
    assert!(
        matches!(loaded, Err(LoadError::Ambiguous { .. })),
        "{loaded:?}"
    );
    for (config, name) in [(&one_config, "x:1"), (&two_config, "x:2")] {
        let archive = layout.archive(entries.clone(), Some(&list(config, name)));
        assert!(try_load(&archive).is_ok(), "{name}");
    }
    // One document by two descriptors, of which one makes an attestation of it.
    let mut other = one.clone();
    other.media_type = media_type::DOCKER_MANIFEST.into();
    let loaded = try_load(&layout.archive(vec![one, other], None));
    assert!(
        matches!(
            loaded,
            Err(LoadError::Ambiguous { .. } | LoadError::Document { .. })
        ),
        "{loaded:?}"
    );
}

/// As Docker does: what one list names twice is the last of the two, and the first loses the name.
/// A name must not stand for the first here and for the last there (CVE-2021-41190).
#[test]
fn the_last_image_of_a_list_has_the_name() {
    let (first, second) = (tar(&[("a", b"1")]), tar(&[("b", b"2")]));
    let mut layout = Layout::default();
    let (one, one_config) = layout.image(&first, Digest::of(&first));
    let (two, two_config) = layout.image(&second, Digest::of(&second));
    let listed = |config: &Digest, layer: &Digest| {
        let (config, layer) = (
            super::super::spool::blob_path(config),
            super::super::spool::blob_path(layer),
        );
        format!(r#"{{"Config":"{config}","RepoTags":["x:1"],"Layers":["{layer}"]}}"#)
    };
    let list = |images: [(&Digest, &Vec<u8>); 2]| {
        let images = images.map(|(config, layer)| listed(config, &Digest::of(layer)));
        format!("[{}]", images.join(","))
    };
    let forth = list([(&one_config, &first), (&two_config, &second)]);
    let back = list([(&two_config, &second), (&one_config, &first)]);
    let entries = |images: [&Descriptor; 2]| {
        let named = images.map(|image| named_entry(image, "docker.io/library/x:1"));
        named.to_vec()
    };
    let check = |archive: &[u8], winner: &Digest, how: &str| {
        for image in try_load(archive).unwrap() {
            let has = |names: &[Reference]| names.iter().any(|name| name.familiar() == "x:1");
            let wins = image.image.config_digest == *winner;
            assert_eq!(
                (has(&image.names), has(&image.renamed)),
                (wins, !wins),
                "{how}"
            );
        }
    };
    let plain = |list: &str| {
        let mut files: Vec<(&str, &[u8])> = Vec::new();
        files.extend(
            layout
                .0
                .iter()
                .map(|(name, bytes)| (name.as_str(), &bytes[..])),
        );
        files.push(("manifest.json", list.as_bytes()));
        docker_archive(&files, &[])
    };
    check(&plain(&forth), &two_config, "manifest.json");
    check(&plain(&back), &one_config, "manifest.json, back");
    let indexed = entries([&one, &two]);
    check(
        &layout.archive(indexed.clone(), None),
        &two_config,
        "index.json",
    );
    let turned = layout.archive(entries([&two, &one]), None);
    check(&turned, &one_config, "index.json, back");
    check(
        &layout.archive(indexed.clone(), Some(&forth)),
        &two_config,
        "both",
    );
    let loaded = try_load(&layout.archive(indexed, Some(&back)));
    assert!(
        matches!(loaded, Err(LoadError::Ambiguous { .. })),
        "{loaded:?}"
    );
    // Named in manifest.json alone.
    let bare = layout.archive(vec![one.clone(), two.clone()], Some(&back));
    check(&bare, &one_config, "manifest.json of both");
}
