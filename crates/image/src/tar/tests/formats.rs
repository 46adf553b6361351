//! Archives as honest writers make them.

use super::*;

#[test]
fn reads_every_kind() {
    let archive = Archive::new()
        .item(Item::new("d/", b'5').mode(0o41755).owner(1, 2).mtime(-5))
        .item(Item::new("d/f", b'0').data("hello").mode(0o104_755))
        .item(Item::new("d/old", 0).data("x"))
        .item(Item::new("d/contiguous", b'7').data("y"))
        .item(Item::new("v7/", 0))
        .symlink("s", "d/f")
        .hard_link("h", "d/f")
        .item(Item::new("c", b'3').device(1, 3))
        .item(Item::new("b", b'4').device(4095, 1_048_575))
        .item(Item::new("p", b'6'))
        .finish();
    let entries = read(&archive).unwrap();
    let kinds: Vec<_> = entries
        .iter()
        .map(|(entry, data)| (entry.path.as_slice(), entry.kind, data.as_slice()))
        .collect();
    assert_eq!(
        kinds,
        [
            (&b"d/"[..], EntryKind::Directory, &b""[..]),
            (b"d/f", EntryKind::File, b"hello"),
            (b"d/old", EntryKind::File, b"x"),
            (b"d/contiguous", EntryKind::File, b"y"),
            (b"v7/", EntryKind::Directory, b""),
            (b"s", EntryKind::Symlink, b""),
            (b"h", EntryKind::HardLink, b""),
            (b"c", EntryKind::CharacterDevice, b""),
            (b"b", EntryKind::BlockDevice, b""),
            (b"p", EntryKind::Fifo, b""),
        ]
    );
    let directory = &entries[0].0;
    assert_eq!(
        (directory.mode, directory.uid, directory.gid),
        (0o1755, 1, 2)
    );
    assert_eq!(
        directory.mtime,
        Timestamp {
            seconds: -5,
            nanoseconds: 0
        }
    );
    assert_eq!(entries[1].0.mode, 0o4755);
    assert_eq!(entries[5].0.link, b"d/f");
    assert_eq!(entries[7].0.device, (1, 3));
    assert_eq!(entries[8].0.device, (4095, 1_048_575));
}

#[test]
fn reads_in_parts_as_at_once() {
    let big: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    let archive = Archive::new()
        .item(Item::new("a", b'0').data(&big).pax("mtime", "1.5"))
        .file(vec![b'n'; 3000], "x")
        .file("empty", "")
        .finish();
    assert_eq!(
        read_from(Reader::new(Trickle(&archive, 0))).unwrap(),
        read(&archive).unwrap()
    );
    assert_eq!(read(&archive).unwrap()[0].1, big);
    // Skipping finds the same places as reading.
    let mut reader = Reader::new(Trickle(&archive, 0));
    let mut skipped = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        skipped.push(entry);
    }
    let read: Vec<_> = read(&archive)
        .unwrap()
        .into_iter()
        .map(|(entry, _)| entry)
        .collect();
    assert_eq!(skipped, read);
}

#[test]
fn joins_the_prefix_of_ustar_only() {
    let with_prefix = |magic: &[u8; 8]| {
        let mut block = Item::new("name", b'0').header();
        put(&mut block, 257, magic);
        put(&mut block, 345, b"pre/fix");
        seal(&mut block);
        only(Archive::new().block(&block)).0.path
    };
    assert_eq!(with_prefix(b"ustar\x0000"), b"pre/fix/name");
    // GNU keeps times there, v7 nothing that counts.
    assert_eq!(with_prefix(b"ustar  \0"), b"name");
    assert_eq!(with_prefix(b"\0\0\0\0\0\0\0\0"), b"name");
    // Names are bytes, and a full field has no NUL.
    let full = [0xff; 100];
    assert_eq!(only(Archive::new().file(full, "")).0.path, full);
}

