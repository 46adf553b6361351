//! What `import` is given by strangers, entry by entry: each is refused with nothing left behind,
//! or becomes something within the layer.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use super::*;
use crate::apply::ApplyError;
use crate::tar::testing::{Archive, Item, number, put, record, seal};
use crate::tar::{BLOCK, HeaderError, TarError};
use crate::testing::TestDirectory;

/// A store with a directory beside it that nothing may touch.
struct Place {
    directory: TestDirectory,
    store: Store,
    before: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let directory = TestDirectory::new();
        fs::create_dir(directory.path().join("canary")).unwrap();
        fs::write(directory.path().join("canary/file"), "precious").unwrap();
        let store = Store::open(&directory.path().join("data")).unwrap();
        let mut place = Self {
            directory,
            store,
            before: Vec::new(),
        };
        place.before = place.canary();
        place
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("canary")
    }

    fn canary(&self) -> Vec<String> {
        let of = |path: PathBuf| {
            let m = fs::symlink_metadata(&path).unwrap();
            format!(
                "{path:?} {:o} {}:{} {} {} {}.{} {}",
                m.mode(),
                m.uid(),
                m.gid(),
                m.nlink(),
                m.ino(),
                m.mtime(),
                m.mtime_nsec(),
                m.size()
            )
        };
        let inside = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| of(entry.unwrap().path()));
        inside.chain([of(self.path())]).collect()
    }

    /// The layer's directory, if there is one.
    fn import(&self, archive: Archive) -> Result<PathBuf, LayerError> {
        let bytes = archive.finish();
        let imported = import(&self.store, &bytes[..], &ImportOptions::default());
        assert_eq!(self.canary(), self.before);
        assert_eq!(fs::read(self.path().join("file")).unwrap(), b"precious");
        let ingest = fs::read_dir(self.store.root().join("ingest")).unwrap();
        assert_eq!(ingest.count(), 0);
        let around = fs::read_dir(self.directory.path()).unwrap().count();
        assert_eq!(around, 2, "something is beside the store");
        match imported {
            Ok(image) => Ok(self.store.layer_path(&image.layers[0])),
            Err(ImportError::Layer(error)) => {
                assert!(self.store.list_blobs().unwrap().is_empty());
                assert!(self.store.list_layers().unwrap().is_empty());
                Err(error)
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn refused(&self, archive: Archive) -> LayerError {
        self.import(archive).unwrap_err()
    }
}

fn file(path: &str) -> Item {
    Item::new(path, b'0')
}

/// U01 (CVE-2014-6407, CVE-2014-9356), U08 (CVE-2024-24579, CVE-2024-0406, CVE-2025-3445).
#[test]
fn names_and_link_targets_stay_inside() {
    let up = "../".repeat(20);
    for name in [
        "../x",
        "a/../../x",
        "/../x",
        "..",
        "/..",
        &format!("{up}etc/x"),
        "./../canary/file",
    ] {
        for item in [
            file(name),
            Item::new(name, b'5'),
            Item::new(name, b'2').link("t"),
            Item::new(name, b'1').link("a"),
            Item::new(name, b'3').device(1, 3),
        ] {
            let place = Place::new();
            let error = place.refused(Archive::new().file("a", "").item(item));
            assert!(
                matches!(error, LayerError::Apply(ApplyError::Escapes { .. })),
                "{name}: {error:?}"
            );
        }
    }
    for target in ["..", "../canary/file", "/", ".", "a/../../canary/file", ""] {
        let place = Place::new();
        let error = place.refused(Archive::new().hard_link("h", target));
        assert!(
            matches!(error, LayerError::Apply(ApplyError::LinkEscapes { .. })),
            "{target}: {error:?}"
        );
    }
    let layer = Place::new();
    let path = layer
        .import(Archive::new().file("/etc/x", "1").file("./a/../b", "2"))
        .unwrap();
    assert_eq!(fs::read(path.join("etc/x")).unwrap(), b"1");
    assert_eq!(fs::read(path.join("b")).unwrap(), b"2");
}

/// U02, U03, U12 (CVE-2026-17106, CVE-2021-32760, CVE-2026-33056, CVE-2026-26960,
/// CVE-2026-23745): links that lead out, then entries by way of them.
#[test]
fn entries_behind_links_stay_inside() {
    for number in 0..9 {
        let place = Place::new();
        let out = place.path().to_str().unwrap().to_owned();
        let link = Archive::new().symlink("l", &out);
        let archive = match number {
            0 => link.file("l/file", "overwritten"),
            1 => link.item(Item::new("l", b'5').mode(0o777).owner(1, 1)),
            2 => link.item(Item::new("l/", b'5').mode(0o777).owner(1, 1)),
            3 => link
                .hard_link("h", "l/file")
                .item(file("h").data("overwritten").mode(0o777)),
            4 => Archive::new()
                .symlink("f", format!("{out}/file"))
                .file("f", "overwritten"),
            5 => Archive::new()
                .symlink("f", format!("{out}/file"))
                .hard_link("h", "f")
                .file("h", "x"),
            6 => link.item(Item::new("l/new", b'3').device(1, 3)),
            7 => Archive::new()
                .directory("a/b/c")
                .symlink("a/b/c/up", "../..")
                .symlink("a/b/escape", "c/up/../..")
                .hard_link("x", format!("a/b/escape{out}/file"))
                .file("x", "overwritten"),
            _ => Archive::new()
                .symlink("l", "../../../../canary")
                .file("l/file", "overwritten")
                .file("l/new", "x"),
        };
        // Confined or refused; the canary is compared.
        let _ = place.import(archive);
    }
}

/// U07 (CVE-2021-29136, CVE-2026-48749): the root is a directory.
#[test]
fn the_root_is_not_replaced() {
    for name in [".", "./", "/", "a/.."] {
        for item in [
            Item::new(name, b'2').link("/"),
            Item::new(name, b'1').link("a"),
            Item::new(name, b'3').device(1, 3),
        ] {
            let place = Place::new();
            let error = place.refused(Archive::new().file("a", "").item(item));
            assert!(
                matches!(error, LayerError::Apply(ApplyError::ReplacesRoot { .. })),
                "{name}: {error:?}"
            );
        }
    }
}

/// U21: a file system has no whiteouts, of whatever kind. As layers they would take away files of
/// another image, or of the host's where a reader resolves them.
#[test]
fn whiteouts_are_refused_whatever_they_are() {
    for name in [
        ".wh.x",
        "d/.wh.x",
        ".wh..wh..opq",
        "d/.wh..wh..opq",
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh.plnk",
        ".wh.d/x",
        "d/../.wh.x",
    ] {
        for item in [
            file(name),
            Item::new(name, b'5'),
            Item::new(name, b'2').link("x"),
            Item::new(name, b'1').link("x"),
            Item::new(name, b'3').device(0, 0),
            Item::new(name, b'6'),
        ] {
            let place = Place::new();
            let kind = char::from(item.type_flag);
            let error = place.refused(Archive::new().file("x", "").item(item));
            assert!(
                matches!(error, LayerError::Apply(ApplyError::BadWhiteout { .. })),
                "{name} {kind}: {error:?}"
            );
        }
    }
    let place = Place::new();
    let error = place.refused(Archive::new().item(Item::new("x", b'3').device(0, 0)));
    assert!(
        matches!(error, LayerError::Apply(ApplyError::Device { .. })),
        "{error:?}"
    );
    // What overlayfs would take for its own is no content.
    let attributes = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.whiteout",
        "trusted.x",
        "security.selinux",
    ];
    let mut item = Item::new("d", b'5');
    for name in attributes {
        item = item.pax(&format!("SCHILY.xattr.{name}"), "y");
    }
    let path = place.import(Archive::new().item(item)).unwrap().join("d");
    for name in attributes {
        assert!(
            rustix::fs::lgetxattr(&path, name, &mut [0; 64]).is_err(),
            "{name}"
        );
    }
}

/// U20: numbers that a cast would turn into others make nothing. Good devices are made, and with
/// the right numbers: what a container may do with them is not decided here.
#[test]
fn devices_and_owners_in_range_only() {
    for item in [
        Item::new("n", b'3').device(1 << 33, 3),
        Item::new("n", b'4').device(4096, 0),
        Item::new("n", b'3').device(1, 1 << 20),
        file("n").owner((1 << 32) + 1, 0),
        file("n").owner(0, u64::from(u32::MAX)),
        file("n").pax("uid", "4294967296"),
        file("n").pax("gid", "-1"),
    ] {
        let place = Place::new();
        let error = place.refused(Archive::new().item(item));
        let LayerError::Apply(ApplyError::Tar(error)) = error else {
            panic!("{error:?}")
        };
        let fits = matches!(
            error,
            TarError::Pax { .. }
                | TarError::Header {
                    source: HeaderError::OutOfRange { .. },
                    ..
                }
        );
        assert!(fits, "{error:?}");
    }
    let place = Place::new();
    let path = place
        .import(Archive::new().item(Item::new("null", b'3').device(1, 3)))
        .unwrap();
    let made = fs::symlink_metadata(path.join("null")).unwrap();
    assert!(made.file_type().is_char_device() && made.rdev() == rustix::fs::makedev(1, 3));
}

/// U11, U15, U17 (CVE-2025-62518, CVE-2017-14992): sizes that are not there, in every place where
/// one may stand.
#[test]
fn sizes_that_overflow_are_refused() {
    let mut cases: Vec<(&str, Archive)> = Vec::new();
    for size in [
        "18446744073709551615",
        "9223372036854775808",
        "-1",
        "0x10",
        "",
        "1e3",
        " 4",
    ] {
        cases.push((
            "pax size",
            Archive::new().item(file("f").data("data").pax("size", size)),
        ));
        cases.push((
            "sparse size",
            Archive::new().item(
                file("f")
                    .data("data")
                    .pax("GNU.sparse.size", size)
                    .pax("GNU.sparse.map", "0,4"),
            ),
        ));
    }
    for map in [
        "0,18446744073709551615",
        "18446744073709551615,4",
        "0,9",
        "4,4,0,4",
        "0,2,1,2",
        "0",
        "0,4,",
        "a,b",
        "9223372036854775807,4",
    ] {
        cases.push((
            "sparse map",
            Archive::new().item(
                file("f")
                    .data("data")
                    .pax("GNU.sparse.size", "8")
                    .pax("GNU.sparse.map", map),
            ),
        ));
    }
    for data in [
        "18446744073709551616\n",
        "4294967296\n0\n4\n",
        "1\n",
        "-1\n",
        "x",
        "1\n0\n99999999999999999999\n",
    ] {
        let mut bytes = data.as_bytes().to_vec();
        bytes.resize(BLOCK, 0);
        bytes.extend(b"data");
        let item = file("f")
            .data(bytes)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.realsize", "8");
        cases.push(("sparse 1.0", Archive::new().item(item)));
    }
    for (what, field, value) in [
        ("old sparse offset", 386, 1 << 80),
        ("old sparse length", 398, -1),
        ("old sparse size", 483, 1 << 70),
        ("old sparse size below its data", 483, 1),
    ] {
        let mut block = Item::new("f", b'S').data("data").header();
        put(&mut block, 257, b"ustar  \0");
        number(&mut block[398..410], 4);
        number(&mut block[483..495], 8);
        number(&mut block[field..field + 12], value);
        seal(&mut block);
        cases.push((what, Archive::new().block(&block).padded(b"data")));
    }
    for length in [
        "99999999999999999999 path=x\n",
        "0 path=x\n",
        "4294967296 path=x\n",
        "-9 path=x\n",
        "9 path=xyz\n",
    ] {
        cases.push((
            "pax record",
            Archive::new()
                .item(Item::new("x", b'x').data(length))
                .file("f", ""),
        ));
    }
    cases.push((
        "pax header of 8 GiB",
        Archive::new().item(Item::new("x", b'x').size(1 << 33)),
    ));
    cases.push((
        "name of 2 MiB",
        Archive::new()
            .item(Item::new("L", b'L').data(vec![b'n'; 2 << 20]))
            .file("f", ""),
    ));
    cases.push((
        "global size",
        Archive::new()
            .item(Item::new("g", b'g').data(record("size", b"0")))
            .file("f", "x"),
    ));
    for (what, archive) in cases {
        let place = Place::new();
        let error = place.refused(archive);
        assert!(
            matches!(error, LayerError::Apply(ApplyError::Tar(_))),
            "{what}: {error:?}"
        );
    }
    // A hole is no data, and counts all the same.
    let place = Place::new();
    let hole = file("f")
        .pax("GNU.sparse.size", "1125899906842624")
        .pax("GNU.sparse.map", "");
    let error = place.refused(Archive::new().item(hole));
    assert!(
        matches!(
            error,
            LayerError::Apply(ApplyError::TooLarge { .. } | ApplyError::Tar(_))
        ),
        "{error:?}"
    );
}

/// GHSA-xmmx-7jpf-fx42 for files: of two entries of one name the last one is there, of whatever
/// kind, and what an earlier hard link names is not written through.
#[test]
fn the_last_of_two_entries_counts() {
    let place = Place::new();
    let path = place
        .import(
            Archive::new()
                .file("twice", "first")
                .hard_link("kept", "twice")
                .file("twice", "last")
                .symlink("link", "twice")
                .file("link", "own")
                .file("d", "file")
                .directory("d")
                .file("d/x", "x"),
        )
        .unwrap();
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
    assert_eq!(
        (read("twice"), read("kept"), read("link"), read("d/x")),
        ("last".into(), "first".into(), "own".into(), "x".into())
    );
    assert!(
        !fs::symlink_metadata(path.join("link"))
            .unwrap()
            .is_symlink()
    );
}
