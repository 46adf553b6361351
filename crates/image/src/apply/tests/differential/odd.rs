//! Archives that are odd and well formed, at random: names of every length and spelling, links to
//! links, holes, odd modes, times with fractions, attributes, sizes that stand elsewhere. GNU tar,
//! bsdtar and Python make the same trees of them as we do.

use super::*;
use crate::fuzzing::Random;
use crate::fuzzing::world::in_a_read_only_world;

/// What one entry of a tree is.
#[derive(Clone)]
enum Odd {
    Directory,
    File(Vec<u8>),
    /// A file with holes: its size, and where its data lies.
    Sparse(u64, Vec<(u64, Vec<u8>)>),
    Symlink(String),
    HardLink(usize),
    Node(u8, (u64, u64)),
}

#[derive(Clone)]
struct OddEntry {
    path: String,
    odd: Odd,
    mode: u32,
    owner: (u64, u64),
    mtime: i64,
    nanoseconds: u32,
    attributes: Vec<(String, Vec<u8>)>,
}

/// What a kind of archive can say, and what other tools make of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Ustar,
    Gnu,
    Pax,
}

fn name(random: &mut Random) -> String {
    let parts = [
        "a",
        "B",
        ".hidden",
        "...",
        "a b",
        "-dash",
        "#x#",
        "~",
        "x'y",
        "\"q\"",
        "x\\y",
        "*",
        "[a]",
        "$x",
        "x,y",
        "=",
        "core:1",
        "new\nline",
        "tab\t",
    ];
    match random.below(8) {
        0 => "n".repeat(*random.pick(&[99, 100, 101, 120, 155, 200, 255])),
        1 => format!("{}{}", random.pick(&parts), random.below(100)),
        _ => format!("{}{}", random.pick(&parts), random.below(1000)),
    }
}

/// A tree in the order of its directories, which GNU tar needs for their times.
fn tree(format: Format, random: &mut Random) -> Vec<OddEntry> {
    let mut entries: Vec<OddEntry> = Vec::new();
    let depth = 1 + random.below(4);
    grow_odd("", depth, format, &mut entries, random);
    entries
}

fn grow_odd(
    parent: &str,
    depth: usize,
    format: Format,
    entries: &mut Vec<OddEntry>,
    random: &mut Random,
) {
    for _ in 0..1 + random.below(6) {
        let path = format!("{parent}{}", name(random));
        let taken = entries.iter().any(|entry| entry.path == path);
        // What ustar has no room for.
        if taken || path.len() > 900 || format == Format::Ustar && split_ustar(&path).is_none() {
            continue;
        }
        let files: Vec<usize> = (0..entries.len())
            .filter(|&index| {
                !matches!(
                    entries[index].odd,
                    Odd::Directory | Odd::HardLink(_) | Odd::Node(..)
                )
            })
            .filter(|&index| format != Format::Ustar || entries[index].path.len() <= 100)
            .collect();
        let odd = match random.below(12) {
            0..=2 if depth > 0 => Odd::Directory,
            3 => {
                let longest = if format == Format::Ustar { 99 } else { 3000 };
                let target = *random.pick(&["x", "a b/c", "/nowhere/of/gantry", "t"]);
                let times = if random.below(3) == 0 {
                    longest / target.len()
                } else {
                    1
                };
                Odd::Symlink(target.repeat(times))
            }
            4 | 5 if !files.is_empty() => Odd::HardLink(*random.pick(&files)),
            6 => Odd::Node(
                *random.pick(b"346"),
                (*random.pick(&[1, 7, 200]), random.below(256) as u64),
            ),
            7 if format != Format::Ustar => {
                let mut at = 0;
                let mut data = Vec::new();
                for _ in 0..random.below(9) {
                    at += 512 * (1 + random.below(300)) as u64;
                    let length = 512 * (1 + random.below(4));
                    data.push((at, vec![random.next() as u8 | 1; length]));
                    at += length as u64;
                }
                Odd::Sparse(at + 512 * random.below(50) as u64, data)
            }
            _ => {
                let length = *random.pick(&[0, 1, 511, 512, 513, 5000, 70_000]);
                Odd::File((0..length).map(|_| random.next() as u8).collect())
            }
        };
        let mut entry = OddEntry {
            path: path.clone(),
            mode: random.next() as u32 & 0o7777,
            owner: (
                *random.pick(&[0, 1, 1000, 2_097_151]),
                random.below(70_000) as u64,
            ),
            mtime: random.next() as i64 & 0x1_ffff_ffff,
            nanoseconds: 0,
            attributes: Vec::new(),
            odd,
        };
        if format != Format::Ustar && random.one_in(4) {
            entry.owner = (
                *random.pick(&[2_097_152, 3_000_000_000, 4_294_967_294]),
                1 << 31,
            );
        }
        let is_file = matches!(entry.odd, Odd::File(_) | Odd::Directory);
        if format == Format::Pax {
            entry.nanoseconds = *random.pick(&[0, 1, 500_000_000, 123_456_789]);
            for number in 0..if is_file {
                *random.pick(&[0, 0, 1, 3])
            } else {
                0
            } {
                let value = (0..random.below(200))
                    .map(|_| random.next() as u8)
                    .collect();
                entry.attributes.push((format!("user.x{number}"), value));
            }
        }
        if let Odd::HardLink(target) = entry.odd {
            // It is the target, whatever its own header says; tools differ on what they do with one
            // that says something else.
            let target = &entries[target];
            (entry.mode, entry.owner) = (target.mode, target.owner);
            (entry.mtime, entry.nanoseconds) = (target.mtime, target.nanoseconds);
        }
        let is_directory = matches!(entry.odd, Odd::Directory);
        entries.push(entry);
        if is_directory {
            grow_odd(&format!("{path}/"), depth - 1, format, entries, random);
        }
    }
}

