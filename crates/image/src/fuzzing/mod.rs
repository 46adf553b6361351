//! Fuzzers of what comes from strangers: whatever they send is refused or understood, and
//! nothing panics, stays behind or gets out.
//!
//! Mutations begin with what is valid and know its structure, since random bytes fail at the
//! first check. A failure says the number of its input, which `GANTRY_FUZZ_SEED` tries alone.
//!
//! Each test runs 3 s, and `GANTRY_FUZZ_SECONDS` or 10 minutes with `GANTRY_TEST_LONG`. The
//! fuzzer of layers is in `apply/tests/fuzz.rs`.

mod archives;
mod documents;
pub(crate) mod json;
pub(crate) mod tar;
pub(crate) mod texts;
pub(crate) mod world;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Numbers that look random, and are the same for the same seed (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that it never leaves; close seeds shall differ at once.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Whether something happens that does so once in `times`.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Runs `body` with one seed after the other until the time is over. Whether it had the time to
/// try many, so that its caller may ask what became of them.
pub(crate) fn for_a_while(mut body: impl FnMut(&mut Random)) -> bool {
    /// Says the seed if the body panics.
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed at GANTRY_FUZZ_SEED={}", self.0);
            }
        }
    }
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap())
    };
    if let Some(seed) = number("GANTRY_FUZZ_SEED") {
        let seed = Seed(seed);
        body(&mut Random::new(seed.0));
        return false;
    }
    let is_long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let seconds = number("GANTRY_FUZZ_SECONDS").unwrap_or(if is_long { 600 } else { 3 });
    let start = Instant::now();
    // Every run tries others.
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        let seed = Seed(((first.as_millis() as u64) << 20) + count);
        let begun = Instant::now();
        body(&mut Random::new(seed.0));
        // No input here is larger than some hundred kilobytes.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "one input took {took:?}");
        count += 1;
    }
    eprintln!("{count} inputs");
    assert!(count > 20, "only {count} inputs in {seconds} s");
    count > 200
}

/// Damages bytes; `syntax` are those that mean something in their language.
pub(crate) fn flip(bytes: &mut Vec<u8>, syntax: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
            continue;
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.remove(at)),
            4 | 5 => bytes.insert(at, *random.pick(syntax)),
            _ => {
                let end = (at + random.below(64)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

/// One of `seeds`, put together anew with parts of the others and with `words`, and damaged once
/// in a while.
pub(crate) fn text(seeds: &[&str], words: &[&str], syntax: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(seeds).as_bytes().to_vec();
    for _ in 0..*random.pick(&[0, 1, 1, 2, 3, 8]) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(12)).min(bytes.len());
        let part: Vec<u8> = if random.one_in(3) {
            let other = random.pick(seeds).as_bytes();
            let from = random.below(other.len().max(1)).min(other.len());
            other[from..].to_vec()
        } else if random.one_in(12) {
            random.pick(words).as_bytes().repeat(1 << random.below(12))
        } else {
            random.pick(words).as_bytes().to_vec()
        };
        let end = if random.one_in(2) { at } else { end };
        bytes.splice(at..end, part);
    }
    if random.one_in(3) {
        flip(&mut bytes, syntax, random);
    }
    bytes
}
