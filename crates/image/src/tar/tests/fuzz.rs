//! Headers and extended headers at random.

use super::*;
use crate::fuzzing::for_a_while;
use crate::fuzzing::tar::{Names, archive};

/// U11, U15, U20 (CVE-2025-62518, CVE-2017-14992): every entry lies within the archive and within
/// its own size, and is the same however the bytes arrive.
#[test]
fn long_archives_are_read_as_one() {
    let names = Names::new("/canary");
    let (mut whole, mut entries) = (0_u64, 0_u64);
    let many = for_a_while(|random| {
        let bytes = archive(&names, random);
        let mut reader = Reader::new(&bytes[..]);
        let (mut seen, mut taken) = (Vec::new(), 0);
        let ended = loop {
            let entry = match reader.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break true,
                Err(error) => {
                    // An error is for a person, whatever the names in it.
                    let text = format!("{error} {:?}", std::error::Error::source(&error));
                    assert!(
                        text.len() < 5000 && !text.contains(['\n', '\x1b']),
                        "{text}"
                    );
                    break false;
                }
            };
            entries += 1;
            assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
            assert!(entry.uid <= MAX_ID && entry.gid <= MAX_ID);
            assert!(entry.kind == EntryKind::File || entry.size == 0);
            assert!(!entry.path.contains(&0) && !entry.link.contains(&0));
            let mut end = 0;
            while let Ok(Some(chunk)) = reader.next_chunk() {
                assert!(chunk.offset >= end && !chunk.bytes.is_empty());
                end = chunk.offset + chunk.bytes.len() as u64;
                taken += chunk.bytes.len();
            }
            assert!(end <= entry.size && taken <= bytes.len());
            seen.push(entry);
        };
        whole += u64::from(ended);
        let mut slow = Reader::new(Trickle(&bytes, random.below(700)));
        for entry in &seen {
            assert_eq!(slow.next_entry().unwrap().as_ref(), Some(entry));
            // What `import` and `load` use: as long as the entry, with zeros for the holes.
            if entry.size <= 1 << 20 {
                let mut contents = Vec::new();
                let read = slow.contents().read_to_end(&mut contents);
                assert!(read.is_err() || contents.len() as u64 == entry.size);
            }
        }
        assert_eq!(matches!(slow.next_entry(), Ok(None)), ended);
    });
    eprintln!("{whole} archives were whole, {entries} entries in all");
    assert!(!many || whole > 20);
}