#[test]
fn reads_numbers() {
    let uid = |field: &[u8]| {
        let mut block = Item::new("f", b'0').header();
        block[108..116].fill(0);
        put(&mut block, 108, field);
        seal(&mut block);
        parse_header(&block).map(|header| header.uid)
    };
    let not_a_number = Err(HeaderError::NotANumber { field: "uid" });
    let out_of_range = Err(HeaderError::OutOfRange { field: "uid" });
    let cases: [(&[u8], Result<u32, HeaderError>); 17] = [
        (b"0000017\0", Ok(15)),
        (b"     17 ", Ok(15)),
        (b"17\0junk!", Ok(15)),
        (b"00000017", Ok(15)),
        (b"", Ok(0)),
        (b"        ", Ok(0)),
        (b"0000018\0", not_a_number.clone()),
        (b"-000017\0", not_a_number.clone()),
        (b"+000017\0", not_a_number.clone()),
        (b"17 17", not_a_number.clone()),
        (b"0x17", not_a_number),
        (b"\x80\0\0\0\x80\0\0\0", Ok(1 << 31)),
        (b"\x80\0\0\0\xff\xff\xff\xfe", Ok(MAX_ID)),
        // U20: ids that would wrap or mean "keep".
        (b"\x80\0\0\0\xff\xff\xff\xff", out_of_range.clone()),
        (b"\x80\0\0\x01\0\0\0\x01", out_of_range.clone()),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", out_of_range.clone()),
        (b"\xbf\xff\xff\xff\xff\xff\xff\xff", out_of_range),
    ];
    for (field, expected) in cases {
        assert_eq!(uid(field), expected, "{}", field.escape_ascii());
    }
}

#[test]
fn verifies_checksums() {
    let block = Item::new([0xe9, b'a'], b'0').header();
    assert!(parse_header(&block).is_ok());
    for at in [0, 100, 200, 511] {
        let mut changed = block;
        changed[at] ^= 1;
        assert!(
            matches!(parse_header(&changed), Err(HeaderError::Checksum { .. })),
            "byte {at}"
        );
    }
    // Sum over signed chars, as Sun's tar made it: 0xe9 counts -23.
    let mut signed = block;
    let sum: i64 = 8 * 32
        + (0..BLOCK)
            .filter(|at| !(148..156).contains(at))
            .map(|at| i64::from(block[at].cast_signed()))
            .sum::<i64>();
    put(&mut signed, 148, format!("{sum:06o}\0 ").as_bytes());
    assert!(parse_header(&signed).is_ok());
}

#[test]
fn ends_where_an_archive_ends() {
    let file = Archive::new().file("a", "data");
    let zero = [0; BLOCK];
    let whole = file.clone().block(&zero).block(&zero);
    let cases = [
        ("two zero blocks", whole.bytes.clone(), true, true),
        ("junk after them", whole.file("b", "").bytes, true, true),
        (
            "one zero block",
            file.clone().block(&zero).bytes,
            true,
            true,
        ),
        ("no zero block", file.bytes.clone(), false, true),
        ("nothing", Vec::new(), false, true),
        (
            "one zero block between",
            file.clone().block(&zero).file("b", "").finish(),
            false,
            false,
        ),
        (
            "half a zero block",
            [&file.bytes[..], &zero[..100]].concat(),
            false,
            false,
        ),
        ("half a header", file.bytes[..300].to_vec(), false, false),
        ("no data", file.bytes[..512].to_vec(), false, false),
        ("half the data", file.bytes[..514].to_vec(), false, false),
        ("no padding", file.bytes[..516].to_vec(), false, false),
    ];
    for (what, bytes, strict, lenient) in cases {
        let entries = |reader: Reader<&[u8]>| {
            let mut reader = reader;
            let mut count = 0;
            while reader.next_entry()?.is_some() {
                count += 1;
            }
            Ok::<_, TarError>(count)
        };
        assert_eq!(entries(Reader::new(&bytes[..])).is_ok(), strict, "{what}");
        let lax = entries(Reader::new(&bytes[..]).without_end_marker());
        assert_eq!(lax.is_ok(), lenient, "{what}");
        assert!(lax.unwrap_or(0) <= 1, "{what}");
    }
}

