use std::sync::Barrier;

use super::*;
use crate::import::{ImportOptions, import};
use crate::testing::{TestDirectory, tar};

/// An image whose layer the power took, and its blob.
fn damaged() -> (TestDirectory, Store, Digest) {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    let archive = tar(&[("d/", b""), ("d/file", b"content")]);
    let image = import(&store, archive.as_slice(), &ImportOptions::default()).unwrap();
    let layer = image.layers[0];
    assert!(store.has_unsynced_layers().unwrap(), "import left its mark");
    std::fs::write(store.layer_path(&layer).join("d/file"), b"").unwrap();
    let record = directory
        .path()
        .join(format!("layers/sha256/{}.json", layer.hex()));
    let text = std::fs::read_to_string(&record).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["unsynced"]["boot"] = "another".into();
    std::fs::write(record, value.to_string()).unwrap();
    assert!(!store.has_layer(&layer).unwrap());
    (directory, store, layer)
}

fn content(store: &Store, layer: &Digest) -> Vec<u8> {
    std::fs::read(store.layer_path(layer).join("d/file")).unwrap()
}

#[test]
fn a_layer_comes_back_from_its_blob() {
    let (_directory, store, layer) = damaged();
    unpack_again(&store, &layer, &layer).unwrap();
    assert!(store.has_layer(&layer).unwrap());
    assert_eq!(content(&store, &layer), b"content");
    assert!(store.has_unsynced_layers().unwrap(), "it is unsynced again");
    assert_eq!(store.sync_layers().unwrap(), 1);
    assert_eq!(store.partials().unwrap(), []);
    unpack_again(&store, &layer, &layer).unwrap();
    let ingest = std::fs::read_dir(store.root().join("ingest")).unwrap();
    assert_eq!(ingest.count(), 0);
}

#[test]
fn eight_who_need_it_do_it_once() {
    let (directory, _store, layer) = damaged();
    let barrier = Barrier::new(8);
    let inode = |store: &Store| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(store.layer_path(&layer)).unwrap().ino()
    };
    let inodes: Vec<u64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let store = Store::open(directory.path()).unwrap();
                    barrier.wait();
                    unpack_again(&store, &layer, &layer).unwrap();
                    assert_eq!(content(&store, &layer), b"content");
                    inode(&store)
                })
            })
            .collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(inodes.iter().all(|one| *one == inodes[0]), "{inodes:?}");
}

#[test]
fn without_a_good_blob_nothing_is_made() {
    let (_directory, store, layer) = damaged();
    std::fs::write(store.blob_path(&layer), tar(&[("d/file", b"other")])).unwrap();
    let error = unpack_again(&store, &layer, &layer).unwrap_err();
    let RepairError::Layer { source, .. } = error else {
        panic!("{error}");
    };
    assert!(matches!(*source, LayerError::DiffId { .. }), "{source}");
    store.remove_blob(&layer).unwrap();
    let error = unpack_again(&store, &layer, &layer).unwrap_err();
    assert!(
        matches!(error, RepairError::Store(StoreError::BlobMissing { .. })),
        "{error}"
    );
    assert!(!store.has_layer(&layer).unwrap());
    assert_eq!(store.partials().unwrap(), []);
}
