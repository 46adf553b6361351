//! What honest layers hold, down to the last bit.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn unpacks_every_kind() {
    let scratch = Scratch::new();
    let applied = scratch.apply(
        Archive::new()
            .item(directory("./").mode(0o750).owner(1, 2).mtime(11))
            .item(directory("d/").mode(0o1777).owner(3, 4).mtime(12))
            .item(
                file("d/f")
                    .data("content")
                    .mode(0o666)
                    .owner(5, 6)
                    .mtime(13),
            )
            .item(file("d/setuid").data("#!").mode(0o6755).owner(0, 7))
            .item(Item::new("d/link", b'2').link("f").owner(8, 9).mtime(14))
            .hard_link("d/hard", "d/f")
            .item(
                Item::new("d/null", b'3')
                    .device(1, 3)
                    .mode(0o666)
                    .owner(0, 5)
                    .mtime(15),
            )
            .item(Item::new("d/disk", b'4').device(7, 300).mode(0o660))
            .item(Item::new("d/fifo", b'6').mode(0o622))
            .item(file("d/closed").data("x").mode(0)),
    );
    assert_eq!(
        applied,
        Applied {
            bytes: 10,
            entries: 10
        }
    );
    let cases = [
        ("", 0o040_750, (1, 2), 11, 0),
        ("d", 0o041_777, (3, 4), 12, 0),
        ("d/f", 0o100_666, (5, 6), 13, 0),
        ("d/setuid", 0o106_755, (0, 7), 1_700_000_000, 0),
        ("d/link", 0o120_777, (8, 9), 14, 0),
        ("d/null", 0o020_666, (0, 5), 15, rustix::fs::makedev(1, 3)),
        (
            "d/disk",
            0o060_660,
            (0, 0),
            1_700_000_000,
            rustix::fs::makedev(7, 300),
        ),
        ("d/fifo", 0o010_622, (0, 0), 1_700_000_000, 0),
        ("d/closed", 0o100_000, (0, 0), 1_700_000_000, 0),
    ];
    for (path, mode, owner, mtime, device) in cases {
        let facts = scratch.facts(path);
        assert_eq!(facts.mode, mode, "{path}: {:o}", facts.mode);
        assert_eq!(
            (facts.owner, facts.mtime, facts.device),
            (owner, (mtime, 0), device),
            "{path}"
        );
    }
    assert_eq!(scratch.text("d/f"), "content");
    assert_eq!(scratch.facts("d/hard").inode, scratch.facts("d/f").inode);
    assert_eq!(scratch.facts("d/link").content, b"f");
}

#[test]
fn makes_missing_parents() {
    let scratch = Scratch::new();
    scratch.apply(Archive::new().item(file("a/b/c").owner(1, 1).mode(0o600)));
    for path in ["a", "a/b"] {
        let facts = scratch.facts(path);
        assert_eq!((facts.mode, facts.owner), (0o040_755, (0, 0)), "{path}");
    }
}

/// New files in a set-group-ID directory get its group, directories the bit too.
#[test]
fn a_directory_does_not_pass_its_group_on() {
    let scratch = Scratch::new();
    fs::set_permissions(scratch.root(), PermissionsExt::from_mode(0o2755)).unwrap();
    std::os::unix::fs::chown(scratch.root(), None, Some(33)).unwrap();
    scratch.apply(
        Archive::new()
            .directory("top")
            .item(directory("mail").mode(0o2775).owner(0, 8))
            .file("mail/f", "")
            .directory("mail/d")
            .symlink("mail/l", "f")
            .item(Item::new("mail/p", b'6'))
            .file("mail/implied/f", ""),
    );
    for path in [
        "top",
        "mail/f",
        "mail/d",
        "mail/l",
        "mail/p",
        "mail/implied",
        "mail/implied/f",
    ] {
        let facts = scratch.facts(path);
        assert_eq!(facts.owner, (0, 0), "{path}");
        assert_eq!(facts.mode & 0o7000, 0, "{path}");
    }
    assert_eq!(scratch.facts("mail").mode, 0o042_775);
}