#[test]
fn reads_gnu_long_names() {
    let long = [b'n'; 5000];
    let target = [b't'; 101];
    let (entry, _) = only(Archive::new().item(Item::new(long, b'2').link(target)));
    assert_eq!((entry.path, entry.link), (long.to_vec(), target.to_vec()));
    // Without the NUL, and with something after it.
    for data in [&b"name"[..], b"name\0", b"name\0junk"] {
        let archive = Archive::new()
            .item(Item::new("x", b'L').data(data))
            .file("short", "");
        assert_eq!(only(archive).0.path, b"name");
    }
}

#[test]
fn reads_pax_records() {
    let (entry, data) = only(
        Archive::new().item(
            Item::new("short", b'0')
                .data("data")
                .pax("path", "long\u{e9}/name")
                .pax("uid", "3000000000")
                .pax("gid", "7")
                .pax("mtime", "-1.25")
                .pax("comment", "ignored")
                .pax("SCHILY.xattr.user.a", b"\0\n\xff=raw")
                .pax("LIBARCHIVE.xattr.user.a", "bm90IHRoaXM")
                .pax("LIBARCHIVE.xattr.user.%62%3D", "aGk"),
        ),
    );
    assert_eq!(entry.path, "long\u{e9}/name".as_bytes());
    assert_eq!((entry.uid, entry.gid), (3_000_000_000, 7));
    assert_eq!(
        entry.mtime,
        Timestamp {
            seconds: -2,
            nanoseconds: 750_000_000
        }
    );
    assert_eq!(data, b"data");
    assert_eq!(
        entry.xattrs,
        [
            (b"user.a".to_vec(), b"\0\n\xff=raw".to_vec()),
            (b"user.b=".to_vec(), b"hi".to_vec())
        ]
    );
    // The last of a key counts, and an empty value leaves the header's.
    let (entry, _) = only(
        Archive::new().item(
            Item::new("header", b'0')
                .owner(5, 6)
                .pax("path", "other")
                .pax("path", "")
                .pax("uid", "8")
                .pax("uid", "9")
                .pax("gid", ""),
        ),
    );
    assert_eq!(
        (entry.path.as_slice(), entry.uid, entry.gid),
        (&b"header"[..], 9, 6)
    );
}

