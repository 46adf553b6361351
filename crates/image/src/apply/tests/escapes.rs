//! Archives that want out of their directory, or more than their share.

use std::os::unix::fs::symlink;

use super::*;

/// U01 (CVE-2014-6407, CVE-2014-9356), U08 (CVE-2021-21272, CVE-2026-50162,
/// CVE-2026-50163, CVE-2024-24579, CVE-2024-0406, CVE-2025-3445).
#[test]
fn names_stay_inside() {
    let depth = "../".repeat(20);
    for name in [
        "../x",
        "a/../../x",
        "/../x",
        "..",
        "./..",
        "/..",
        "a/../..",
        &format!("{depth}x"),
    ] {
        for item in [file(name), directory(name), Item::new(name, b'2').link("t")] {
            let scratch = Scratch::new();
            let error = scratch.refused(Archive::new().item(item));
            assert!(
                matches!(error, ApplyError::Escapes { .. }),
                "{name}: {error}"
            );
            assert!(scratch.names().is_empty(), "{name}");
        }
    }
    let cases = [
        ("/x", "x"),
        ("///x", "x"),
        ("./x", "x"),
        ("a/../x", "x"),
        ("a/./b/../../x", "x"),
        ("..x/..", ""),
        ("a..", "a.."),
    ];
    for (name, made) in cases {
        let scratch = Scratch::new();
        scratch.apply(Archive::new().directory(name));
        let expected: Vec<&str> = if made.is_empty() { vec![] } else { vec![made] };
        assert_eq!(scratch.names(), expected, "{name}");
    }
    let scratch = Scratch::new();
    let error = scratch.refused(Archive::new().file("a", "").file("", ""));
    assert!(matches!(error, ApplyError::NoName { number: 2 }), "{error}");
}

/// Ways to something outside through `target`, which leads to the canaries.
fn ways_out(target: &str) -> Vec<Archive> {
    let link = || Archive::new().symlink("l", target);
    let link_to_file = || Archive::new().symlink("l", format!("{target}/file"));
    let changed = |path: &str| directory(path).mode(0o777).owner(1, 1).mtime(1);
    vec![
        // Through a link, and over one.
        link().file("l/file", "overwritten"),
        link_to_file().file("l", "overwritten"),
        link().directory("l/new/deep"),
        link().symlink("l/file", "x"),
        link().item(Item::new("l/pipe", b'6')),
        link().file("l/.wh.file", ""),
        link().file("l/etc/.wh..wh..opq", ""),
        link().item(changed("l/etc")),
        link().symlink("m", "l/etc").file("m/passwd", "x"),
        // U03 (CVE-2021-32760, CVE-2021-41089, CVE-2026-33056, RUSTSEC-2026-0113):
        // mode and owner of what a link leads to.
        link().item(changed("l")),
        link().item(changed("l/")),
        link().item(changed("l/.")),
        link_to_file().item(changed("l")),
        link_to_file().item(file("l").mode(0o777).owner(1, 1)),
        link().item(
            Item::new("l", b'2')
                .link(target)
                .mode(0o777)
                .owner(1, 1)
                .mtime(1),
        ),
        link().hard_link("h", "l").item(changed("h")),
        link().item(Item::new("h", b'1').link("l/file").mode(0o777).owner(1, 1)),
        link()
            .item(changed("d"))
            .item(Item::new("d", b'2').link(target)),
        // A hard link out, then a write through the link.
        Archive::new()
            .hard_link("h", format!("{target}/file"))
            .file("h", "overwritten"),
        link()
            .hard_link("h", "l/file")
            .item(file("h").data("overwritten").mode(0o777)),
        link_to_file()
            .hard_link("h", "l")
            .item(file("h").data("overwritten")),
        link().file("own", "").hard_link("l/file", "own"),
        // Replacing a directory removes it, and nothing that it links to.
        Archive::new().symlink("d/l", target).file("d", ""),
        link().directory("l/etc").file("l/etc", ""),
        // U12 (CVE-2026-26960, CVE-2026-23745, CVE-2026-42497): a chain of links
        // of which each stays inside by itself.
        Archive::new()
            .directory("a/b/c")
            .symlink("a/b/c/up", "../..")
            .symlink("a/b/escape", "c/up/../..")
            .hard_link("exfiltrated", format!("a/b/escape{target}/file"))
            .file("exfiltrated", "overwritten"),
        Archive::new()
            .directory("a/b/c")
            .symlink("a/b/c/up", "../..")
            .symlink("a/b/escape", "c/up/../..")
            .file("a/b/escape/../canary/file", "overwritten")
            .file("a/b/escape/canary/file", "overwritten"),
    ]
}

