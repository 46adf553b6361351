use super::*;
use crate::testing::Directory;
use std::time::Duration;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

#[test]
fn entries_come_and_go() {
    let directory = Directory::new();
    let storage = Storage::open(directory.path()).unwrap();
    let (a, digest) = (name("a/b"), Digest::of(b"x"));
    assert_eq!(storage.tags(&a).unwrap(), None);
    storage.link_manifest(&a, &digest, "application/x").unwrap();
    assert_eq!(storage.tags(&a).unwrap(), Some(Vec::new()));
    storage.set_tag(&a, "v1", &digest).unwrap();
    storage.set_tag(&a, "v0", &digest).unwrap();
    assert_eq!(storage.tag(&a, "v1").unwrap(), Some(digest));
    assert_eq!(
        storage.manifest_type(&a, &digest).unwrap().as_deref(),
        Some("application/x")
    );
    assert_eq!(storage.repositories().unwrap(), std::slice::from_ref(&a));
    // A repository below another one, and its parent without anything.
    storage.set_tag(&name("a"), "x", &digest).unwrap();
    assert_eq!(storage.repositories().unwrap(), [name("a"), a.clone()]);
    assert!(storage.remove_manifest(&a, &digest, None).unwrap());
    assert!(!storage.remove_manifest(&a, &digest, None).unwrap());
    assert_eq!(storage.tags(&a).unwrap(), Some(Vec::new()));
}

/// A link that somebody planted below the root is not followed.
#[test]
fn links_are_not_followed() {
    let directory = Directory::new();
    let root = directory.path().join("root");
    let storage = Storage::open(&root).unwrap();
    let outside = directory.path().join("outside");
    std::fs::create_dir_all(outside.join("_tags")).unwrap();
    std::fs::write(outside.join("_tags/v1"), Digest::of(b"x").to_string()).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("repositories/a")).unwrap();
    assert!(storage.tag(&name("a"), "v1").is_err());
    assert!(
        storage
            .set_tag(&name("a"), "v2", &Digest::of(b"x"))
            .is_err()
    );
    assert!(!outside.join("_tags/v2").exists());
}

#[test]
fn a_damaged_tag_is_named() {
    let directory = Directory::new();
    let storage = Storage::open(directory.path()).unwrap();
    storage
        .set_tag(&name("a"), "v1", &Digest::of(b"x"))
        .unwrap();
    std::fs::write(directory.path().join("repositories/a/_tags/v1"), "rubbish").unwrap();
    let error = storage.tag(&name("a"), "v1").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("repositories/a/_tags/v1 is damaged"),
        "{error}"
    );
}

#[test]
fn uploads_are_swept_unless_somebody_writes_them() {
    let directory = Directory::new();
    let storage = Storage::open(directory.path()).unwrap();
    let (a, later) = (name("a"), SystemTime::now() + Duration::from_secs(3600));
    let idle = storage.start_upload(&a).unwrap();
    let busy = storage.start_upload(&a).unwrap();
    let held = storage.open_upload(&a, &busy).unwrap().unwrap();
    assert!(storage.open_upload(&name("b"), &busy).unwrap().is_none());
    let before = SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(storage.sweep_uploads(before, true).unwrap(), (0, 0));
    assert_eq!(storage.sweep_uploads(later, true).unwrap(), (1, 0));
    assert!(storage.open_upload(&a, &idle).unwrap().is_none());
    drop(held);
    assert!(storage.open_upload(&a, &busy).unwrap().is_some());
}

/// A failed append leaves the length at what was hashed.
#[test]
fn an_upload_is_hashed_as_it_is() {
    let directory = Directory::new();
    let storage = Storage::open(directory.path()).unwrap();
    let a = name("a");
    let id = storage.start_upload(&a).unwrap();
    let mut upload = storage.open_upload(&a, &id).unwrap().unwrap();
    upload.append(b"hello world").unwrap();
    upload.cut(5).unwrap();
    upload.append(b" again").unwrap();
    assert_eq!(upload.length(), 11);
    assert_eq!(upload.hash().unwrap().finish(), Digest::of(b"hello again"));
    let digest = Digest::of(b"hello again");
    storage.finish_upload(&a, &upload, &digest).unwrap();
    assert!(storage.has_blob(&a, &digest).unwrap());
    assert_eq!(
        storage.store.read_blob(&digest, 100).unwrap(),
        b"hello again"
    );
    let uploads = directory.path().join("uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
}
