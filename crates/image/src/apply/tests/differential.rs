//! The same archives in other hands: GNU tar, which every Linux has, and
//! bsdtar and Python where they are installed.

mod odd;

use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::process::{Command, Output, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Timespec, Timestamps, XattrFlags, mknodat, utimensat};

use super::*;
use crate::tar::testing::{number, put, record, seal};
use crate::tar::{BLOCK, EntryKind, Reader};

fn run(command: &[&str], directory: &Path, input: &[u8]) -> Output {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .current_dir(directory)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It may stop reading early.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    })
}

fn is_installed(tool: &str) -> bool {
    Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// A tree with one of everything; `extended` is what ustar cannot hold.
fn grow(root: &Path, extended: bool) {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("dir/closed")).unwrap();
    fs::write(path("dir/file"), "content").unwrap();
    fs::write(path("dir/empty"), "").unwrap();
    fs::write(path("dir/closed/block"), [7; 512]).unwrap();
    fs::write(path("setuid"), "#!").unwrap();
    fs::set_permissions(path("setuid"), PermissionsExt::from_mode(0o6755)).unwrap();
    fs::set_permissions(path("dir/closed"), PermissionsExt::from_mode(0o1700)).unwrap();
    chown(path("dir/file"), Some(12), Some(34)).unwrap();
    fs::hard_link(path("dir/file"), path("hard")).unwrap();
    symlink("dir/file", path("link")).unwrap();
    symlink("/nowhere", path("dangling")).unwrap();
    fs::hard_link(path("link"), path("link2")).unwrap();
    let mut times = vec!["dir/empty", "dir/closed", "link"];
    fs::write(path(&format!("dir/{}", "n".repeat(80))), "long").unwrap();
    if extended {
        let name = format!("dir/{}", "n".repeat(200));
        fs::write(path(&name), "longer").unwrap();
        let deep = format!("{}/{}/f", "d".repeat(150), "e".repeat(150));
        fs::create_dir_all(path(&deep).parent().unwrap()).unwrap();
        fs::write(path(&deep), "deep").unwrap();
        symlink("t".repeat(300), path("long-link")).unwrap();
        fs::hard_link(path(&name), path(&"h".repeat(150))).unwrap();
        chown(path("dir/empty"), Some(3_000_000_000), Some(u32::MAX - 1)).unwrap();
        times.push("dir");
    }
    for name in times {
        // Without a fraction, which not every format has.
        let time = Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, path(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Devices and FIFOs, which v7 and older Pythons do not have.
fn grow_nodes(root: &Path) {
    let mode = Mode::from_raw_mode(0o640);
    let device = rustix::fs::makedev(1, 3);
    mknodat(
        CWD,
        root.join("null"),
        FileType::CharacterDevice,
        mode,
        device,
    )
    .unwrap();
    mknodat(
        CWD,
        root.join("disk"),
        FileType::BlockDevice,
        mode,
        rustix::fs::makedev(7, 300),
    )
    .unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
}

fn grow_holes(root: &Path, segments: u64) {
    let file = File::create(root.join("sparse")).unwrap();
    for at in 0..segments {
        file.write_all_at(b"data", (2 * at + 1) << 16).unwrap();
    }
    file.set_len((2 * segments + 8) << 16).unwrap();
}

fn grow_attributes(root: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    set("dir/file", "security.capability", &capability);
    set("dir/empty", "user.binary", b"\0\xff=\n");
    set("dir", "user.d", b"d");
}

const GNU: [&str; 6] = [
    "tar",
    "-xpf",
    "-",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
];

/// GNU tar forgets the times of directories when their entries do not come
/// one after the other, as in archives of bsdtar.
const BSD: [&str; 4] = ["bsdtar", "-xpf", "-", "--numeric-owner"];

/// The archive as another tool and we unpack it.
#[track_caller]
fn compare(what: &str, extract: &[&str], archive: &[u8]) {
    let (theirs, ours) = (Scratch::new(), Scratch::new());
    let output = run(extract, &theirs.root(), archive);
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let applied = ours.apply_with(archive, ApplyKind::RootFilesystem, &Limits::default());
    applied.unwrap_or_else(|error| panic!("{what}: {error}: {:?}", source(&error)));
    let seen = |scratch: &Scratch| {
        let mut facts = facts(&scratch.root());
        for (path, facts) in &mut facts {
            facts.inode = 0;
            // Parents that the archive does not hold.
            if path.as_os_str().is_empty() {
                facts.mtime = (0, 0);
            }
        }
        facts
    };
    let (theirs, ours) = (seen(&theirs), seen(&ours));
    assert_eq!(
        theirs.keys().collect::<Vec<_>>(),
        ours.keys().collect::<Vec<_>>(),
        "{what}"
    );
    for (path, facts) in &theirs {
        assert_eq!(facts, &ours[path], "{what}: {path:?}");
    }
    assert!(theirs.len() > 10, "{what}");
}

fn source(error: &ApplyError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

fn archive_with(command: &[&str], source: &Scratch) -> Vec<u8> {
    let output = run(command, &source.root(), b"");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn unpacks_what_gnu_tar_packs() {
    let plain = Scratch::new();
    grow(&plain.root(), false);
    compare(
        "v7",
        &GNU,
        &archive_with(&["tar", "--format=v7", "-cf", "-", "."], &plain),
    );
    grow_nodes(&plain.root());
    compare(
        "ustar",
        &GNU,
        &archive_with(&["tar", "--format=ustar", "-cf", "-", "."], &plain),
    );

    let full = Scratch::new();
    grow(&full.root(), true);
    grow_nodes(&full.root());
    grow_holes(&full.root(), 60);
    for format in ["gnu", "oldgnu", "pax"] {
        for sparse in ["", "-S"] {
            let format = format!("--format={format}");
            let mut command = vec!["tar", &format, "-cf", "-", "."];
            if !sparse.is_empty() {
                command.insert(1, sparse);
            }
            compare(
                &format!("{format} {sparse}"),
                &GNU,
                &archive_with(&command, &full),
            );
        }
    }
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        let command = ["tar", "--format=pax", "-S", &version, "-cf", "-", "."];
        compare(&version, &GNU, &archive_with(&command, &full));
    }
    grow_attributes(&full.root());
    let command = [
        "tar",
        "--format=pax",
        "--xattrs",
        "--xattrs-include=*",
        "-cf",
        "-",
        ".",
    ];
    compare("xattrs", &GNU, &archive_with(&command, &full));
    let global = [
        "tar",
        "--format=pax",
        "--pax-option=globexthdr.name=%d/g,comment=hello,mtime=1234567890.5",
        "-cf",
        "-",
        ".",
    ];
    compare("global", &GNU, &archive_with(&global, &full));
}

#[test]
fn unpacks_what_bsdtar_packs() {
    if !is_installed("bsdtar") {
        return;
    }
    let plain = Scratch::new();
    grow(&plain.root(), false);
    grow_nodes(&plain.root());
    compare(
        "ustar",
        &BSD,
        &archive_with(&["bsdtar", "--format=ustar", "-cf", "-", "."], &plain),
    );
    let full = Scratch::new();
    grow(&full.root(), true);
    grow_nodes(&full.root());
    compare(
        "gnutar",
        &BSD,
        &archive_with(&["bsdtar", "--format=gnutar", "-cf", "-", "."], &full),
    );
    grow_holes(&full.root(), 3);
    grow_attributes(&full.root());
    compare(
        "pax",
        &BSD,
        &archive_with(&["bsdtar", "--format=pax", "-cf", "-", "."], &full),
    );
}

#[test]
fn unpacks_what_python_packs() {
    if !is_installed("python3") {
        return;
    }
    let full = Scratch::new();
    grow(&full.root(), true);
    grow_nodes(&full.root());
    let plain = Scratch::new();
    grow(&plain.root(), false);
    for (format, source) in [("USTAR", &plain), ("GNU", &full), ("PAX", &full)] {
        let script = format!(
            "import sys, tarfile\n\
             t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.{format}_FORMAT)\n\
             t.add('.')\n\
             t.close()\n"
        );
        compare(
            format,
            &GNU,
            &archive_with(&["python3", "-c", &script], source),
        );
    }
}

/// Names, kinds and sizes as we see them, or `None` if we refuse.
fn list(archive: &[u8]) -> Option<Vec<(String, u64)>> {
    let mut reader = Reader::new(archive);
    let mut entries = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                let name = String::from_utf8_lossy(&entry.path)
                    .trim_end_matches('/')
                    .to_owned();
                let size = if entry.kind == EntryKind::File {
                    entry.size
                } else {
                    0
                };
                entries.push((name, size));
            }
            Ok(None) => return Some(entries),
            Err(_) => return None,
        }
    }
}

/// The same from another reader, or `None` if it refuses. Each prints a line of
/// size and name for every entry.
fn list_with(tool: &str, archive: &[u8]) -> Option<Vec<(String, u64)>> {
    let python = "import sys, tarfile\n\
         for m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|'):\n\
         \x20   print(m.size if m.isreg() else 0, m.name)\n";
    let command: &[&str] = match tool {
        "tar" => &["tar", "-tvPf", "-", "--numeric-owner", "--full-time"],
        "bsdtar" => &["bsdtar", "-tvPf", "-", "--numeric-owner"],
        _ => &["python3", "-c", python],
    };
    let output = run(command, Path::new("/"), archive);
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let entries = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (size, name) = match tool {
            // -rw-r--r-- 0/0 4 2023-11-14 22:13:20 name
            "tar" => (words[2], words[5]),
            // -rw-r--r--  0 0 0 4 Nov 14 2023 name
            "bsdtar" => (words[4], words[8]),
            _ => (words[0], words[1]),
        };
        let is_file = tool == "python3" || line.starts_with(['-', 'C']);
        let size = if is_file { size.parse().unwrap() } else { 0 };
        (name.trim_end_matches('/').to_owned(), size)
    });
    Some(entries.collect())
}