/// U01, U02 (CVE-2026-17106), U08, U10 (RUSTSEC-2018-0002, RUSTSEC-2021-0080):
/// nothing is written, made, linked or changed outside, be it before an error
/// or without one. Confined or refused; every call compares the canaries.
#[test]
fn links_do_not_lead_out() {
    for form in 0..4 {
        for way in 0..ways_out("").len() {
            let scratch = Scratch::new();
            let out = scratch.canary_path();
            let target = match form {
                0 => out,
                1 => format!("{}{out}", "../".repeat(20)),
                2 => format!("/proc/self/root{out}"),
                _ => "../canary".to_owned(),
            };
            let _ = scratch.try_apply(ways_out(&target).swap_remove(way));
            let outside: Vec<u64> = scratch.canary.values().map(|facts| facts.inode).collect();
            for (path, facts) in facts(&scratch.root()) {
                assert!(
                    !outside.contains(&facts.inode),
                    "{target}, way {way}: {path:?}"
                );
            }
        }
    }
}

#[test]
fn hard_links_do_not_lead_out() {
    for link in [
        "..",
        "../canary/file",
        "a/../../canary/file",
        "/",
        ".",
        "a/..",
        "",
    ] {
        let scratch = Scratch::new();
        let error = scratch.refused(Archive::new().hard_link("h", link));
        assert!(
            matches!(error, ApplyError::LinkEscapes { .. }),
            "{link}: {error}"
        );
    }
}

/// U02 (CVE-2026-17106): each layer has its directory, so that what one plants
/// is nothing to the next.
#[test]
fn layers_do_not_meet() {
    let first = Scratch::new();
    first.apply(Archive::new().symlink("etc", first.canary_path()));
    let second = Scratch::new();
    second.apply(
        Archive::new()
            .file("etc/x", "x")
            .file("etc/.wh.file", "")
            .hard_link("etc/y", "etc/x"),
    );
    assert_eq!(second.names(), ["etc", "etc/file", "etc/x", "etc/y"]);
    assert_eq!(second.facts("etc").mode, 0o040_755);
    first.check_canary();
    assert_eq!(first.names(), ["etc"]);
}

/// U03: what the caller left in the directory is no way out either.
#[test]
fn links_that_were_there_before_do_not_lead_out() {
    let scratch = Scratch::new();
    symlink(scratch.canary_path(), scratch.root().join("l")).unwrap();
    symlink("/proc/self/cwd", scratch.root().join("magic")).unwrap();
    scratch.apply(
        Archive::new()
            .item(directory("l").mode(0o777).owner(1, 1))
            .file("l/file", "x"),
    );
    assert_eq!(scratch.text("l/file"), "x");
    let _ = scratch.try_apply(Archive::new().file("magic/file", ""));
}

/// U07 (CVE-2021-29136, CVE-2026-48749, CVE-2026-48750, CVE-2026-48752).
#[test]
fn only_a_directory_is_the_root() {
    for name in [".", "./", "/", "./.", "a/.."] {
        for type_flag in [b'2', b'1', b'3', b'6'] {
            let scratch = Scratch::new();
            let item = Item::new(name, type_flag)
                .link(scratch.canary_path())
                .device(1, 3);
            let error = scratch.refused(Archive::new().item(item));
            assert!(
                matches!(error, ApplyError::ReplacesRoot { .. }),
                "{name}: {error}"
            );
            assert!(fs::symlink_metadata(scratch.root()).unwrap().is_dir());
        }
    }
    let scratch = Scratch::new();
    for name in [".", "a/.."] {
        let error = scratch.refused(Archive::new().file(name, ""));
        assert!(
            matches!(error, ApplyError::ReplacesRoot { .. }),
            "{name}: {error}"
        );
    }
}

/// U13 (CVE-2025-4517): paths longer than the kernel resolves at once.
#[test]
fn long_paths_are_confined() {
    let component = "d".repeat(255);
    let deep = vec![component.as_str(); 300].join("/");
    let scratch = Scratch::new();
    let error = scratch.refused(Archive::new().file(format!("{deep}/f"), ""));
    let ApplyError::Io { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        source.raw_os_error(),
        Some(rustix::io::Errno::NAMETOOLONG.raw_os_error())
    );

    // Short links to long directories, until the whole is far beyond PATH_MAX.
    let mut archive = Archive::new();
    let mut at = String::new();
    for level in 0..16 {
        let link = format!("{at}l{level}");
        let target = format!("{component}/{component}");
        archive = archive
            .directory(format!("{at}{target}"))
            .symlink(&link, target);
        at = format!("{link}/");
    }
    let out = scratch.canary_path();
    let up = "../".repeat(60);
    archive = archive
        .symlink(format!("{at}up"), format!("{up}{out}"))
        .file(format!("{at}up/file"), "overwritten")
        .hard_link("h", format!("{at}up/file"))
        .item(file("h").data("overwritten").mode(0o777));
    let _ = scratch.try_apply(archive);
}

