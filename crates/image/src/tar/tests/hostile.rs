//! Archives that lie, and what readers disagree on.

use super::*;

#[test]
fn refuses_sizes_out_of_range() {
    for size in [-1, i128::from(i64::MAX) + 1, 1 << 80] {
        let mut block = Item::new("f", b'0').header();
        number(&mut block[124..136], size);
        seal(&mut block);
        assert_eq!(
            parse_header(&block),
            Err(HeaderError::OutOfRange { field: "size" }),
            "{size}"
        );
    }
    let mut block = Item::new("f", b'0').header();
    number(&mut block[124..136], i128::from(i64::MAX));
    seal(&mut block);
    assert_eq!(parse_header(&block).unwrap().size, i64::MAX as u64);
    let truncated = Archive::new().block(&block).finish();
    assert!(matches!(
        read_to_error(&truncated),
        TarError::Truncated { .. }
    ));
}

/// U20: device numbers that a cast would turn into others.
#[test]
fn refuses_devices_out_of_range() {
    for (major, minor) in [(1 << 33, 0), (4096, 0), (0, 1 << 20), (0, 1 << 40)] {
        for type_flag in [b'3', b'4'] {
            let archive = Archive::new()
                .item(Item::new("n", type_flag).device(major, minor))
                .finish();
            let error = read_to_error(&archive);
            let TarError::Header {
                source: HeaderError::OutOfRange { .. },
                ..
            } = error
            else {
                panic!("{error:?}");
            };
        }
    }
    // Files have none, and some writers leave junk there.
    let mut block = Item::new("f", b'0').header();
    put(&mut block, 329, b"whatever");
    seal(&mut block);
    assert_eq!(only(Archive::new().block(&block)).0.device, (0, 0));
}

/// U11 (CVE-2025-62518, CVE-2026-33055, CVE-2026-32766): bad records are not
/// passed over, as readers recover from them in different ways.
#[test]
fn refuses_bad_pax_records() {
    let cases: [&[u8]; 23] = [
        b"path=x\n",
        b" 8 path=x\n",
        b"8 path=x\n",
        b"11 path=x\n",
        b"10 path=x ",
        b"10 path=x",
        b"+10 path=x\n",
        b"0xA path=x\n",
        b"0 path=x\n",
        b"3 \n",
        b"5 =x\n",
        b"7 path\n",
        b"99999999999999999999 path=x\n",
        b"18446744073709551616 path=x\n",
        b"10 path=\0\n",
        b"11 pa\0th=x\n",
        b"10 path=x\n\0\0\0",
        b"10 path=x\n\n",
        b"11 size=-1\n",
        b"8 size=\n",
        b"28 size=9223372036854775808\n",
        b"18 uid=4294967295\n",
        b"18 gid=4294967296\n",
    ];
    for data in cases {
        assert!(parse_records(data).is_err(), "{}", data.escape_ascii());
        let archive = Archive::new()
            .item(Item::new("x", b'x').data(data))
            .file("f", "")
            .finish();
        assert!(matches!(read_to_error(&archive), TarError::Pax { .. }));
    }
    assert!(parse_records(b"10 path=x\n").is_ok());
    assert!(parse_records(b"").is_ok());
}

/// U11 (CVE-2025-62518, RUSTSEC-2025-0111, CVE-2026-33055): one size for data
/// and for skipping. A reader that skips by the other one sees the inner entry.
#[test]
fn pax_size_overrides_the_header_everywhere() {
    let inner = Archive::new().file("smuggled", "evil").finish();
    let size = inner.len().to_string();
    for header_size in [0, 1, 512, inner.len() as u64 + 512] {
        let outer = Item::new("outer", b'0')
            .data(&inner)
            .size(header_size)
            .pax("size", &size);
        let archive = Archive::new().item(outer).file("after", "x").finish();
        assert_eq!(
            names(&archive).unwrap(),
            ["outer", "after"],
            "header says {header_size}"
        );
        let entries = read(&archive).unwrap();
        assert_eq!(entries[0].1, inner);
        assert_eq!(entries[0].0.size, inner.len() as u64);
        // Skipped instead of read.
        let mut reader = Reader::new(&archive[..]);
        reader.next_entry().unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().path, b"after");
    }
    // The size is the file's, not that of a long name between.
    let archive = Archive::new()
        .item(Item::new("x", b'x').data(record("size", b"4")))
        .item(Item::new("L", b'L').data("long name"))
        .block(&Item::new("f", b'0').size(0).header())
        .padded(b"data")
        .finish();
    let entries = read(&archive).unwrap();
    assert_eq!(
        (entries[0].0.path.as_slice(), entries[0].1.as_slice()),
        (&b"long name"[..], &b"data"[..])
    );
    assert_eq!(entries.len(), 1);
}

