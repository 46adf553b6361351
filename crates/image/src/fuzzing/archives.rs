//! Archives of images, and archives to import.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::documents::WORDS;
use super::tar::{Names, archive};
use super::world::in_a_world;
use super::{Random, for_a_while, json as values};
use crate::archive::{LoadOptions, load};
use crate::digest::Digest;
use crate::import::{ImportOptions, import};
use crate::model::media_type;
use crate::reference::Reference;
use crate::store::Store;
use crate::tar::testing::Archive;
use crate::testing::{TestDirectory, tar};
use crate::unpack::Expansion;

const NAMES: [&str; 22] = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "../../../../../../tmp/canary/file",
    "manifest.json",
    "index.json",
    "oci-layout",
    "repositories",
    "config.json",
    "layer.tar",
    "l1/layer.tar",
    "blobs/sha256/x",
    "x:1",
    "x:2",
    "docker.io/library/x:1",
    "X:1",
    "x@sha256:00",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.json",
    "Config",
    "RepoTags",
];

/// A place for a store, with something beside it that nothing may touch.
struct Place(TestDirectory);

const PRECIOUS: &[u8] = b"precious";

impl Place {
    fn new() -> Self {
        let directory = TestDirectory::new();
        let canary = std::env::temp_dir().join("canary");
        fs::create_dir_all(&canary).unwrap();
        fs::write(canary.join("file"), PRECIOUS).unwrap();
        fs::write("/canary", PRECIOUS).unwrap();
        Self(directory)
    }

    fn store(&self) -> Store {
        Store::open(&self.0.path().join("data")).unwrap()
    }

    fn check(&self, store: &Store, failed: bool) {
        assert_eq!(fs::read("/tmp/canary/file").unwrap(), PRECIOUS);
        assert_eq!(fs::read("/canary").unwrap(), PRECIOUS);
        let around = |path: &str| {
            let names = fs::read_dir(path).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names
                .filter(|name| !name.starts_with("gantry-"))
                .collect::<Vec<_>>()
        };
        let mut top = around("/");
        top.sort();
        assert_eq!(
            (top, around("/tmp")),
            (
                vec!["canary".to_owned(), "tmp".to_owned()],
                vec!["canary".to_owned()]
            )
        );
        let blobs = store.list_blobs().unwrap();
        let layers = store.list_layers().unwrap();
        assert!(
            !failed || blobs.is_empty() && layers.is_empty(),
            "{blobs:?} {layers:?}"
        );
        // U22: what a store has is what its name says.
        for digest in blobs {
            assert_eq!(
                Digest::of(&store.read_blob(&digest, 1 << 24).unwrap()),
                digest
            );
        }
        let ingest = fs::read_dir(store.root().join("ingest")).unwrap();
        assert_eq!(ingest.count(), 0);
    }
}

/// The world's temporary directory has to be where the links of the fuzzer lead.
fn at_tmp() -> bool {
    std::env::temp_dir() == std::path::Path::new("/tmp")
}

fn small() -> Expansion {
    Expansion {
        free: 1 << 20,
        ratio: 10,
        total: 4 << 20,
    }
}

/// One layer, plain or compressed, with its DiffID.
fn layer(random: &mut Random) -> (Vec<u8>, Digest) {
    let plain = if random.one_in(6) {
        archive(&Names::new("/tmp/canary"), random)
    } else {
        let content = vec![b'x'; 1 << random.below(12)];
        tar(&[("a", &content), ("d/", b"")])
    };
    let diff_id = Digest::of(&plain);
    let bytes = match random.below(3) {
        0 => zstd::encode_all(&plain[..], 1).unwrap(),
        _ => plain,
    };
    (bytes, diff_id)
}

/// The files of an archive.
type Files = Vec<(String, Vec<u8>)>;

fn put(files: &mut Files, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(&bytes);
    files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
    digest
}

/// Puts a document in its place after some changes: it is what its name says all the same.
fn changed(
    files: &mut Files,
    mut value: Value,
    rarely: usize,
    random: &mut Random,
) -> (Digest, usize) {
    let bytes = if random.one_in(rarely) {
        values::change(&mut value, &WORDS, random);
        values::write(&value, random)
    } else {
        serde_json::to_vec(&value).unwrap()
    };
    let length = bytes.len();
    (put(files, bytes), length)
}