/// U17: bombs stop at the limit, before the disk is full.
#[test]
fn stops_at_the_limits() {
    let limits = Limits {
        max_bytes: 1000,
        max_entries: 10,
        max_depth: 5,
    };
    let apply = |archive: Archive| {
        let scratch = Scratch::new();
        let applied = scratch.apply_with(&archive.finish(), ApplyKind::Layer, &limits);
        (
            applied.map_err(|error| error.to_string()),
            scratch.names().len(),
        )
    };
    let entries = |count: usize| {
        (0..count).fold(Archive::new(), |archive, at| {
            archive.file(format!("{at}"), "")
        })
    };
    let sparse = file("f").pax("GNU.sparse.size", (100_u64 << 30).to_string());
    let cases = [
        (
            "1000 bytes",
            Archive::new().file("a", [0; 999]).file("b", "x"),
            Ok(1000),
        ),
        (
            "1001 bytes",
            Archive::new().file("a", [0; 999]).file("b", "xx"),
            Err("bytes"),
        ),
        (
            "a hole",
            Archive::new().item(sparse.pax("GNU.sparse.map", "")),
            Err("bytes"),
        ),
        (
            "a claim",
            Archive::new()
                .item(file("f").size(i64::MAX as u64))
                .file("g", ""),
            Err("bytes"),
        ),
        ("10 entries", entries(10), Ok(0)),
        ("11 entries", entries(11), Err("entries")),
        (
            "the same",
            (0..11).fold(Archive::new(), |a, _| a.file("f", "")),
            Err("entries"),
        ),
        (
            "implied directories",
            (0..4).fold(Archive::new(), |a, at| a.file(format!("{at}/b/c/f"), "")),
            Err("entries"),
        ),
        (
            "ignored",
            (0..11).fold(Archive::new(), |a, _| a.file(".wh..wh.aufs", "")),
            Err("entries"),
        ),
        ("5 deep", Archive::new().directory("1/2/3/4/5"), Ok(0)),
        (
            "6 deep",
            Archive::new().directory("1/2/3/4/5/6"),
            Err("deep"),
        ),
    ];
    for (what, archive, expected) in cases {
        let (applied, made) = apply(archive);
        match (applied, expected) {
            (Ok(applied), Ok(bytes)) => assert_eq!(applied.bytes, bytes, "{what}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{what}: {error}"),
            (applied, _) => panic!("{what}: {applied:?}"),
        }
        assert!(made <= 13, "{what} made {made}");
    }
    // The default depth stops 100,000 directories in each other.
    let scratch = Scratch::new();
    let error = scratch.refused(Archive::new().directory("d/".repeat(100_000)));
    assert!(matches!(error, ApplyError::TooDeep { .. }), "{error}");
    assert!(scratch.names().is_empty());
}

/// A hundred small entries cannot link up a tree that has no end to its paths.
#[test]
fn links_in_implied_directories_count() {
    let scratch = Scratch::new();
    let mut archive = Archive::new();
    for level in 0..60 {
        archive = archive.symlink(format!("l{level}"), format!("x{level}/y/l{}", level + 1));
    }
    let _ = scratch.try_apply(archive.file("l0/f", ""));
    assert!(scratch.names().len() < 500);
}

/// U20: numbers out of range make nothing.
#[test]
fn numbers_out_of_range_make_nothing() {
    let items = [
        file("f").owner((1 << 32) + 1, 0),
        file("f").owner(u64::from(u32::MAX), 0),
        file("f").owner(0, 1 << 40),
        file("f").pax("uid", "4294967295"),
        file("f").pax("gid", "-1"),
        Item::new("f", b'3').device(1 << 33, 3),
        Item::new("f", b'4').device(1, 1 << 20),
    ];
    for item in items {
        let scratch = Scratch::new();
        let error = scratch.refused(Archive::new().item(item));
        assert!(matches!(error, ApplyError::Tar(_)), "{error}");
        assert!(scratch.names().is_empty());
    }
    let scratch = Scratch::new();
    let error = scratch.refused(Archive::new().item(Item::new("f", b'3')));
    assert!(
        matches!(
            error,
            ApplyError::Device {
                major: 0,
                minor: 0,
                ..
            }
        ),
        "{error}"
    );
}