/// U11: what other readers take in different ways is refused.
#[test]
fn refuses_what_readers_disagree_on() {
    let file = |name: &str| Item::new(name, b'0');
    let pax = |key: &str, value: &str| Item::new("x", b'x').data(record(key, value.as_bytes()));
    let long = |name: &str| Item::new("L", b'L').data(name);
    let cases = [
        (
            "data after a symlink",
            vec![Item::new("s", b'2').link("t").data("x")],
        ),
        (
            "data after a hard link",
            vec![file("t"), Item::new("h", b'1').link("t").data("x")],
        ),
        (
            "data after a directory",
            vec![Item::new("d/", b'5').data("x")],
        ),
        (
            "pax size for a directory",
            vec![Item::new("d/", b'5').pax("size", "512")],
        ),
        ("file named as directory", vec![file("f/")]),
        (
            "two pax headers",
            vec![pax("path", "a"), pax("path", "b"), file("c")],
        ),
        ("two long names", vec![long("a"), long("b"), file("c")]),
        (
            "long name and pax path",
            vec![pax("path", "a"), long("b"), file("c")],
        ),
        ("pax header at the end", vec![pax("path", "a")]),
        ("long name at the end", vec![file("c"), long("b")]),
        ("volume header", vec![Item::new("v", b'V')]),
        ("multi-volume", vec![Item::new("m", b'M')]),
        ("incremental", vec![Item::new("d", b'D').data("Yx\0")]),
        ("unknown", vec![Item::new("u", b'Z')]),
        ("sparse without GNU magic", vec![Item::new("s", b'S')]),
    ];
    for (what, items) in cases {
        let archive = items
            .into_iter()
            .fold(Archive::new(), Archive::item)
            .finish();
        let error = read_to_error(&archive);
        assert!(
            matches!(
                error,
                TarError::UnexpectedData { .. }
                    | TarError::FileNamedAsDirectory { .. }
                    | TarError::DuplicateExtension { .. }
                    | TarError::ConflictingNames { .. }
                    | TarError::DanglingExtension { .. }
                    | TarError::UnsupportedType { .. }
                    | TarError::Sparse { .. }
            ),
            "{what}: {error:?}"
        );
    }
}

/// U15 (CVE-2017-14992): declared sizes reserve nothing.
#[test]
fn bounds_what_headers_declare() {
    let before = resident();
    for type_flag in [b'x', b'g', b'L', b'K'] {
        for size in [MAX_EXTENSION + 1, 100 << 30, i64::MAX as u64] {
            let archive = Archive::new().block(&Item::new("x", type_flag).size(size).header());
            let error = read_to_error(&archive.finish());
            assert!(
                matches!(error, TarError::ExtensionTooLarge { .. }),
                "{error:?}"
            );
        }
        // Within the cap, but not there.
        let archive = Archive::new().block(&Item::new("x", type_flag).size(MAX_EXTENSION).header());
        assert!(matches!(
            read_to_error(&archive.finish()),
            TarError::Truncated { .. }
        ));
    }
    // A sparse file of 100 GiB without data.
    let sparse = Item::new("x", b'0')
        .pax("GNU.sparse.size", (100_u64 << 30).to_string())
        .pax("GNU.sparse.map", "");
    let archive = Archive::new().item(sparse).finish();
    let mut reader = Reader::new(&archive[..]);
    assert_eq!(reader.next_entry().unwrap().unwrap().size, 100 << 30);
    assert!(reader.next_chunk().unwrap().is_none());
    let mut start = [1; 4096];
    reader.contents().read_exact(&mut start).unwrap();
    assert_eq!(start, [0; 4096]);
    assert!(reader.next_entry().unwrap().is_none());
    // A map that never ends.
    let numbers = "1000000000\n".repeat(100);
    let archive = Archive::new().item(
        Item::new("x", b'0')
            .data(numbers)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.realsize", "1"),
    );
    assert!(matches!(
        read_to_error(&archive.finish()),
        TarError::Sparse {
            source: SparseError::TooLong,
            ..
        }
    ));
    assert!(resident().saturating_sub(before) < 64 << 20);
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn stops_at_the_total_of_extensions() {
    let mut reader = Reader::new(Endless(
        Archive::new()
            .item(Item::new("g", b'g').data(record("comment", &vec![b'x'; 1_000_000])))
            .bytes,
        0,
    ));
    // 10 GiB would take this test minutes.
    reader.limit_extensions(20 << 20);
    assert!(matches!(
        reader.next_entry(),
        Err(TarError::ExtensionsTooLarge)
    ));
}

/// The same bytes again and again.
struct Endless(Vec<u8>, usize);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.0.len() - self.1);
        buffer[..length].copy_from_slice(&self.0[self.1..self.1 + length]);
        self.1 = (self.1 + length) % self.0.len();
        Ok(length)
    }
}

