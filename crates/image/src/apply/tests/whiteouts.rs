//! What a layer says about the layers below, and what overlayfs makes of it.

use rustix::fs::{AtFlags, Mode, OFlags, statat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::*;

#[test]
fn whiteouts_become_devices_and_attributes() {
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .file(".wh.top", "")
            .file("a/b/.wh.deep", "")
            .directory("o")
            .file("o/.wh..wh..opq", "")
            .file("o/new", "")
            .file("implied/.wh..wh..opq", "")
            .file(".wh....", "")
            // AUFS linked all whiteouts to one file.
            .file(".wh..wh.aufs", "")
            .hard_link(".wh.linked", ".wh..wh.aufs")
            .directory(".wh..wh.plnk")
            .file(".wh..wh.plnk/12.34", "data")
            .directory("a/.wh..wh.orph"),
    );
    assert_eq!(
        scratch.names(),
        [
            "...", "a", "a/b", "a/b/deep", "implied", "linked", "o", "o/new", "top"
        ]
    );
    for path in ["top", "a/b/deep", "linked", "..."] {
        assert!(scratch.is_whiteout(path), "{path}");
    }
    for (path, opaque) in [("o", true), ("implied", true), ("a", false), ("a/b", false)] {
        assert_eq!(scratch.is_opaque(path), opaque, "{path}");
    }
}

/// U21.
#[test]
fn refuses_whiteouts_of_nothing() {
    let names = [
        ".wh.",
        ".wh..",
        ".wh...",
        "a/.wh.",
        "a/.wh..",
        "a/.wh...",
        ".wh./x",
        ".wh.x/y",
        ".wh../x",
        ".wh.../x",
        ".wh.x/.wh.y",
        ".wh.x/.wh..wh..opq",
        ".wh..wh..opq/x",
        "a/.wh..wh..opq/.wh.y",
    ];
    for name in names {
        let scratch = Scratch::new();
        let error = scratch.refused(Archive::new().directory("a").file(name, ""));
        assert!(
            matches!(error, ApplyError::BadWhiteout { .. }),
            "{name}: {error}"
        );
        assert_eq!(scratch.names(), ["a"], "{name}");
    }
    for name in [".wh.x", "a/.wh..wh..opq", ".wh..wh..opq"] {
        for type_flag in [b'5', b'2', b'3', b'6'] {
            let scratch = Scratch::new();
            let item = Item::new(name, type_flag).link("/").device(1, 3);
            let error = scratch.refused(Archive::new().directory("a").item(item));
            assert!(
                matches!(error, ApplyError::BadWhiteout { .. }),
                "{name}: {error}"
            );
            assert!(!scratch.is_opaque("a"));
        }
    }
}

/// U21: an opaque marker below a link hides what the link leads to in the
/// layer, and nothing else.
#[test]
fn markers_follow_links_within_the_root() {
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .directory("real")
            .file("real/kept", "")
            .symlink("link", "/real")
            .file("link/.wh..wh..opq", "")
            .file("link/.wh.gone", ""),
    );
    assert!(scratch.is_opaque("real"));
    assert!(scratch.is_whiteout("real/gone"));
    assert_eq!(scratch.names(), ["link", "real", "real/gone", "real/kept"]);
}

#[test]
fn a_root_file_system_has_no_whiteouts() {
    for name in [".wh.x", "a/.wh..wh..opq", ".wh..wh.aufs", ".wh.d/x", ".wh."] {
        let scratch = Scratch::new();
        let archive = Archive::new().file(name, "").finish();
        let error = scratch
            .apply_with(&archive, ApplyKind::RootFilesystem, &Limits::default())
            .unwrap_err();
        assert!(
            matches!(error, ApplyError::BadWhiteout { .. }),
            "{name}: {error}"
        );
    }
    let scratch = Scratch::new();
    let archive = Archive::new().file("a.wh.b", "").file(".whx", "").finish();
    scratch
        .apply_with(&archive, ApplyKind::RootFilesystem, &Limits::default())
        .unwrap();
}