#[test]
fn keeps_times_of_directories_that_change_later() {
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .item(directory("a").mtime(1))
            .item(directory("a/b").mtime(2))
            .file("a/b/f", "")
            .file("a/f", "")
            // Replaced: the entry's own time does not go to what is there now.
            .item(directory("gone").mtime(3))
            .file("gone/f", "")
            .item(Item::new("gone", b'2').link("a").mtime(4))
            // Replaced further up: its path leads to another now.
            .item(directory("z/y").mtime(7))
            .item(directory("x/y").mtime(8))
            .symlink("x", "z")
            .item(directory("twice").mtime(5))
            .item(directory("twice").mtime(6).mode(0o700)),
    );
    let mtimes = ["a", "a/b", "gone", "z/y", "twice"].map(|path| scratch.facts(path).mtime.0);
    assert_eq!(mtimes, [1, 2, 4, 7, 6]);
    assert_eq!(scratch.facts("twice").mode, 0o040_700);
}

#[test]
fn keeps_fractions_of_seconds() {
    let scratch = Scratch::new();
    scratch.apply(Archive::new().item(file("f").pax("mtime", "1234.000000567")));
    assert_eq!(scratch.facts("f").mtime, (1234, 567));
}

/// X9: capabilities outlive chown and the writing of the data.
#[test]
fn sets_attributes() {
    let scratch = Scratch::new();
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    scratch.apply(
        Archive::new()
            .item(
                file("ping")
                    .data("ELF")
                    .mode(0o755)
                    .owner(0, 12)
                    .pax("SCHILY.xattr.security.capability", capability)
                    .pax("SCHILY.xattr.user.note", "n\0te"),
            )
            .item(directory("d").pax("LIBARCHIVE.xattr.user.d", "aGk=")),
    );
    let ping = scratch.facts("ping");
    assert_eq!(ping.xattrs[&b"security.capability"[..]], capability);
    assert_eq!(ping.xattrs[&b"user.note"[..]], b"n\0te");
    assert_eq!((ping.mode, ping.owner), (0o100_755, (0, 12)));
    assert_eq!(scratch.facts("d").xattrs[&b"user.d"[..]], b"hi");
}

/// U21: instructions to overlayfs, and what other machines' security modules
/// said, do not come in.
#[test]
fn strips_attributes_that_are_no_content() {
    let scratch = Scratch::new();
    let item = |item: Item| {
        [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "trusted.overlay.metacopy",
            "trusted.other",
            "user.overlay.opaque",
            "user.overlay.whiteout",
            "security.selinux",
            "security.evm",
            "system.sockprotoname",
        ]
        .into_iter()
        .fold(item, |item, name| {
            item.pax(&format!("SCHILY.xattr.{name}"), "y")
        })
    };
    scratch.apply(
        Archive::new()
            .item(item(file("f").pax("SCHILY.xattr.user.kept", "y")))
            .item(item(directory("d")))
            .item(item(Item::new("l", b'2').link("f")))
            .item(item(Item::new("p", b'6'))),
    );
    let names: Vec<_> = scratch.facts("f").xattrs.into_keys().collect();
    assert_eq!(names, [b"user.kept"]);
    for path in ["d", "l", "p"] {
        assert!(scratch.facts(path).xattrs.is_empty(), "{path}");
    }
}

/// An ACL: `tag`, `permissions` for each entry without an id.
fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(u32::MAX.to_le_bytes());
    }
    bytes
}

#[test]
fn a_default_acl_does_not_reach_the_layers_own_files() {
    let scratch = Scratch::new();
    let default = acl(&[(1, 7), (4, 0), (32, 0)]);
    scratch.apply(
        Archive::new()
            .item(directory("d").pax("SCHILY.xattr.system.posix_acl_default", &default))
            .item(file("d/f").mode(0o664))
            .item(directory("d/sub").mode(0o775)),
    );
    assert_eq!(
        scratch.facts("d").xattrs[&b"system.posix_acl_default"[..]],
        default
    );
    assert_eq!(scratch.facts("d/f").mode, 0o100_664);
    assert_eq!(scratch.facts("d/sub").mode, 0o040_775);
    assert!(scratch.facts("d/sub").xattrs.is_empty());
}

#[test]
fn replaces_what_an_earlier_entry_made() {
    let all: [fn(&str) -> Item; 6] = [
        |path| file(path).data("new"),
        |path| directory(path),
        |path| Item::new(path, b'2').link("elsewhere"),
        |path| Item::new(path, b'6'),
        |path| Item::new(path, b'3').device(1, 5),
        |path| Item::new(path, b'1').link("target"),
    ];
    for (first, before) in all.iter().enumerate() {
        for (second, after) in all.iter().enumerate() {
            let scratch = Scratch::new();
            let mut archive = Archive::new().file("target", "t").item(before("x"));
            if first == 1 {
                archive = archive.file("x/inner", "");
            }
            scratch.apply(archive.item(after("x")).file("last", ""));
            let facts = scratch.facts("x");
            let expected = [0o10, 0o04, 0o12, 0o01, 0o02, 0o10][second];
            assert_eq!(facts.mode >> 12, expected, "{first} then {second}");
            match second {
                0 => assert_eq!(facts.content, b"new"),
                5 => assert_eq!(facts.links, 2),
                _ => {}
            }
            // A directory merges with a directory.
            let merged = scratch.root().join("x/inner").exists();
            assert_eq!(merged, first == 1 && second == 1, "{first} then {second}");
            assert_eq!(scratch.text("target"), "t", "{first} then {second}");
        }
    }
}