#[test]
fn checks_sparse_maps() {
    let cases = [
        (Vec::new(), 0, true),
        (vec![(0, 5)], 5, true),
        (vec![(1, 1), (2, 1), (5, 0)], 2, true),
        (vec![(1, 2), (2, 1)], 3, false),
        (vec![(3, 1), (1, 1)], 2, false),
        (vec![(4, 2)], 2, false),
        (vec![(u64::MAX, 2)], 2, false),
        (vec![(0, 2)], 3, false),
    ];
    for (list, archived, good) in cases {
        let segment = |&(offset, length)| Segment { offset, length };
        let map: Vec<Segment> = list.iter().map(segment).collect();
        assert_eq!(validate(&map, 5, archived).is_ok(), good, "{list:?}");
    }
    for bad in [
        "x\n",
        "1\n-1\n",
        "1\n\n",
        "99999999999999999999999\n",
        "1\n0x1\n",
    ] {
        let mut block = [b'\n'; BLOCK];
        put(&mut block, 0, bad.as_bytes());
        assert!(MapParser::default().feed(&block).is_err(), "{bad:?}");
    }
    // An old map whose blocks announce each other for ever.
    let mut block = Item::new("f", b'S').header();
    put(&mut block, 257, b"ustar  \0");
    block[482] = 1;
    seal(&mut block);
    let mut more = [0; BLOCK];
    more[504] = 1;
    let archive = (0..10)
        .fold(Archive::new().block(&block), |a, _| a.block(&more))
        .finish();
    assert!(matches!(read_to_error(&archive), TarError::Sparse { .. }));
    // Pairs that are none.
    for records in [
        vec![("GNU.sparse.offset", "1"), ("GNU.sparse.offset", "1")],
        vec![("GNU.sparse.numbytes", "1")],
        vec![("GNU.sparse.offset", "1")],
        vec![("GNU.sparse.map", "1")],
        vec![("GNU.sparse.map", "1,2,")],
    ] {
        let data: Vec<u8> = records
            .iter()
            .flat_map(|(k, v)| record(k, v.as_bytes()))
            .collect();
        assert!(parse_records(&data).is_err(), "{records:?}");
    }
}

#[test]
fn drains_with_a_bound() {
    let archive = [Archive::new().file("a", "x").finish(), vec![7; 10_000]].concat();
    for (limit, drained) in [(9_999, false), (10_000, true), (u64::MAX, true)] {
        let mut reader = Reader::new(&archive[..]);
        while reader.next_entry().unwrap().is_some() {}
        assert_eq!(reader.drain(limit).unwrap(), drained, "{limit}");
    }
}

#[test]
fn names_in_errors_are_safe_and_short() {
    assert_eq!(escape_name(b"a\x1b[31m\n\xff"), "a\\x1b[31m\\n\\xff");
    assert!(escape_name(&[b'\xff'; 10_000]).len() < 2000);
}
