//! Valid archives, changed at random.

use super::*;

/// Random changes to valid archives: never a panic, always an end, and never
/// more than the archive could hold.
#[test]
fn survives_mutations() {
    let mut data = b"2\n0\n2\n8\n2\n".to_vec();
    data.resize(BLOCK, 0);
    data.extend(b"abcd");
    let mut old_sparse = Item::new("s", b'S').data("ab").header();
    put(&mut old_sparse, 257, b"ustar  \0");
    number(&mut old_sparse[386..398], 3);
    number(&mut old_sparse[398..410], 2);
    number(&mut old_sparse[483..495], 9);
    seal(&mut old_sparse);
    let seeds = [
        Archive::new()
            .directory("d/")
            .file("d/f", "contents")
            .symlink("d/s", "/abs")
            .hard_link("d/h", "d/f")
            .item(Item::new("c", b'3').device(1, 3).owner(1 << 31, 1 << 31))
            .finish(),
        Archive::new()
            .item(Item::new(vec![b'l'; 200], b'2').link(vec![b'k'; 150]))
            .item(
                Item::new("f", b'0')
                    .data("x")
                    .pax("path", "p")
                    .pax("size", "1"),
            )
            .finish(),
        Archive::new()
            .item(Item::new("g", b'g').data(record("mtime", b"1.5")))
            .item(
                Item::new("f", b'0')
                    .data(data)
                    .pax("GNU.sparse.major", "1")
                    .pax("GNU.sparse.minor", "0")
                    .pax("GNU.sparse.realsize", "20")
                    .pax("SCHILY.xattr.user.x", "y")
                    .pax("LIBARCHIVE.xattr.user.%7a", "aGk"),
            )
            .finish(),
        Archive::new()
            .block(&old_sparse)
            .padded(b"ab")
            .item(
                Item::new("f", b'0')
                    .data("abcd")
                    .pax("GNU.sparse.size", "14")
                    .pax("GNU.sparse.map", "0,2,8,2"),
            )
            .finish(),
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for round in 0..20_000 {
        let mut archive = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut archive, &mut random);
        }
        let mut reader = Reader::new(&archive[..]);
        let (mut entries, mut held) = (0, 0);
        while let Ok(Some(entry)) = reader.next_entry() {
            entries += 1;
            accepted += 1;
            held += entry.path.len() + entry.link.len();
            held += entry
                .xattrs
                .iter()
                .map(|(k, v)| k.len() + v.len())
                .sum::<usize>();
            let mut end = 0;
            while let Ok(Some(chunk)) = reader.next_chunk() {
                assert!(chunk.offset >= end && !chunk.bytes.is_empty());
                end = chunk.offset + chunk.bytes.len() as u64;
                held += chunk.bytes.len();
            }
            assert!(end <= entry.size);
        }
        assert!(entries <= archive.len() / BLOCK);
        // Names may stand in the header and prefix, but in no more places.
        assert!(held <= archive.len(), "{held} of {}", archive.len());
    }
    // A test of which nothing gets past the first checksum tests nothing.
    assert!(accepted > 10_000, "{accepted}");
}

/// Changes a byte, a run, a number or a block, and mends the checksum most times.
fn mutate(archive: &mut Vec<u8>, random: &mut Random) {
    if archive.len() < 2 * BLOCK {
        return;
    }
    let at = random.below(archive.len() / BLOCK * BLOCK);
    let block = at / BLOCK * BLOCK;
    match random.below(8) {
        0..=2 => archive[at] = random.next() as u8,
        3 => {
            let end = (at + random.below(12)).min(archive.len());
            let byte = [0, 0xff, b'7', b' ', 0x80][random.below(5)];
            archive[at..end].fill(byte);
        }
        4 => archive[block + 156] = b"01234567xgLKS\0"[random.below(14)],
        5 => {
            let copy = archive[block..block + BLOCK].to_vec();
            let to = random.below(archive.len() / BLOCK) * BLOCK;
            archive[to..to + BLOCK].copy_from_slice(&copy);
        }
        6 => archive.truncate(at.max(2 * BLOCK)),
        _ => {
            let value = [0, 1, 511, 513, 1 << 20, 1 << 33][random.below(6)];
            number(&mut archive[block + 124..block + 136], value);
        }
    }
    if random.below(4) > 0 && block + BLOCK <= archive.len() {
        let header = archive[block..].first_chunk_mut::<BLOCK>().unwrap();
        if &header[257..262] == b"ustar" {
            seal(header);
        }
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