/// A link to a directory is replaced by a directory, as in containerd and
/// Docker, and what it led to is not changed.
#[test]
fn a_directory_replaces_a_link_to_one() {
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .item(directory("real").mode(0o700))
            .symlink("d", "real")
            .item(directory("d").mode(0o777))
            .file("d/f", "x"),
    );
    assert_eq!(scratch.facts("real").mode, 0o040_700);
    assert_eq!(scratch.facts("d").mode, 0o040_777);
    assert_eq!(scratch.names(), ["d", "d/f", "real"]);
}

/// X3: device nodes keep their mode on a file system without devices and where there is no procfs
/// (go-archive 0.3.3 opened them, and looked for them in `/proc`).
#[test]
fn devices_keep_their_mode_where_none_can_be_opened() {
    crate::fuzzing::world::in_a_world(|| {
        assert!(!Path::new("/proc/self").exists());
        let scratch = Scratch::new();
        scratch.apply(
            Archive::new()
                .item(directory("dev/").mode(0o755))
                .item(Item::new("dev/ptmx", b'3').device(5, 2).mode(0o666))
                .item(Item::new("dev/null", b'3').device(1, 3).mode(0o666))
                .item(Item::new("dev/sda", b'4').device(8, 0).mode(0o660)),
        );
        for (path, mode, device) in [
            ("dev/ptmx", 0o020_666, rustix::fs::makedev(5, 2)),
            ("dev/null", 0o020_666, rustix::fs::makedev(1, 3)),
            ("dev/sda", 0o060_660, rustix::fs::makedev(8, 0)),
        ] {
            let facts = scratch.facts(path);
            assert_eq!((facts.mode, facts.device), (mode, device), "{path}");
        }
        let opened = File::open(scratch.path.join("root/dev/null"));
        assert!(opened.is_err(), "the file system should be nodev");
    });
}

/// X1: absolute and relative links inside of the layer (moby #52653, #53258).
#[test]
fn follows_links_within_the_root() {
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .directory("run")
            .directory("usr/lib")
            .symlink("var/run", "/run")
            .symlink("lib", "usr/lib")
            .symlink("up", "usr/lib/../../run")
            .file("var/run/pid", "1")
            .file("lib/libc.so", "2")
            .file("up/other", "3")
            .hard_link("lib/libc.so.6", "lib/libc.so")
            .item(directory("var/run/d").mode(0o711))
            // Out of the root by as many steps as one likes is still the root.
            .symlink("far", "../../../../../../run")
            .file("far/away", "4"),
    );
    assert_eq!(scratch.text("run/pid"), "1");
    assert_eq!(scratch.text("usr/lib/libc.so"), "2");
    assert_eq!(scratch.text("run/other"), "3");
    assert_eq!(scratch.text("run/away"), "4");
    assert_eq!(scratch.facts("usr/lib/libc.so.6").links, 2);
    assert_eq!(scratch.facts("run/d").mode, 0o040_711);
    assert_eq!(scratch.facts("var/run").content, b"/run");
}

/// The link's target may be in a lower layer: the entry goes where the merged
/// tree would have it.
#[test]
fn makes_what_a_link_leads_to() {
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .symlink("var/run", "/run/./deep/../shallow")
            .file("var/run/pid", "1")
            .symlink("a/rel", "../b/c")
            .file("a/rel/f", "2")
            .symlink("one", "two")
            .symlink("two", "three/")
            .file("one/f", "3"),
    );
    assert_eq!(scratch.text("run/shallow/pid"), "1");
    assert_eq!(scratch.text("b/c/f"), "2");
    assert_eq!(scratch.text("three/f"), "3");
    let error = scratch.refused(
        Archive::new()
            .symlink("x", "y")
            .symlink("y", "x")
            .file("x/f", ""),
    );
    let ApplyError::Io { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        source.raw_os_error(),
        Some(rustix::io::Errno::LOOP.raw_os_error())
    );
}

