//! Tar archives of every kind of entry, the malicious ones among them.

use super::Random;
use crate::tar::BLOCK;
use crate::tar::testing::{Archive, Item, number, put, record, seal};

/// What names a fuzzed archive holds, and what its links lead to.
pub(crate) struct Names {
    pub(crate) paths: Vec<Vec<u8>>,
    pub(crate) targets: Vec<Vec<u8>>,
}

impl Names {
    /// Names that meet each other, and such that lead to `outside`, a directory as an absolute
    /// path, and to what is `../canary` from the root.
    pub(crate) fn new(outside: &str) -> Self {
        let to = |path: &str| format!("{outside}{path}");
        let up = "../".repeat(30);
        let paths = [
            "a",
            "b",
            "a/b",
            "a/b/c",
            "a/c",
            "d",
            "d/",
            "d/e",
            "d/e/f/",
            "l",
            "l/file",
            "l/etc",
            "l/etc/passwd",
            "m",
            "m/x",
            "m/../l/x",
            "./a",
            "/a",
            "//a//b",
            "a/.",
            "a/..",
            "..",
            "../x",
            "a/../../x",
            ".",
            "./",
            "/",
            "",
            ".wh.a",
            "a/.wh.b",
            ".wh.d",
            ".wh.l",
            "l/.wh.file",
            ".wh..wh..opq",
            "a/.wh..wh..opq",
            "l/.wh..wh..opq",
            "l/etc/.wh..wh..opq",
            ".wh.",
            ".wh..",
            ".wh...",
            "a/.wh.",
            ".wh./x",
            ".wh.a/x",
            ".wh..wh.plnk",
            ".wh..wh.aufs/x",
            ".wh.a/",
            "x\ny",
            "x\\y",
            "-x",
            "*",
            "...",
            "..x",
            "x..",
            "PaxHeaders/x",
            "h",
            "h/i",
        ];
        let mut paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        paths.extend(
            [
                to("/file"),
                to("/etc/passwd"),
                format!("{up}{outside}/file"),
            ]
            .map(String::into_bytes),
        );
        paths.extend([vec![b'n'; 255], vec![b'n'; 256], b"\xff\xfe".to_vec()]);
        paths.extend(
            [
                "d/".repeat(40),
                "y/".repeat(300),
                format!("{}/{}", "p".repeat(120), "q".repeat(120)),
            ]
            .map(String::into_bytes),
        );
        let targets = [
            "a",
            "b",
            "a/b",
            "d",
            "l",
            "l/file",
            "l/etc/passwd",
            "m",
            ".",
            "..",
            "../..",
            "",
            "/",
            "/a",
            "../canary",
            "../canary/file",
            "a/b/../..",
            "a/../../canary/file",
            ".wh.a",
            "h",
            "h/i",
            "/proc/self/root",
            "/proc/self/cwd",
        ];
        let mut targets: Vec<Vec<u8>> = targets
            .iter()
            .map(|path| path.as_bytes().to_vec())
            .collect();
        targets.extend(
            [
                to(""),
                to("/file"),
                to("/etc"),
                to("/etc/passwd"),
                format!("{up}{outside}"),
                format!("{up}{outside}/file"),
            ]
            .map(String::into_bytes),
        );
        targets.extend([
            vec![b't'; 300],
            "../".repeat(900).into_bytes(),
            vec![b't'; 4096],
        ]);
        Self { paths, targets }
    }
}

const KEYS: [&str; 24] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "comment",
    "hdrcharset",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.trusted.overlay.opaque",
    "SCHILY.xattr.trusted.overlay.redirect",
    "SCHILY.xattr.user.overlay.opaque",
    "SCHILY.xattr.security.capability",
    "SCHILY.xattr.security.selinux",
    "SCHILY.xattr.system.posix_acl_access",
    "SCHILY.xattr.system.posix_acl_default",
    "SCHILY.xattr.",
    "LIBARCHIVE.xattr.user.%61",
    "GNU.sparse.size",
    "GNU.sparse.map",
    "GNU.sparse.name",
    "GNU.sparse.major",
    "SCHILY.devmajor",
];

const VALUES: [&str; 26] = [
    "",
    "0",
    "1",
    "4",
    "512",
    "4096",
    "-1",
    "+1",
    "0x10",
    "1.5",
    "-1.000000001",
    "18446744073709551615",
    "9223372036854775807",
    "9223372036854775808",
    "4294967295",
    "4294967296",
    "1700000000.123456789",
    "y",
    "0,4",
    "0,4,8,4",
    "8,4,0,4",
    "0,18446744073709551615",
    "a\0b",
    "YQ",
    "BINARY",
    "\n",
];