/// Prefix and name of ustar, if a name can be divided.
fn split_ustar(path: &str) -> Option<(&str, &str)> {
    // A directory has a slash at its end.
    if path.len() < 100 {
        return Some(("", path));
    }
    let at = path
        .match_indices('/')
        .map(|(at, _)| at)
        .find(|at| path.len() - at <= 100)?;
    (at <= 155).then(|| (&path[..at], &path[at + 1..]))
}

fn write(entries: &[OddEntry], format: Format, random: &mut Random) -> Vec<u8> {
    let mut archive = Archive::new();
    if format == Format::Pax && random.one_in(3) {
        archive = archive.item(Item::new("global", b'g').data(record("comment", b"hello")));
    }
    for entry in entries {
        let mut item = item(entry, entries, random);
        let old = format == Format::Gnu && matches!(entry.odd, Odd::Sparse(..));
        if format == Format::Ustar {
            let directory = if item.path.ends_with(b"/") { "/" } else { "" };
            let (prefix, rest) = split_ustar(&entry.path).unwrap();
            item.path = format!("{rest}{directory}").into_bytes();
            let mut block = item.header();
            put(&mut block, 345, prefix.as_bytes());
            seal(&mut block);
            archive = archive.block(&block).padded(&item.data);
            continue;
        }
        if format == Format::Pax {
            extend(&mut item, entry, random);
        }
        archive = if old {
            old_sparse(archive, item, entry)
        } else {
            archive.item(item)
        };
    }
    archive.finish()
}

fn item(entry: &OddEntry, entries: &[OddEntry], random: &mut Random) -> Item {
    let (type_flag, path) = match &entry.odd {
        Odd::Directory => (b'5', format!("{}/", entry.path)),
        Odd::File(_) => (
            *random.pick(&[b'0', b'0', b'0', 0, b'7']),
            entry.path.clone(),
        ),
        Odd::Sparse(..) => (b'0', entry.path.clone()),
        Odd::Symlink(_) => (b'2', entry.path.clone()),
        Odd::HardLink(_) => (b'1', entry.path.clone()),
        Odd::Node(kind, _) => (*kind, entry.path.clone()),
    };
    let mut item = Item::new(path, type_flag)
        .mode(entry.mode)
        .owner(entry.owner.0, entry.owner.1)
        .mtime(entry.mtime);
    match &entry.odd {
        Odd::File(data) => item.data.clone_from(data),
        Odd::Symlink(target) => item.link = target.clone().into_bytes(),
        Odd::HardLink(target) => item.link = entries[*target].path.clone().into_bytes(),
        Odd::Node(b'3' | b'4', device) => item.device = *device,
        _ => {}
    }
    item
}