/// X2: kaniko writes the targets of hard links as absolute paths (go-archive
/// #99). X9: a hard link to a symbolic link is that link.
#[test]
fn makes_hard_links() {
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .item(file("usr/bin/perl").data("ELF").mode(0o755).owner(1, 1))
            .item(
                Item::new("usr/bin/perl5", b'1')
                    .link("/usr/bin/perl")
                    .mode(0o600)
                    .owner(2, 2),
            )
            .hard_link("dotted", "./usr/bin/../bin/perl")
            .symlink("usr/link", "nowhere")
            .hard_link("usr/link2", "usr/link")
            // To itself.
            .hard_link("usr/bin/perl", "usr/bin/perl"),
    );
    let perl = scratch.facts("usr/bin/perl");
    assert_eq!((perl.links, perl.mode, perl.owner), (3, 0o100_755, (1, 1)));
    assert_eq!(scratch.facts("usr/bin/perl5").inode, perl.inode);
    assert_eq!(scratch.facts("dotted").inode, perl.inode);
    let link = scratch.facts("usr/link2");
    assert_eq!((link.content.as_slice(), link.links), (&b"nowhere"[..], 2));
    for target in ["missing", "missing/file", "usr/bin/perl/x"] {
        let error = scratch.refused(Archive::new().hard_link("h", target));
        assert!(matches!(error, ApplyError::Io { .. }), "{error}");
    }
}

/// X9: names of more than 100 bytes, ids of more than 21 bits, names that are
/// no text.
#[test]
fn takes_long_names_and_large_ids() {
    let scratch = Scratch::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    scratch.apply(
        Archive::new()
            .item(file(&long).owner(3_000_000_000, u64::from(u32::MAX - 1)))
            .file(b"\xff\x01\n", "bytes"),
    );
    assert_eq!(scratch.facts(&long).owner, (3_000_000_000, u32::MAX - 1));
    let name = OsStr::from_bytes(b"\xff\x01\n");
    assert_eq!(fs::read(scratch.root().join(name)).unwrap(), b"bytes");
}

#[test]
fn keeps_holes() {
    let scratch = Scratch::new();
    let size = 1_u64 << 32;
    scratch.apply(
        Archive::new().item(
            file("made-up")
                .data("abcd")
                .pax("GNU.sparse.name", "sparse")
                .pax("GNU.sparse.size", size.to_string())
                .pax("GNU.sparse.map", "0,2,1048576,2"),
        ),
    );
    let metadata = fs::metadata(scratch.root().join("sparse")).unwrap();
    assert_eq!(metadata.size(), size);
    assert!(metadata.blocks() < 100, "{}", metadata.blocks());
}

/// The digest of a layer covers what follows the archive, so it is read.
#[test]
fn reads_the_stream_to_its_end() {
    let scratch = Scratch::new();
    let mut archive = Archive::new().file("f", "").finish();
    archive.resize(archive.len() + 1_000_000, 7);
    let mut rest = &archive[..];
    let root = File::open(scratch.root()).unwrap();
    apply_layer(
        &mut rest,
        root.as_fd(),
        ApplyKind::Layer,
        &Limits::default(),
    )
    .unwrap();
    assert!(rest.is_empty());
    let limits = Limits {
        max_bytes: 1000,
        ..Limits::default()
    };
    let error = scratch
        .apply_with(&archive, ApplyKind::Layer, &limits)
        .unwrap_err();
    assert!(
        matches!(error, ApplyError::TooLarge { limit: 1000 }),
        "{error}"
    );
}

#[test]
fn a_layer_may_lack_its_end_marker() {
    let scratch = Scratch::new();
    for archive in [Vec::new(), Archive::new().file("f", "x").bytes] {
        scratch
            .apply_with(&archive, ApplyKind::Layer, &Limits::default())
            .unwrap();
        let error = scratch
            .apply_with(&archive, ApplyKind::RootFilesystem, &Limits::default())
            .unwrap_err();
        assert!(
            matches!(error, ApplyError::Tar(TarError::Truncated { .. })),
            "{error}"
        );
    }
}

#[test]
fn errors_name_the_entry() {
    let scratch = Scratch::new();
    let error = scratch.refused(Archive::new().file("f\x1b", "").file("f\x1b/g", ""));
    assert_eq!(error.to_string(), "cannot open the directory of f\\x1b/g");
    let source = std::error::Error::source(&error).unwrap();
    assert!(
        source.to_string().starts_with("Not a directory"),
        "{source}"
    );
}
