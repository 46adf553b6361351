use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Barrier;

use super::*;
use crate::testing::TestDirectory;

fn commit_layer(store: &Store, diff_id: &Digest, file: &str) {
    let ingest = store.ingest().unwrap();
    let layer = ingest.layer().unwrap();
    let created = rustix::fs::openat(
        layer.directory(),
        file,
        OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o4755),
    );
    drop(created.unwrap());
    ingest
        .commit(Vec::new(), vec![(layer, *diff_id, LayerRecord::new(12, 1))])
        .unwrap();
}

fn ingest_entries(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("ingest"))
        .unwrap()
        .count()
}

#[test]
fn blobs_come_back() {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let digest = Digest::of(b"content");
    assert!(!store.has_blob(&digest).unwrap());
    assert!(matches!(
        store.read_blob(&digest, 10),
        Err(StoreError::BlobMissing { .. })
    ));
    let ingest = store.ingest().unwrap();
    let blob = ingest.blob_of(b"content").unwrap();
    assert!(
        !store.has_blob(&digest).unwrap(),
        "no name before the commit"
    );
    ingest.commit(vec![blob], Vec::new()).unwrap();
    assert!(store.has_blob(&digest).unwrap());
    assert_eq!(store.read_blob(&digest, 7).unwrap(), b"content");
    assert!(matches!(
        store.read_blob(&digest, 6),
        Err(StoreError::BlobTooLarge {
            size: 7,
            limit: 6,
            ..
        })
    ));
    assert_eq!(store.list_blobs().unwrap(), [digest]);
    assert_eq!(ingest_entries(&store), 0);
    std::fs::write(store.blob_path(&digest), b"CONTENT").unwrap();
    assert!(matches!(
        store.read_blob(&digest, 10),
        Err(StoreError::DigestMismatch { .. })
    ));
    store.remove_blob(&digest).unwrap();
    store.remove_blob(&digest).unwrap();
    assert!(!store.has_blob(&digest).unwrap());
    assert_eq!(
        std::fs::read(directory.path().join("oci-layout")).unwrap(),
        LAYOUT
    );
}

#[test]
fn wrong_digest_and_size_are_refused() {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let ingest = store.ingest().unwrap();
    let write = || {
        let mut writer = ingest.blob().unwrap();
        writer.append(b"abc").unwrap();
        writer
    };
    assert!(matches!(
        write().finish_verified(&Digest::of(b"abd"), 3),
        Err(StoreError::DigestMismatch { .. })
    ));
    assert!(matches!(
        write().finish_verified(&Digest::of(b"abc"), 4),
        Err(StoreError::SizeMismatch {
            expected: 4,
            actual: 3,
            ..
        })
    ));
    drop(ingest);
    assert_eq!(
        (store.list_blobs().unwrap().len(), ingest_entries(&store)),
        (0, 0)
    );
}