/// Extended headers, for what needs them and for what does not.
fn extend(item: &mut Item, entry: &OddEntry, random: &mut Random) {
    let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
    let mut set = |key: &str, value: &[u8]| pax.push((key.to_owned(), value.to_vec()));
    if entry.nanoseconds > 0 {
        let time = format!("{}.{:09}", entry.mtime, entry.nanoseconds);
        set("mtime", time.trim_end_matches('0').as_bytes());
        if random.one_in(2) {
            item.mtime = 0;
        }
    }
    let is_sparse = matches!(entry.odd, Odd::Sparse(..));
    if !is_sparse && (item.path.len() > 100 || random.one_in(4)) {
        set("path", &item.path);
        item.path = b"elsewhere".to_vec();
    }
    if item.link.len() > 100 || !item.link.is_empty() && random.one_in(4) {
        set("linkpath", &item.link);
        item.link = b"nowhere".to_vec();
    }
    if matches!(entry.odd, Odd::File(_)) && random.one_in(4) {
        set("size", item.data.len().to_string().as_bytes());
        item.size = Some(0);
    }
    if entry.owner.0 > 2_097_151 || random.one_in(8) {
        set("uid", entry.owner.0.to_string().as_bytes());
        set("gid", entry.owner.1.to_string().as_bytes());
        (item.uid, item.gid) = (0, 0);
    }
    if random.one_in(8) {
        set("atime", b"1700000000.5");
        set("comment", b"odd\nand long =");
    }
    for (name, value) in &entry.attributes {
        set(&format!("SCHILY.xattr.{name}"), value);
    }
    if let Odd::Sparse(size, data) = &entry.odd {
        let parts = data.iter().map(|(at, part)| [*at, part.len() as u64]);
        // As GNU tar writes it, an empty segment says where the file ends: without it GNU tar itself
        // drops the last hole, and the others do not.
        let numbers: Vec<u64> = parts.chain([[*size, 0]]).flatten().collect();
        let count = (data.len() + 1).to_string();
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        let contents: Vec<u8> = data
            .iter()
            .flat_map(|(_, part)| part.iter().copied())
            .collect();
        let size = size.to_string();
        set("GNU.sparse.name", &item.path);
        if data.is_empty() || random.one_in(2) {
            set("GNU.sparse.major", b"1");
            set("GNU.sparse.minor", b"0");
            set("GNU.sparse.realsize", size.as_bytes());
            let mut map = format!("{count}\n");
            for number in &numbers {
                map.push_str(&format!("{number}\n"));
            }
            let mut bytes = map.into_bytes();
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            item.data = [bytes, contents].concat();
        } else {
            set("GNU.sparse.size", size.as_bytes());
            set("GNU.sparse.numblocks", count.as_bytes());
            set("GNU.sparse.map", numbers.join(",").as_bytes());
            item.data = contents;
        }
        item.path = b"GNUSparseFile.0/odd".to_vec();
    }
    item.pax = pax;
}

/// A sparse file in the old form of GNU, with as many blocks of segments as it needs.
fn old_sparse(archive: Archive, item: Item, entry: &OddEntry) -> Archive {
    let Odd::Sparse(size, data) = &entry.odd else {
        return archive;
    };
    let mut archive = archive;
    if item.path.len() > 100 {
        let name = [&item.path[..], b"\0"].concat();
        archive = archive.item(Item::new("././@LongLink", b'L').data(name));
    }
    let contents: Vec<u8> = data
        .iter()
        .flat_map(|(_, part)| part.iter().copied())
        .collect();
    let mut header = Item {
        type_flag: b'S',
        ..item
    }
    .data(&contents)
    .header();
    put(&mut header, 257, b"ustar  \0");
    number(&mut header[483..495], (*size).into());
    // A file that ends in a hole has an empty segment at its end, as GNU tar writes it.
    let mut segments: Vec<(u64, u64)> = data
        .iter()
        .map(|(at, part)| (*at, part.len() as u64))
        .collect();
    segments.push((*size, 0));
    let fill = |block: &mut [u8], part: &[(u64, u64)]| {
        for (slot, (at, length)) in block.chunks_exact_mut(24).zip(part) {
            number(&mut slot[..12], (*at).into());
            number(&mut slot[12..], (*length).into());
        }
    };
    let first = segments.len().min(4);
    fill(&mut header[386..482], &segments[..first]);
    header[482] = u8::from(segments.len() > 4);
    seal(&mut header);
    archive = archive.block(&header);
    let mut rest = &segments[first..];
    while !rest.is_empty() {
        let count = rest.len().min(21);
        let mut block = [0; BLOCK];
        fill(&mut block[..504], &rest[..count]);
        rest = &rest[count..];
        block[504] = u8::from(!rest.is_empty());
        archive = archive.block(&block);
    }
    archive.padded(&contents)
}