/// U11 (CVE-2025-62518, RUSTSEC-2025-0111, CVE-2026-33055, CVE-2026-32766,
/// RUSTSEC-2026-0112, RUSTSEC-2026-0145): whatever we take, GNU tar and the
/// others that take it too see as we do.
#[test]
fn lists_what_others_list_or_refuses() {
    let inner = Archive::new().file("smuggled", "evil").finish();
    let whole = inner.len().to_string();
    let nested = |item: Item| Archive::new().item(item).file("after", "x");
    let extension = |type_flag: u8, data: &[u8]| Item::new("ext", type_flag).data(data);
    let header = |change: &dyn Fn(&mut [u8; BLOCK])| {
        let mut block = file("f").data("data").header();
        change(&mut block);
        seal(&mut block);
        Archive::new()
            .block(&block)
            .padded(b"data")
            .file("after", "x")
    };
    let corpus: Vec<(&str, bool, Archive)> = vec![
        (
            "plain",
            true,
            Archive::new()
                .directory("d/")
                .file("d/f", "x")
                .symlink("l", "d"),
        ),
        (
            "pax size, header 0",
            true,
            nested(file("f").data(&inner).size(0).pax("size", &whole)),
        ),
        (
            "pax size, header less",
            true,
            nested(file("f").data(&inner).size(3).pax("size", &whole)),
        ),
        (
            "pax size, header more",
            true,
            nested(file("f").data(&inner).size(9999).pax("size", &whole)),
        ),
        (
            "pax size 0",
            true,
            nested(file("f").data("").size(inner.len() as u64).pax("size", "0")),
        ),
        ("pax size less", true, {
            let items = file("f").data("").size(2000).pax("size", "0");
            Archive::new()
                .item(items)
                .file("visible", "evil")
                .file("after", "x")
        }),
        (
            "pax size padded",
            true,
            nested(file("f").data("data").size(0).pax("size", "0000004")),
        ),
        (
            "pax size empty",
            false,
            nested(file("f").data("data").pax("size", "")),
        ),
        (
            "pax size negative",
            false,
            nested(file("f").data("data").pax("size", "-4")),
        ),
        (
            "pax size in hexadecimal",
            false,
            nested(file("f").data("data").pax("size", "0x4")),
        ),
        (
            "pax size with a fraction",
            false,
            nested(file("f").data("data").pax("size", "4.0")),
        ),
        (
            "pax size twice",
            true,
            nested(file("f").data("data").pax("size", "9").pax("size", "4")),
        ),
        (
            "pax size beyond 63 bits",
            false,
            nested(file("f").pax("size", "18446744073709551615")),
        ),
        ("pax path", true, nested(file("f").pax("path", "other"))),
        (
            "pax path twice",
            true,
            nested(file("f").pax("path", "a").pax("path", "b")),
        ),
        (
            "pax path with NUL",
            false,
            nested(file("f").pax("path", "a\0b")),
        ),
        (
            "pax size of a directory",
            false,
            nested(directory("d").data(&inner).pax("size", &whole)),
        ),
        ("pax size of a link", false, {
            nested(
                Item::new("l", b'2')
                    .link("t")
                    .data(&inner)
                    .pax("size", &whole),
            )
        }),
        ("pax size over a long name", true, {
            Archive::new()
                .item(extension(b'x', &record("size", b"4")))
                .item(extension(b'L', b"long\0"))
                .block(&file("f").header())
                .padded(b"data")
                .file("after", "x")
        }),
        ("pax then global", true, {
            Archive::new()
                .item(extension(b'x', &record("path", b"a")))
                .item(extension(b'g', &record("comment", b"b")))
                .file("f", "x")
        }),
        ("global size", false, {
            Archive::new()
                .item(extension(b'g', &record("size", b"0")))
                .file("f", "data")
        }),
        ("global path", false, {
            Archive::new()
                .item(extension(b'g', &record("path", b"x")))
                .file("f", "data")
        }),
        ("two pax headers", false, {
            Archive::new()
                .item(extension(b'x', &record("path", b"a")))
                .item(extension(b'x', &record("path", b"b")))
                .file("f", "x")
        }),
        (
            "pax without an entry",
            false,
            Archive::new().item(extension(b'x', &record("path", b"a"))),
        ),
        (
            "pax record too long",
            false,
            nested(file("f"))
                .item(extension(b'x', b"99 path=x\n"))
                .file("g", ""),
        ),
        (
            "pax record too short",
            false,
            Archive::new()
                .item(extension(b'x', b"8 path=xyz\n"))
                .file("g", ""),
        ),
        (
            "pax record without newline",
            false,
            Archive::new()
                .item(extension(b'x', b"10 path=xy"))
                .file("g", ""),
        ),
        ("pax padding", false, {
            Archive::new()
                .item(extension(b'x', b"9 path=x\n\0\0\0"))
                .file("g", "")
        }),
        ("long name", true, nested(file("n".repeat(300)))),
        (
            "long name without NUL",
            true,
            Archive::new().item(extension(b'L', b"name")).file("f", "x"),
        ),
        (
            "long name with junk",
            true,
            Archive::new()
                .item(extension(b'L', b"name\0junk"))
                .file("f", "x"),
        ),
        (
            "long name alone",
            false,
            Archive::new()
                .file("f", "")
                .item(extension(b'L', b"name\0")),
        ),
        ("two long names", false, {
            Archive::new()
                .item(extension(b'L', b"a\0"))
                .item(extension(b'L', b"b\0"))
                .file("f", "")
        }),
        ("long name and pax path", false, {
            Archive::new()
                .item(extension(b'x', &record("path", b"a")))
                .item(extension(b'L', b"b\0"))
                .file("f", "")
        }),
        (
            "size in base 256",
            true,
            header(&|block| {
                number(&mut block[124..136], 4);
                block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
            }),
        ),
        (
            "negative size",
            false,
            header(&|block| number(&mut block[124..136], -4)),
        ),
        (
            "size with spaces",
            true,
            header(&|block| put(block, 124, b"          4 ")),
        ),
        (
            "size with junk",
            false,
            header(&|block| put(block, 124, b"00000000004x")),
        ),
        ("no magic", true, header(&|block| put(block, 257, &[0; 8]))),
        ("prefix", true, header(&|block| put(block, 345, b"pre"))),
        (
            "contiguous",
            true,
            nested(Item::new("f", b'7').data("data")),
        ),
        ("old file", true, nested(Item::new("f", 0).data("data"))),
        ("old directory", true, nested(Item::new("d/", 0))),
        ("file with a slash", false, nested(file("f/").data("data"))),
        (
            "directory with data",
            false,
            nested(directory("d").data("data")),
        ),
        (
            "hard link with data",
            false,
            nested(file("t"))
                .item(Item::new("h", b'1').link("t").data("data"))
                .file("z", ""),
        ),
        (
            "lone zero block",
            false,
            Archive::new()
                .file("a", "")
                .block(&[0; BLOCK])
                .file("b", ""),
        ),
        (
            "unknown type",
            false,
            nested(Item::new("u", b'~').data("data")),
        ),
        ("sparse", true, {
            let sparse = file("s")
                .data("abcd")
                .pax("GNU.sparse.name", "f")
                .pax("GNU.sparse.size", "14")
                .pax("GNU.sparse.numblocks", "2");
            nested(sparse.pax("GNU.sparse.map", "0,2,8,2"))
        }),
        ("sparse with too much data", false, {
            let sparse = file("s")
                .data("abcd")
                .pax("GNU.sparse.name", "f")
                .pax("GNU.sparse.size", "14")
                .pax("GNU.sparse.numblocks", "2");
            nested(sparse.pax("GNU.sparse.map", "0,2,8,1"))
        }),
    ];
    let tools: Vec<&str> = ["tar", "bsdtar", "python3"]
        .into_iter()
        .filter(|tool| is_installed(tool))
        .collect();
    assert!(tools.contains(&"tar"));
    for (what, accepted, archive) in corpus {
        let archive = archive.finish();
        let ours = list(&archive);
        assert_eq!(ours.is_some(), accepted, "{what}");
        let Some(ours) = ours else { continue };
        for tool in &tools {
            if let Some(theirs) = list_with(tool, &archive) {
                assert_eq!(theirs, ours, "{what}: {tool}");
            } else {
                assert_ne!(*tool, "tar", "{what}: GNU tar refuses it");
            }
        }
    }
}