/// U04 (CVE-2025-47290): a parent found for one entry is not the next one's if
/// what came between changed where its path leads.
#[test]
fn parents_are_never_stale() {
    // `d/before` is in the parent that is remembered, `d/after` must not be.
    let changes: [(&str, Archive); 4] = [
        ("other/after", Archive::new().symlink("d", "other")),
        ("d/after", Archive::new().file("d", "").directory("d")),
        (
            "d/after",
            Archive::new().directory("d/x").file("d", "").directory("d"),
        ),
        ("other/after", Archive::new().hard_link("d", "link")),
    ];
    for (expected, change) in changes {
        let scratch = Scratch::new();
        let mut archive = Archive::new()
            .directory("other")
            .symlink("link", "other")
            .directory("d")
            .file("d/before", "");
        archive.bytes.extend(change.bytes);
        scratch.apply(archive.file("d/after", ""));
        assert!(scratch.root().join(expected).exists(), "{expected}");
        assert!(!scratch.root().join("d/before").exists(), "{expected}");
    }
    // A link on the way, replaced by another.
    let scratch = Scratch::new();
    scratch.apply(
        Archive::new()
            .directory("a")
            .directory("b")
            .symlink("l", "a")
            .file("l/one", "")
            .symlink("l", "b")
            .file("l/two", ""),
    );
    assert_eq!(scratch.names(), ["a", "a/one", "b", "b/two", "l"]);
}

/// U03 (containerd 84ae07444): a node that turns into a link after it was made.
#[test]
fn nodes_that_turn_into_links_are_not_followed() {
    for target in ["file", "etc"] {
        let scratch = Scratch::new();
        scratch.apply(Archive::new().item(Item::new("fifo", b'6')));
        let root = OwnedFd::from(File::open(scratch.root()).unwrap());
        let made = tree::lstat(&root, b"fifo").unwrap();
        fs::remove_file(scratch.root().join("fifo")).unwrap();
        let out = Path::new(&scratch.canary_path()).join(target);
        symlink(out, scratch.root().join("fifo")).unwrap();

        let archive = Archive::new()
            .item(Item::new("fifo", b'6').mode(0o610).owner(1, 1))
            .finish();
        let entry = Reader::new(&archive[..]).next_entry().unwrap().unwrap();
        let set = node::set_node_metadata(&root, b"fifo", &made, &entry, true);
        assert!(set.is_err());
        scratch.check_canary();
    }
}

/// U04 (CVE-2025-47290), U03 (containerd 84ae07444): while entries are applied,
/// someone keeps turning directories into links to the canaries and back.
#[test]
fn races_stay_inside() {
    let scratch = Scratch::new();
    let root = File::open(scratch.root()).unwrap();
    let done = AtomicBool::new(false);
    let archive = (0..20)
        .fold(Archive::new(), |archive, at| {
            archive
                .item(directory("d").mode(0o777).owner(1, 1))
                .file("d/file", "overwritten")
                .item(directory("d/etc").mode(0o777).owner(1, 1))
                .item(
                    file("d/etc/passwd")
                        .data("overwritten")
                        .mode(0o777)
                        .owner(1, 1),
                )
                .item(Item::new("d/fifo", b'6').mode(0o777).owner(1, 1))
                .file(format!("d/new{at}"), "new")
                .hard_link("d/hard", "d/file")
                .file("d/.wh.gone", "")
        })
        .finish();
    std::thread::scope(|scope| {
        let attacker = || {
            while !done.load(Ordering::Relaxed) {
                make_directory(&root, ".", "d");
                make_directory(&root, "d", "etc");
                let _ = symlink(scratch.canary_path(), scratch.root().join("link"));
                for _ in 0..50 {
                    exchange(&root, ".", "d", "link");
                    exchange(&root, "d", "etc", "link");
                }
            }
        };
        let _stop = Stop(&done);
        scope.spawn(attacker);
        scope.spawn(attacker);
        let started = Instant::now();
        while started.elapsed() < RACE {
            // It may fail; it may not leave.
            let _ = apply_layer(
                &archive[..],
                root.as_fd(),
                ApplyKind::Layer,
                &Limits::default(),
            );
            scratch.check_canary();
        }
    });
    scratch.check_canary();
}