fn images(random: &mut Random) -> Vec<u8> {
    let mut files = Files::new();
    let (mut entries, mut list) = (Vec::new(), Vec::new());
    for number in 0..1 + random.below(3) {
        let layers: Vec<_> = (0..random.below(3)).map(|_| layer(random)).collect();
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|(_, diff_id)| diff_id.to_string())
            .collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["a"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let (config, length) = changed(&mut files, config, 4, random);
        let mut described = Vec::new();
        let mut paths = Vec::new();
        for (bytes, _) in layers {
            let size = bytes.len();
            let digest = put(&mut files, bytes);
            paths.push(format!("blobs/sha256/{}", digest.hex()));
            described.push(
                json!({"mediaType": media_type::LAYER, "digest": digest.to_string(), "size": size}),
            );
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST,
            "config": {"mediaType": media_type::CONFIG, "digest": config.to_string(), "size": length},
            "layers": described});
        let (manifest, length) = changed(&mut files, manifest, 4, random);
        let name = *random.pick(&["x:1", "x:2", "y:1"]);
        let mut entry = json!({"mediaType": media_type::MANIFEST, "digest": manifest.to_string(), "size": length,
            "annotations": {"io.containerd.image.name": format!("docker.io/library/{name}")}});
        if random.one_in(4) {
            let inner =
                json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry]});
            let (index, length) = changed(&mut files, inner, 3, random);
            entry = json!({"mediaType": media_type::INDEX, "digest": index.to_string(), "size": length,
                "annotations": {"io.containerd.image.name": format!("docker.io/library/{name}{number}")}});
        }
        entries.push(entry);
        list.push(json!({"Config": format!("blobs/sha256/{}", config.hex()), "RepoTags": [name], "Layers": paths}));
    }
    let which = random.below(4);
    if which != 0 {
        let mut index = json!({"schemaVersion": 2, "manifests": entries});
        if random.one_in(2) {
            values::change(&mut index, &WORDS, random);
        }
        files.push(("index.json".to_owned(), values::write(&index, random)));
    }
    if which < 2 {
        let mut list = Value::from(list);
        if random.one_in(2) {
            values::change(&mut list, &NAMES, random);
        }
        files.push(("manifest.json".to_owned(), values::write(&list, random)));
    }
    pack(files, random)
}

/// The archive itself: files in any order, some left out, doubled, renamed, or as links.
fn pack(mut files: Files, random: &mut Random) -> Vec<u8> {
    for _ in 0..files.len() {
        let (one, other) = (random.below(files.len()), random.below(files.len()));
        files.swap(one, other);
    }
    let mut archive = Archive::new();
    for (name, bytes) in &files {
        let moved = random.one_in(30);
        let place = if moved { *random.pick(&NAMES) } else { name };
        archive = match random.below(60) {
            0 => archive,
            1 => archive.file(place, bytes).file(place, bytes),
            2 => archive.file(place, bytes).file(place, "other"),
            3 => archive
                .file(random.pick(&NAMES), bytes)
                .symlink(place, random.pick(&NAMES)),
            4 => archive.file("moved", bytes).hard_link(place, "moved"),
            5 => archive.hard_link(place, *random.pick(&NAMES)),
            6 => archive
                .item(crate::tar::testing::Item::new(place, *random.pick(b"3467")).device(1, 3)),
            _ => archive.file(place, bytes),
        };
    }
    let mut bytes = archive.finish();
    if random.one_in(20) {
        super::flip(&mut bytes, b"\0/.01", random);
    }
    if random.one_in(10) {
        bytes = zstd::encode_all(&bytes[..], 1).unwrap();
    }
    bytes
}

/// U01, U06, U16, U18, U22 (CVE-2014-6407, CVE-2014-9358, CVE-2021-41190, CVE-2023-25153): an
/// archive gives images that are what their names say, or leaves nothing at all.
#[test]
fn long_archives_of_images() {
    let mut good = 0_u64;
    let many = in_a_world(|| {
        assert!(at_tmp());
        for_a_while(|random| {
            let place = Place::new();
            let store = place.store();
            let bytes = images(random);
            let options = LoadOptions {
                expansion: small(),
                ..LoadOptions::default()
            };
            let loaded = load(&store, &bytes[..], &options);
            place.check(&store, loaded.is_err());
            let Ok(loaded) = loaded else { return };
            good += 1;
            let mut names: BTreeMap<Reference, Digest> = BTreeMap::new();
            for one in loaded {
                let image = &one.image;
                assert_eq!(Digest::of(&image.config_raw), image.config_digest);
                assert!(store.has_blob(&image.manifest_digest).unwrap());
                assert!(store.has_blob(&image.config_digest).unwrap());
                assert!(store.has_blob(&one.target).unwrap());
                assert_eq!(image.layers, image.config.rootfs.diff_ids);
                for layer in &image.layers {
                    assert!(store.has_layer(layer).unwrap());
                }
                for name in one.names {
                    assert!(name.tag().is_some() && name.digest().is_none(), "{name}");
                    let before = names.insert(name.clone(), image.manifest_digest);
                    assert_eq!(before, None, "{name} is two images");
                }
            }
        })
    });
    eprintln!("{good} were loaded");
    assert!(!many || good > 20);
}

/// U01, U20, U21: the same for a file system, which has no whiteouts.
#[test]
fn long_archives_to_import() {
    let mut good = 0_u64;
    let many = in_a_world(|| {
        assert!(at_tmp());
        for_a_while(|random| {
            let place = Place::new();
            let store = place.store();
            let mut names = Names::new("/tmp/canary");
            if !random.one_in(4) {
                names
                    .paths
                    .retain(|path| !path.windows(4).any(|part| part == b".wh."));
            }
            let bytes = archive(&names, random);
            let options = ImportOptions {
                expansion: small(),
                ..ImportOptions::default()
            };
            let imported = import(&store, &bytes[..], &options);
            place.check(&store, imported.is_err());
            if let Ok(image) = imported {
                good += 1;
                assert_eq!(image.layers, [Digest::of(&bytes)]);
                assert!(store.has_layer(&image.layers[0]).unwrap());
            }
        })
    });
    eprintln!("{good} were imported");
    assert!(!many || good > 20);
}