/// What a tree is to a tool: Python sets neither attributes nor the times of links, and has times
/// of 53 bits.
fn seen(scratch: &Scratch, of_python: bool) -> BTreeMap<PathBuf, Facts> {
    let mut all = facts(&scratch.root());
    for (path, facts) in &mut all {
        facts.inode = 0;
        let is_link = facts.mode & 0o170_000 == 0o120_000;
        if path.as_os_str().is_empty() || of_python && is_link {
            facts.mtime = (0, 0);
        }
        if of_python {
            // A hard link to a link is a second one there.
            facts.links = if is_link { 0 } else { facts.links };
            facts.mtime.1 = 0;
            facts.xattrs.clear();
        }
    }
    all
}

#[track_caller]
fn same(what: &str, theirs: &Scratch, ours: &Scratch, of_python: bool) {
    let (theirs, ours) = (seen(theirs, of_python), seen(ours, of_python));
    let names = |tree: &BTreeMap<PathBuf, Facts>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&theirs), names(&ours), "{what}");
    for (path, facts) in &theirs {
        let mine = &ours[path];
        // Contents make an unreadable message.
        let differs = facts
            .content
            .iter()
            .zip(&mine.content)
            .position(|(a, b)| a != b);
        let lengths = (facts.content.len(), mine.content.len());
        assert!(
            facts.content == mine.content,
            "{what}: content of {path:?}, bytes {lengths:?}, from {differs:?}"
        );
        let shown = |facts: &Facts| Facts {
            content: Vec::new(),
            ..facts.clone()
        };
        assert_eq!(shown(facts), shown(mine), "{what}: {path:?}");
    }
}

/// U11, X2, X9: some hundred odd archives with GANTRY_TEST_LONG, and 30 otherwise; all of them go
/// through Python in one process.
#[test]
fn odd_archives_become_the_same_trees() {
    in_a_read_only_world(compare_all);
}

fn compare_all() {
    let has_python = is_installed("python3");
    let has_bsdtar = is_installed("bsdtar");
    let is_long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = match std::env::var("GANTRY_FUZZ_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => start.unwrap().as_millis() as u64,
    };
    let mut for_python: Vec<(String, Vec<u8>, Scratch)> = Vec::new();
    for number in 0..if is_long { 600 } else { 30 } {
        let seed = first + number;
        let random = &mut Random::new(seed);
        let format = [Format::Ustar, Format::Gnu, Format::Pax][(seed % 3) as usize];
        let entries = tree(format, random);
        let archive = write(&entries, format, random);
        let what = format!("GANTRY_FUZZ_SEED={seed} {format:?}");
        let ours = Scratch::new();
        let applied = ours.apply_with(&archive, ApplyKind::RootFilesystem, &Limits::default());
        applied.unwrap_or_else(|error| panic!("{what}: {error}: {:?}", source(&error)));
        let mut tools: Vec<(&str, &[&str])> = vec![("tar", &GNU)];
        if has_bsdtar {
            tools.push(("bsdtar", &BSD));
        }
        for (tool, command) in tools {
            let theirs = Scratch::new();
            let output = run(command, &theirs.root(), &archive);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{what}: {tool}: {said}");
            same(&format!("{what}: {tool}"), &theirs, &ours, false);
        }
        // Python loses its place after old sparse files of some blocks of segments.
        let is_sparse = |entry: &OddEntry| matches!(entry.odd, Odd::Sparse(..));
        if format != Format::Gnu || !entries.iter().any(is_sparse) {
            for_python.push((what, archive, ours));
        }
    }
    if !has_python {
        return;
    }
    let script = "import os, sys, tarfile\n\
         for n in sorted(os.listdir('.')):\n\
         \x20   if n.endswith('.tar'):\n\
         \x20       os.mkdir(n[:-4]); t = tarfile.open(n)\n\
         \x20       t.extractall(n[:-4], numeric_owner=True, **({'filter': 'fully_trusted'} if hasattr(tarfile, 'data_filter') else {}))\n";
    let place = crate::testing::TestDirectory::new();
    let scratches: Vec<Scratch> = for_python.iter().map(|_| Scratch::new()).collect();
    for (number, (_, archive, _)) in for_python.iter().enumerate() {
        fs::write(place.path().join(format!("{number}.tar")), archive).unwrap();
    }
    let output = run(&["python3", "-c", script], place.path(), b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    for (number, ((what, _, ours), theirs)) in for_python.iter().zip(&scratches).enumerate() {
        fs::remove_dir(theirs.root()).unwrap();
        fs::rename(place.path().join(number.to_string()), theirs.root()).unwrap();
        same(&format!("{what}: python"), theirs, ours, true);
    }
}