/// An archive of some entries. It may be refused at any of them.
pub(crate) fn archive(names: &Names, random: &mut Random) -> Vec<u8> {
    let mut archive = Archive::new();
    let mut used: Vec<Vec<u8>> = Vec::new();
    let most = *random.pick(&[2, 4, 12]);
    for _ in 0..1 + random.below(most) {
        let type_flag = *random.pick(b"0000000555552222111134670\0SxgLKV");
        let path = if !used.is_empty() && random.one_in(3) {
            random.pick(&used).clone()
        } else {
            random.pick(&names.paths).clone()
        };
        let mut item = Item::new(&path, type_flag);
        used.push(path);
        match type_flag {
            b'1' | b'2' => {
                // Targets that are there, and those that are not meant to be.
                let other = random.one_in(2);
                let from = if other { &names.targets } else { &used };
                item.link = random.pick(from).clone();
            }
            b'3' | b'4' => {
                item.device = *random.pick(&[
                    (1, 3),
                    (0, 0),
                    (0, 1),
                    (4095, 1 << 19),
                    (4096, 0),
                    (1 << 33, 0),
                ])
            }
            b'x' | b'g' => item.data = records(names, random),
            b'L' | b'K' => item.data = [random.pick(&names.paths), &b"\0"[..]].concat(),
            b'0' | b'7' | 0 => {
                item.data = vec![b'x'; *random.pick(&[0, 0, 1, 4, 511, 512, 513, 5000, 70_000])]
            }
            _ => {}
        }
        if random.one_in(6) {
            item.mode = *random.pick(&[0, 0o777, 0o4755, 0o7777, 0o100_644, 0o1_000_000]);
        }
        if random.one_in(6) {
            let ids = [
                0,
                1,
                1000,
                1 << 21,
                u64::from(u32::MAX) - 1,
                u64::from(u32::MAX),
                1 << 32,
                (1 << 32) + 1,
            ];
            item = item.owner(*random.pick(&ids), *random.pick(&ids));
        }
        if random.one_in(8) {
            item.mtime = *random.pick(&[0, -1, 1 << 33, 1 << 40, i64::MAX, i64::MIN]);
        }
        if random.one_in(12) {
            item.size = Some(*random.pick(&[0, 1, 512, 513, 1 << 20, 1 << 33, i64::MAX as u64]));
        }
        for _ in 0..*random.pick(&[0, 0, 0, 1, 1, 3]) {
            let key = *random.pick(&KEYS);
            let value = value(key, names, random);
            item = item.pax(key, value);
        }
        archive = if type_flag == b'S' {
            sparse(archive, &item, random)
        } else {
            archive.item(item)
        };
    }
    let mut bytes = archive.finish();
    if random.one_in(16) {
        bytes.extend_from_slice(&b"what follows the archive".repeat(1 + random.below(100)));
    }
    for _ in 0..*random.pick(&[0, 0, 1, 1, 2, 5]) {
        damage(&mut bytes, random);
    }
    bytes
}

fn value(key: &str, names: &Names, random: &mut Random) -> Vec<u8> {
    match key {
        "path" | "GNU.sparse.name" if random.one_in(2) => random.pick(&names.paths).clone(),
        "linkpath" if random.one_in(2) => random.pick(&names.targets).clone(),
        _ => random.pick(&VALUES).as_bytes().to_vec(),
    }
}

fn records(names: &Names, random: &mut Random) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..random.below(4) {
        let key = *random.pick(&KEYS);
        data.extend(record(key, &value(key, names, random)));
    }
    if random.one_in(8) {
        super::flip(&mut data, b" =\n0129", random);
    }
    data
}

/// An entry of the old GNU form.
fn sparse(archive: Archive, item: &Item, random: &mut Random) -> Archive {
    let data = vec![b's'; 8];
    let mut block = item.clone().data(&data).header();
    put(&mut block, 257, b"ustar  \0");
    let sizes = [0, 4, 8, 12, 1 << 20, (1 << 36) - 1];
    let at = *random.pick(&sizes);
    for (field, value) in [(386, 0), (398, 4), (410, at), (422, 4), (483, at + 4)] {
        let value = if random.one_in(8) {
            *random.pick(&sizes)
        } else {
            value
        };
        number(&mut block[field..field + 12], value);
    }
    block[482] = u8::from(random.one_in(4));
    seal(&mut block);
    archive.block(&block).padded(&data)
}

/// Changes a byte, a run, a number, a type or a block, and mends the checksum most times.
fn damage(archive: &mut Vec<u8>, random: &mut Random) {
    if archive.len() < 2 * BLOCK {
        return;
    }
    let at = random.below(archive.len() / BLOCK * BLOCK);
    let block = at / BLOCK * BLOCK;
    match random.below(10) {
        0..=2 => archive[at] = random.next() as u8,
        3 => {
            let end = (at + random.below(12)).min(archive.len());
            let byte = *random.pick(&[0, 0xff, b'7', b' ', 0x80, b'/', b'.']);
            archive[at..end].fill(byte);
        }
        4 => archive[block + 156] = *random.pick(b"01234567xgLKSV\0"),
        5 => {
            let copy = archive[block..block + BLOCK].to_vec();
            let to = random.below(archive.len() / BLOCK) * BLOCK;
            archive[to..to + BLOCK].copy_from_slice(&copy);
        }
        6 => archive.truncate(at.max(2 * BLOCK)),
        7 => drop(archive.drain(block..block + BLOCK)),
        8 => archive[block..block + BLOCK].fill(0),
        _ => {
            let value = *random.pick(&[0, 1, 511, 513, 1 << 20, 1 << 33, -1, 1 << 80]);
            let (from, to) =
                *random.pick(&[(100, 108), (108, 116), (124, 136), (136, 148), (329, 337)]);
            number(&mut archive[block + from..block + to], value);
        }
    }
    if !random.one_in(4) && block + BLOCK <= archive.len() {
        let header = archive[block..].first_chunk_mut::<BLOCK>().unwrap();
        if &header[257..262] == b"ustar" {
            seal(header);
        }
    }
}