/// "Files that are present in the same layer as a whiteout file can only be
/// hidden by whiteout files in subsequent layers" (OCI image spec, layer.md).
#[test]
fn entries_win_over_whiteouts_of_their_layer() {
    let whiteout = |archive: Archive| archive.file(".wh.x", "");
    let file_entry = |archive: Archive| archive.file("x", "new");
    let directory_entry = |archive: Archive| archive.directory("x").file("x/new", "");
    let below = |archive: Archive| archive.file("x/new", "");
    let through = |archive: Archive| archive.symlink("l", "x").file("l/new", "");

    for (first, second) in [(true, false), (false, true)] {
        let order = |entry: &dyn Fn(Archive) -> Archive| {
            let mut archive = Archive::new();
            if first {
                archive = whiteout(archive);
            }
            archive = entry(archive);
            if second {
                archive = whiteout(archive);
            }
            let scratch = Scratch::new();
            scratch.apply(archive);
            scratch
        };
        assert_eq!(order(&file_entry).text("x"), "new");
        // The directory is a new one: without the mark, overlayfs would merge
        // it with the one that is gone.
        for entry in [
            &directory_entry as &dyn Fn(Archive) -> Archive,
            &below,
            &through,
        ] {
            let scratch = order(entry);
            assert!(scratch.root().join("x/new").exists());
            assert!(scratch.is_opaque("x"), "whiteout first: {first}");
        }
    }
    // A file hides a directory below, and so must what takes its place.
    let scratch = Scratch::new();
    scratch.apply(Archive::new().file("x", "").directory("x").directory("y"));
    assert!(scratch.is_opaque("x"));
    assert!(!scratch.is_opaque("y"));
}

/// A second name for a whiteout would be one that no name announced.
#[test]
fn no_link_to_a_whiteout() {
    let scratch = Scratch::new();
    let error = scratch.refused(Archive::new().file(".wh.x", "").hard_link("y", "x"));
    assert!(matches!(error, ApplyError::Io { .. }), "{error}");
    assert_eq!(scratch.names(), ["x"]);
}

/// A mount of the layers, the topmost first, that is attached nowhere, so that
/// nothing is left of it.
fn overlay(layers: &[&Scratch]) -> OwnedFd {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let roots: Vec<String> = layers
        .iter()
        .map(|layer| layer.root().to_str().unwrap().to_owned())
        .collect();
    if roots
        .iter()
        .any(|root| fsconfig_set_string(&overlay, "lowerdir+", root.as_str()).is_err())
    {
        // Before Linux 6.8; the paths are short enough for one option.
        fsconfig_set_string(&overlay, "lowerdir", roots.join(":")).unwrap();
    }
    fsconfig_create(&overlay).unwrap();
    fsmount(
        &overlay,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap()
}

/// The kernel does not look at the mark on a layer's root: the lower layer's file
/// is there. So whoever mounts asks first.
#[test]
fn an_opaque_root_is_told() {
    let (top, bottom) = (Scratch::new(), Scratch::new());
    bottom.apply(Archive::new().file("old", "1"));
    top.apply(Archive::new().file(".wh..wh..opq", "").file("new", "2"));
    for (layer, opaque) in [(&top, true), (&bottom, false)] {
        let root = File::open(layer.root()).unwrap();
        assert_eq!(hides_lower_layers(root.as_fd()).unwrap(), opaque);
    }
    let mount = overlay(&[&top, &bottom]);
    assert!(statat(&mount, "old", AtFlags::empty()).is_ok());
}

/// The kernel's view of three layers.
#[test]
fn overlayfs_agrees() {
    let layers = [Scratch::new(), Scratch::new(), Scratch::new()];
    let [bottom, middle, top] = &layers;
    bottom.apply(
        Archive::new()
            .file("kept", "1")
            .file("gone", "1")
            .file("deep/er/gone", "1")
            .file("opaque/old", "1")
            .file("again/old", "1")
            .file("implied/old", "1")
            .file("merged/old", "1")
            .file("file-to-directory", "1")
            .file("directory-to-file/old", "1"),
    );
    middle.apply(
        Archive::new()
            .file(".wh.gone", "")
            .file("deep/er/.wh.gone", "")
            .file("opaque/new", "2")
            .file("opaque/.wh..wh..opq", "")
            .directory("again")
            .file(".wh.again", "")
            .file(".wh.implied", "")
            .file("implied/new", "2")
            .file("merged/new", "2")
            .directory("file-to-directory")
            .file("directory-to-file", "2"),
    );
    top.apply(Archive::new().file("gone", "3").file("merged/.wh.new", ""));

    let mount = overlay(&[top, middle, bottom]);
    let read = |path: &str| -> Result<String, rustix::io::Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, path, flags, Mode::empty())?;
        Ok(io::read_to_string(File::from(file)).unwrap())
    };
    let gone = Err(rustix::io::Errno::NOENT);
    let cases = [
        ("kept", Ok("1")),
        ("gone", Ok("3")),
        ("deep/er/gone", gone),
        ("opaque/old", gone),
        ("opaque/new", Ok("2")),
        ("again/old", gone),
        ("implied/old", gone),
        ("implied/new", Ok("2")),
        ("merged/old", Ok("1")),
        ("merged/new", gone),
        ("directory-to-file", Ok("2")),
        ("file-to-directory/x", gone),
    ];
    for (path, expected) in cases {
        assert_eq!(
            read(path).as_deref().map_err(|error| *error),
            expected,
            "{path}"
        );
    }
}
