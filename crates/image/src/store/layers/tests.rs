use std::sync::Barrier;

use super::*;
use crate::store::Ingest;
use crate::testing::TestDirectory;

fn fixture() -> (TestDirectory, Store) {
    let directory = TestDirectory::new();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

/// Makes a layer with one file; its blob is `blob`, which need not be there.
fn make(ingest: Ingest<'_>, diff_id: &Digest, file: &str, blob: Option<Digest>, staged: &[u8]) {
    let layer = ingest.layer().unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(layer.directory(), file, flags, Mode::RUSR).unwrap());
    let mut record = LayerRecord::new(0, 1);
    record.blob = blob;
    let blobs = if staged.is_empty() {
        Vec::new()
    } else {
        vec![ingest.blob_of(staged).unwrap()]
    };
    ingest
        .commit(blobs, vec![(layer, *diff_id, record)])
        .unwrap();
}

/// A layer as a pull leaves it.
fn pulled(store: &Store, name: &str) -> Digest {
    let diff_id = Digest::of(name.as_bytes());
    let blob = format!("blob of {name}");
    let digest = Some(Digest::of(blob.as_bytes()));
    make(
        store.ingest().unwrap(),
        &diff_id,
        "first",
        digest,
        blob.as_bytes(),
    );
    diff_id
}

fn record_path(store: &Store, diff_id: &Digest) -> PathBuf {
    store.layers.path.join(record_name(diff_id))
}

fn edit(store: &Store, diff_id: &Digest, change: impl FnOnce(&mut Value)) {
    let path = record_path(store, diff_id);
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    std::fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
}

#[test]
fn a_layer_is_marked_until_it_is_synced() {
    let (_directory, store) = fixture();
    let diff_id = pulled(&store, "layer");
    let boot = std::fs::read_to_string(BOOT_ID).unwrap();
    let record = store.layer_record(&diff_id).unwrap().unwrap();
    assert_eq!(record.unsynced.unwrap().boot, boot.trim());
    assert!(store.has_layer(&diff_id).unwrap());
    assert!(store.has_unsynced_layers().unwrap());
    edit(&store, &diff_id, |record| {
        record["later"] = "a newer version's".into();
    });
    // What somebody left who was killed.
    let drafts = store.root().join("layers");
    std::fs::write(drafts.join(record_name(&diff_id)), "{").unwrap();
    let gone = drafts.join(record_name(&Digest::of(b"gone")));
    std::fs::write(&gone, "{").unwrap();

    assert_eq!(store.sync_layers().unwrap(), 1);
    let record = store.layer_record(&diff_id).unwrap().unwrap();
    assert_eq!(record.unsynced, None);
    assert_eq!(record.extra["later"], "a newer version's");
    assert!(!gone.exists());
    assert_eq!(std::fs::read_dir(drafts).unwrap().count(), 1);
    assert!(!store.has_unsynced_layers().unwrap());
    assert_eq!(store.sync_layers().unwrap(), 0);
}

#[test]
fn without_a_blob_it_is_synced_at_once() {
    let (_directory, store) = fixture();
    for (name, blob) in [("none", None), ("dropped", Some(Digest::of(b"dropped")))] {
        let diff_id = Digest::of(name.as_bytes());
        make(store.ingest().unwrap(), &diff_id, "first", blob, b"");
        let record = store.layer_record(&diff_id).unwrap().unwrap();
        assert_eq!(record.unsynced, None, "{name}");
    }
    // One of them in an operation is enough: there is one syncfs for all.
    let ingest = store.ingest().unwrap();
    let blob = ingest.blob_of(b"blob").unwrap();
    let diff_ids = [Digest::of(b"with"), Digest::of(b"without")];
    let layers = diff_ids.map(|diff_id| {
        let mut record = LayerRecord::new(0, 0);
        record.blob = (diff_id == diff_ids[0]).then(|| blob.digest());
        (ingest.layer().unwrap(), diff_id, record)
    });
    let layers = layers.into_iter().collect();
    ingest.commit(vec![blob], layers).unwrap();
    assert!(!store.has_unsynced_layers().unwrap());
}

