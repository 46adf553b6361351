//! Small files are filled by another thread: the result is as if there were none.

use super::*;

/// Every name three times, far enough apart that the first file is filled when the second comes,
/// and near enough that it is not: the last one has all of its own.
#[test]
fn the_last_of_one_name_wins() {
    for distance in [1_usize, 7, 40] {
        let scratch = Scratch::new();
        let mut archive = Archive::new();
        for start in (0..120).step_by(distance) {
            for turn in 0..3_u32 {
                for number in start..start + distance {
                    let item = file(format!("d/{number}"))
                        .data(format!("{number} {turn}"))
                        .mode(0o600 + turn)
                        .owner(turn.into(), 5)
                        .mtime(turn.into());
                    archive = archive.item(item);
                }
            }
        }
        scratch.apply(archive);
        for number in 0..120 {
            let facts = scratch.facts(&format!("d/{number}"));
            assert_eq!(facts.content, format!("{number} 2").as_bytes());
            assert_eq!((facts.mode, facts.owner), (0o100_602, (2, 5)));
            assert_eq!((facts.mtime, facts.links), ((2, 0), 1));
        }
    }
}

/// Links, replacements and whiteouts meet files that have a name and nothing else yet.
#[test]
fn names_of_unfilled_files_can_be_used() {
    let scratch = Scratch::new();
    let mut archive = Archive::new();
    for number in 0..100 {
        archive = archive
            .item(
                file(format!("{number}/a"))
                    .data("first")
                    .mode(0o4755)
                    .mtime(9),
            )
            .hard_link(format!("{number}/b"), format!("{number}/a"))
            .item(file(format!("{number}/a")).data("second"))
            .item(file(format!("{number}/c")).data("gone"))
            .directory(format!("{number}/c/"))
            .item(file(format!("{number}/c/d")).data("below").owner(1, 1))
            .item(file(format!("{number}/e")).data("stays"))
            .file(format!("{number}/.wh.e"), "")
            .item(file(format!("{number}/f")).data("f"))
            .symlink(format!("{number}/f"), "a");
    }
    scratch.apply(archive);
    for number in 0..100 {
        let linked = scratch.facts(&format!("{number}/b"));
        assert_eq!(linked.content, b"first");
        assert_eq!((linked.mode, linked.mtime), (0o104_755, (9, 0)));
        assert_eq!(linked.links, 1);
        for (name, content) in [
            ("a", "second"),
            ("c/d", "below"),
            ("e", "stays"),
            ("f", "a"),
        ] {
            let facts = scratch.facts(&format!("{number}/{name}"));
            assert_eq!(facts.content, content.as_bytes(), "{number}/{name}");
        }
    }
}

/// The thread's error is the layer's, with the name of the file, wherever in the layer it is.
#[test]
fn errors_come_back() {
    for bad in [0, 15, 16, 500, 999] {
        let scratch = Scratch::new();
        let mut archive = Archive::new();
        for number in 0..1000 {
            let mut item = file(number.to_string()).data("x");
            if number == bad {
                // No file system has attributes of that size.
                item = item.pax("SCHILY.xattr.user.big", vec![b'x'; 70_000]);
            }
            archive = archive.item(item);
        }
        let error = scratch.refused(archive);
        assert!(
            matches!(&error, ApplyError::Io { entry, .. } if *entry == bad.to_string()),
            "{bad}: {error:?}"
        );
    }
}

/// Sizes around the one from which files are filled at once, and many of them, come out whole.
#[test]
fn sizes_around_the_limit() {
    let scratch = Scratch::new();
    let limit = 32 << 10;
    let sizes = [0, 1, limit - 1, limit, limit + 1, 3 * limit];
    let content = |number: usize| -> Vec<u8> {
        let size = sizes[number % sizes.len()];
        (0..size).map(|at| (at * 7 + number) as u8).collect()
    };
    let mut archive = Archive::new();
    for number in 0..200 {
        archive = archive.file(number.to_string(), content(number));
    }
    scratch.apply(archive);
    for number in 0..200 {
        assert!(
            scratch.facts(&number.to_string()).content == content(number),
            "{number}"
        );
    }
}

/// A layer that ends in the middle, or an entry that is refused, ends the thread as well.
#[test]
fn what_is_left_is_dropped_after_an_error() {
    let scratch = Scratch::new();
    let mut archive = Archive::new();
    for number in 0..300 {
        archive = archive.file(number.to_string(), "x");
    }
    let error = scratch.refused(archive.file("../out", "x"));
    assert!(matches!(error, ApplyError::Escapes { .. }), "{error:?}");
}