/// CVE-2021-41091, CVE-2021-41103, CVE-2024-25621: nobody but the owner gets to a layer, whatever
/// the mode of the data root, and a loosened directory is closed again.
#[test]
fn directories_are_private() {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let mode = |name: &str| {
        std::fs::metadata(directory.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    for name in ["blobs", "blobs/sha256", "layers", "layers/sha256", "ingest"] {
        assert_eq!(mode(name), 0o700, "{name}");
        std::fs::set_permissions(
            directory.path().join(name),
            std::fs::Permissions::from_mode(0o755),
        )
        .unwrap();
    }
    let layer = Digest::of(b"layer");
    commit_layer(&store, &layer, "setuid");
    drop(Store::open(directory.path()).unwrap());
    for name in ["blobs", "blobs/sha256", "layers", "layers/sha256", "ingest"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    assert_eq!(
        mode(&format!("layers/sha256/{}", layer.hex())),
        0o755,
        "the layer's own root stays"
    );
}

#[test]
fn layers_come_and_go() {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let layer = Digest::of(b"layer");
    commit_layer(&store, &layer, "first");
    assert!(store.has_layer(&layer).unwrap());
    assert_eq!(
        store.layer_record(&layer).unwrap(),
        Some(LayerRecord::new(12, 1))
    );
    commit_layer(&store, &layer, "second");
    assert!(
        store.layer_path(&layer).join("first").exists(),
        "the first name wins"
    );
    assert_eq!(ingest_entries(&store), 0);
    assert_eq!(store.list_layers().unwrap(), [layer]);
    store.remove_layer(&layer).unwrap();
    assert!(!store.has_layer(&layer).unwrap());
    assert_eq!(store.layer_record(&layer).unwrap(), None);
    assert_eq!(
        (store.list_layers().unwrap().len(), ingest_entries(&store)),
        (0, 0)
    );
    store.remove_layer(&layer).unwrap();
}

#[test]
fn sweep_takes_only_what_nobody_holds() {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let held = store.ingest().unwrap();
    let blob = held.blob_of(b"held").unwrap();
    let abandoned = store.root().join("ingest/abandoned/layer0/deep");
    std::fs::create_dir_all(&abandoned).unwrap();
    std::fs::write(abandoned.join("file"), b"x").unwrap();
    std::fs::write(store.root().join("ingest/stray"), b"x").unwrap();
    symlink("/", store.root().join("ingest/link")).unwrap();
    assert_eq!(Store::open(directory.path()).unwrap().sweep().unwrap(), 3);
    assert_eq!(ingest_entries(&store), 1);
    held.commit(vec![blob], Vec::new()).unwrap();
    assert_eq!(store.read_blob(&Digest::of(b"held"), 10).unwrap(), b"held");
    assert_eq!(store.sweep().unwrap(), 0);
}

/// CVE-2014-9357 and its kin: a layer full of links, devices and depth is removed without
/// touching what the links point at.
#[test]
fn removal_follows_no_links_and_bears_depth() {
    let directory = TestDirectory::new();
    let canary = directory.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), b"alive").unwrap();
    let store = Store::open(&directory.path().join("data")).unwrap();
    let layer = Digest::of(b"links");
    commit_layer(&store, &layer, "file");
    let root = store.layer_path(&layer);
    symlink(&canary, root.join("to-directory")).unwrap();
    symlink(canary.join("file"), root.join("to-file")).unwrap();
    symlink("..", root.join("up")).unwrap();
    std::fs::create_dir(root.join("closed")).unwrap();
    std::fs::write(root.join("closed/file"), b"x").unwrap();
    std::fs::set_permissions(root.join("closed"), std::fs::Permissions::from_mode(0o0)).unwrap();
    std::fs::create_dir(root.join(".moved-1")).unwrap();
    // Two chains of 2,100 directories, deeper than PATH_MAX and than the descriptor limit.
    for chain in ["a", "b"] {
        let mut current = open_directory(rustix::fs::CWD, &root).unwrap();
        for _ in 0..2100 {
            rustix::fs::mkdirat(&current, chain, Mode::RWXU).unwrap();
            current = open_directory(&current, chain).unwrap();
        }
        rustix::fs::symlinkat(&canary, &current, "link").unwrap();
    }
    store.remove_layer(&layer).unwrap();
    assert_eq!(ingest_entries(&store), 0);
    assert_eq!(std::fs::read(canary.join("file")).unwrap(), b"alive");
}

#[test]
fn many_writers_of_the_same_content_all_succeed() {
    let directory = TestDirectory::new();
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Each opens the store itself, like a process of its own.
                let store = Store::open(directory.path()).unwrap();
                barrier.wait();
                for round in 0..10_u32 {
                    let bytes = round.to_le_bytes();
                    let ingest = store.ingest().unwrap();
                    let blob = ingest.blob_of(&bytes).unwrap();
                    let layer = ingest.layer().unwrap();
                    rustix::fs::mkdirat(layer.directory(), "d", Mode::RWXU).unwrap();
                    ingest
                        .commit(
                            vec![blob],
                            vec![(layer, Digest::of(&bytes), LayerRecord::new(0, 1))],
                        )
                        .unwrap();
                    store.sweep().unwrap();
                }
            });
        }
    });
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.list_blobs().unwrap().len(), 10);
    assert_eq!(store.list_layers().unwrap().len(), 10);
    assert_eq!(ingest_entries(&store), 0);
}