/// What a power cut may leave, each of which means that the layer is not there.
const DAMAGES: [(&str, &str); 5] = [
    ("zero length", ""),
    ("zeros", "\0\0\0\0\0\0\0\0"),
    ("half", r#"{"version":1,"byt"#),
    (
        "another boot",
        r#"{"version":1,"bytes":0,"entries":1,"unsynced":{"boot":"another","operation":"x"}}"#,
    ),
    (
        "a mark that is not understood",
        r#"{"version":1,"bytes":0,"entries":1,"unsynced":"x"}"#,
    ),
];

#[test]
fn after_a_power_cut_it_is_not_there_and_can_be_made_again() {
    for (what, text) in DAMAGES {
        let (_directory, store) = fixture();
        let diff_id = pulled(&store, "layer");
        std::fs::write(record_path(&store, &diff_id), text).unwrap();
        assert!(!store.has_layer(&diff_id).unwrap(), "{what}");
        let opened = store.open_layer(&diff_id);
        assert!(
            matches!(opened, Err(StoreError::LayerMissing { .. })),
            "{what}"
        );
        assert_eq!(store.sync_layers().unwrap(), 0, "{what}: it stays damaged");
        assert!(!store.has_layer(&diff_id).unwrap(), "{what}");
        assert_eq!(store.list_layers().unwrap(), [diff_id], "for its removal");

        make(store.ingest().unwrap(), &diff_id, "second", None, b"");
        assert!(store.has_layer(&diff_id).unwrap(), "{what}");
        let path = store.layer_path(&diff_id);
        assert!(
            path.join("second").exists() && !path.join("first").exists(),
            "{what}"
        );
        let ingest = std::fs::read_dir(store.root().join("ingest")).unwrap();
        assert_eq!(ingest.count(), 0, "{what}");
        store.remove_layer(&diff_id).unwrap();
        assert_eq!(std::fs::read_dir(&store.layers.path).unwrap().count(), 0);
    }
}

#[test]
fn a_directory_without_a_record_and_a_record_without_a_directory_are_no_layer() {
    let (_directory, store) = fixture();
    let diff_id = pulled(&store, "layer");
    let record = std::fs::read(record_path(&store, &diff_id)).unwrap();
    std::fs::remove_file(record_path(&store, &diff_id)).unwrap();
    assert!(!store.has_layer(&diff_id).unwrap());
    make(store.ingest().unwrap(), &diff_id, "second", None, b"");
    std::fs::remove_dir_all(store.layer_path(&diff_id)).unwrap();
    std::fs::write(record_path(&store, &diff_id), record).unwrap();
    assert!(!store.has_layer(&diff_id).unwrap());
    make(store.ingest().unwrap(), &diff_id, "third", None, b"");
    assert!(store.layer_path(&diff_id).join("third").exists());
    let record = store.layer_record(&diff_id).unwrap().unwrap();
    assert_eq!(record.unsynced, None, "the record belongs to the directory");
}

#[test]
fn blobs_go_after_the_layers_that_need_them_are_synced() {
    let (_directory, store) = fixture();
    let diff_id = pulled(&store, "layer");
    store.sync_layers_of(&[]).unwrap();
    store.sync_layers_of(&[Digest::of(b"of another")]).unwrap();
    assert!(store.has_unsynced_layers().unwrap());
    let blob = store.layer_record(&diff_id).unwrap().unwrap().blob.unwrap();
    store.sync_layers_of(&[blob]).unwrap();
    assert!(!store.has_unsynced_layers().unwrap());
}

/// A mark is taken away only from the very layer that was there before the sync.
#[test]
fn a_layer_made_anew_keeps_its_mark() {
    let (directory, store) = fixture();
    let diff_id = pulled(&store, "layer");
    let before = store.layer_record(&diff_id).unwrap().unwrap();
    let lock = store.layers.lock().unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| Store::open(directory.path()).unwrap().sync_layers());
        // It is at the lock of the layers once its draft is there and synced.
        let draft = store.root().join("layers").join(record_name(&diff_id));
        while !draft.exists() {
            std::thread::yield_now();
        }
        edit(&store, &diff_id, |record| {
            record["unsynced"]["operation"] = "a later one".into();
        });
        drop(lock);
        other.join().unwrap().unwrap();
        assert!(!draft.exists());
    });
    let after = store.layer_record(&diff_id).unwrap().unwrap();
    assert_ne!(after, before);
    assert!(after.unsynced.is_some());
}

#[test]
fn what_works_on_later_makes_no_data_root() {
    let directory = TestDirectory::new();
    let gone = directory.path().join("gone");
    assert!(Store::open_existing(&gone).is_err());
    assert!(!gone.exists());
}

#[test]
fn readers_writers_and_removers_at_once() {
    let (directory, store) = fixture();
    let barrier = Barrier::new(6);
    let diff_id = Digest::of(b"layer");
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (barrier, directory) = (&barrier, &directory);
            scope.spawn(move || {
                let store = Store::open(directory.path()).unwrap();
                barrier.wait();
                for _ in 0..20 {
                    match number {
                        0 | 1 => assert_eq!(pulled(&store, "layer"), diff_id),
                        2 => store.remove_layer(&diff_id).unwrap(),
                        3 => _ = store.sync_layers().unwrap(),
                        4 => {
                            let text = if store.has_layer(&diff_id).unwrap() {
                                DAMAGES[3].1
                            } else {
                                ""
                            };
                            std::fs::write(record_path(&store, &diff_id), text).unwrap();
                        }
                        _ => match store.open_layer(&diff_id) {
                            Ok(_) | Err(StoreError::LayerMissing { .. }) => {}
                            Err(error) => panic!("{error}"),
                        },
                    }
                }
            });
        }
    });
    pulled(&store, "layer");
    assert!(store.has_layer(&diff_id).unwrap());
    store.sync_layers().unwrap();
    assert!(store.layer_path(&diff_id).join("first").exists());
}
