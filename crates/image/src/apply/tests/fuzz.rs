//! Whole layers at random, in a world of their own.

use super::*;
use crate::fuzzing::tar::{Names, archive};
use crate::fuzzing::world::in_a_world;
use crate::fuzzing::{Random, for_a_while};

/// Gives a few bytes at a time.
struct Trickle<'a>(&'a [u8], Random);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (1 + self.1.below(1500)).min(buffer.len()).min(self.0.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

/// What a layer became, but for the inodes, and the times of what has none in the archive.
fn shape(scratch: &Scratch) -> BTreeMap<PathBuf, Facts> {
    let mut all = facts(&scratch.root());
    for facts in all.values_mut() {
        facts.inode = 0;
        facts.mtime = (0, 0);
    }
    all
}

/// U01 to U03, U07, U10, U12, U15, U17, U20, U21: whatever is in a layer, it stays within its
/// directory and its limits, holds no instruction to overlayfs that was not a whiteout's name, and
/// goes again; and it is the same layer however its bytes arrive.
#[test]
fn long_layers_stay_inside() {
    let (mut good, mut made) = (0_u64, 0_u64);
    let many = in_a_world(|| {
        let limits = Limits {
            max_bytes: 1 << 20,
            max_entries: 60,
            max_depth: 50,
        };
        let many = for_a_while(|random| {
            let kind = *random.pick(&[
                ApplyKind::Layer,
                ApplyKind::Layer,
                ApplyKind::RootFilesystem,
            ]);
            let scratch = Scratch::new();
            let bytes = archive(&Names::new(&scratch.canary_path()), random);
            let applied = scratch.apply_with(&bytes, kind, &limits);
            good += u64::from(applied.is_ok());
            check(&scratch, &bytes, kind, &limits);
            let tree = shape(&scratch);
            made += tree.len() as u64;

            let again = Scratch::new();
            let root = File::open(again.root()).unwrap();
            let input = Trickle(&bytes, Random::new(random.next()));
            let second = apply_layer(input, root.as_fd(), kind, &limits);
            assert_eq!(applied.is_ok(), second.is_ok(), "{applied:?} {second:?}");
            // The canary has another path there, as links to it have.
            if applied.is_ok() && !bytes.windows(13).any(|part| part == b"gantry-apply-") {
                assert!(tree == shape(&again), "two readings of one layer differ");
            }
        });
        let left: Vec<_> = fs::read_dir(std::env::temp_dir()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        many
    });
    eprintln!("{good} layers were whole, of {made} files in all");
    assert!(!many || good > 20);
}

/// Found by the fuzzer: no `save`, `commit` or copy up would get over such a file.
#[test]
fn an_empty_capability_is_none() {
    let scratch = Scratch::new();
    scratch.apply(Archive::new().item(file("f").pax("SCHILY.xattr.security.capability", "")));
    assert!(scratch.facts("f").xattrs.is_empty());
}

/// What holds for a layer's directory, be it whole or half filled.
fn check(scratch: &Scratch, bytes: &[u8], kind: ApplyKind, limits: &Limits) {
    let outside: Vec<u64> = scratch.canary.values().map(|facts| facts.inode).collect();
    let all = facts(&scratch.root());
    // Parents are made for the entry that is over the limit.
    let most = limits.max_entries + u64::from(limits.max_depth) + 1;
    assert!(all.len() as u64 <= most, "{} files", all.len());
    let announced = |name: &[u8]| {
        let marker = [&b".wh."[..], name].concat();
        bytes.windows(marker.len()).any(|part| part == marker)
    };
    let times = |name: &[u8]| {
        let length = name.len().max(1);
        bytes.windows(length).filter(|part| *part == name).count()
    };
    let any_whiteout = bytes.windows(4).any(|part| part == b".wh.");
    let mut total = 0;
    for (path, facts) in &all {
        assert!(!outside.contains(&facts.inode), "{path:?}");
        let last = path.file_name().unwrap_or_default().as_bytes();
        assert!(!last.starts_with(b".wh."), "{path:?}");
        if facts.mode & 0o170_000 == 0o020_000 && facts.device == 0 {
            assert!(
                kind == ApplyKind::Layer && announced(last),
                "{path:?} {:?}",
                facts.device
            );
        }
        if facts.mode & 0o170_000 == 0o100_000 && facts.links == 1 {
            total += facts.size;
        }
        for name in facts.xattrs.keys() {
            let name = String::from_utf8_lossy(name);
            match name.as_ref() {
                "trusted.overlay.opaque" => {
                    // Ours: a directory that took a file's place, or that a marker is for.
                    let replaced = times(last) > 1;
                    assert!(
                        replaced || kind == ApplyKind::Layer && any_whiteout,
                        "{path:?}"
                    );
                    assert_eq!(facts.xattrs[&b"trusted.overlay.opaque"[..]], b"y");
                }
                "security.capability"
                | "security.ima"
                | "system.posix_acl_access"
                | "system.posix_acl_default" => {}
                name => {
                    let is_plain = name.starts_with("user.") && !name.starts_with("user.overlay.");
                    assert!(is_plain, "{path:?}: {name}");
                }
            }
        }
    }
    assert!(total <= limits.max_bytes, "{total} bytes");
}