#[test]
fn reads_pax_times() {
    let cases = [
        ("0", Some((0, 0))),
        ("1.5", Some((1, 500_000_000))),
        ("1.", Some((1, 0))),
        ("1.1234567899", Some((1, 123_456_789))),
        ("-1", Some((-1, 0))),
        ("-0.5", Some((-1, 500_000_000))),
        ("9223372036854775807", Some((i64::MAX, 0))),
        ("-9223372036854775807.5", Some((i64::MIN, 500_000_000))),
        ("9223372036854775808", None),
        (".5", None),
        ("1.5x", None),
        ("1e9", None),
        ("--1", None),
        ("+1", None),
        (" 1", None),
        ("1.-5", None),
    ];
    for (text, expected) in cases {
        let records = parse_records(&record("mtime", text.as_bytes()));
        let found = records
            .ok()
            .and_then(|r| r.mtime)
            .map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn applies_global_headers() {
    let global = |key: &str, value: &str| Item::new("g", b'g').data(record(key, value.as_bytes()));
    let entries = read(
        &Archive::new()
            .item(global("comment", "0123abcd"))
            .item(global("mtime", "7.5"))
            .item(global("uid", "11"))
            .file("a", "")
            .item(Item::new("b", b'0').pax("uid", "12"))
            .item(global("uid", "13"))
            .file("c", "")
            .finish(),
    )
    .unwrap();
    let uids: Vec<_> = entries.iter().map(|(entry, _)| entry.uid).collect();
    assert_eq!(uids, [11, 12, 13]);
    assert!(entries.iter().all(|(e, _)| e.mtime
        == Timestamp {
            seconds: 7,
            nanoseconds: 500_000_000
        }));
    // U11: these make lists of entries differ between readers.
    for (key, value) in [
        ("size", "0"),
        ("path", "x"),
        ("linkpath", "x"),
        ("GNU.sparse.major", "1"),
        ("SCHILY.xattr.user.x", "y"),
    ] {
        let archive = Archive::new()
            .item(global(key, value))
            .file("a", "")
            .finish();
        assert!(
            matches!(
                read_to_error(&archive),
                TarError::Pax {
                    source: PaxError::NotGlobal { .. },
                    ..
                }
            ),
            "{key}"
        );
    }
}

#[test]
fn reads_sparse_files() {
    // "ab", six zeros, "cd", four zeros.
    let expected = b"ab\0\0\0\0\0\0cd\0\0\0\0";
    let old = {
        let mut block = Item::new("f", b'S').data("abcd").header();
        put(&mut block, 257, b"ustar  \0");
        for (at, value) in [(386, 0), (398, 2), (410, 8), (422, 2), (434, 14), (446, 0)] {
            number(&mut block[at..at + 12], value);
        }
        number(&mut block[483..495], 14);
        seal(&mut block);
        Archive::new().block(&block).padded(b"abcd")
    };
    let old_extended = {
        let mut block = Item::new("f", b'S').data("abcd").header();
        put(&mut block, 257, b"ustar  \0");
        for (at, value) in [(386, 0), (398, 2)] {
            number(&mut block[at..at + 12], value);
        }
        block[482] = 1;
        number(&mut block[483..495], 14);
        seal(&mut block);
        let mut more = [0; BLOCK];
        for (at, value) in [(0, 8), (12, 1), (24, 9), (36, 1)] {
            number(&mut more[at..at + 12], value);
        }
        Archive::new().block(&block).block(&more).padded(b"abcd")
    };
    let pax_0_0 = Archive::new().item(
        Item::new("f", b'0')
            .data("abcd")
            .pax("GNU.sparse.size", "14")
            .pax("GNU.sparse.numblocks", "2")
            .pax("GNU.sparse.offset", "0")
            .pax("GNU.sparse.numbytes", "2")
            .pax("GNU.sparse.offset", "8")
            .pax("GNU.sparse.numbytes", "2"),
    );
    let pax_0_1 = Archive::new().item(
        Item::new("GNUSparseFile.1/f", b'0')
            .data("abcd")
            .pax("GNU.sparse.name", "f")
            .pax("GNU.sparse.size", "14")
            .pax("GNU.sparse.map", "0,2,8,2"),
    );
    let mut data = b"3\n0\n2\n8\n2\n14\n0\n".to_vec();
    data.resize(BLOCK, 0);
    data.extend(b"abcd");
    let pax_1_0 = Archive::new().item(
        Item::new("GNUSparseFile.1/f", b'0')
            .data(data)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "f")
            .pax("GNU.sparse.realsize", "14"),
    );
    for (what, archive) in [
        ("old", old),
        ("old, extended", old_extended),
        ("0.0", pax_0_0),
        ("0.1", pax_0_1),
        ("1.0", pax_1_0),
    ] {
        let archive = archive.file("after", "x").finish();
        let entries = read(&archive).unwrap();
        assert_eq!(names(&archive).unwrap(), ["f", "after"], "{what}");
        assert_eq!(entries[0].1, expected, "{what}");
        assert_eq!(
            (entries[0].0.size, entries[0].0.sparse),
            (14, true),
            "{what}"
        );
        let mut reader = Reader::new(&archive[..]);
        reader.next_entry().unwrap();
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            chunks.push((chunk.offset, chunk.bytes.to_vec()));
        }
        assert_eq!(chunks[0], (0, b"ab".to_vec()), "{what}");
        assert_eq!(chunks[1].0, 8, "{what}");
    }
}
