//! Answers of other servers, remembered for as long as they allow (RFC 2308 for those that say that
//! there is nothing), each under the whole question that it answered: what else it brings along is
//! never used for another question.

use super::message::{HEADER, Query, Section, code, kind, records, response_code};
use std::time::{Duration, Instant};

/// So few are looked through in less than a microsecond, and take a sixth of the memory that a hash
/// table under constant change was measured to take.
const MAX_ENTRIES: usize = 192;
/// All keys and answers together: what a sandbox's server may take in memory is little.
const MAX_BYTES: usize = 32 * 1024;
/// Longer answers are asked for again.
const MAX_ANSWER: usize = 16 * 1024;
/// Longer times to live are not believed.
const MAX_LIFETIME: u32 = 3600;
/// The same for answers that say that there is nothing.
const MAX_NEGATIVE_LIFETIME: u32 = 300;

/// The remembered answers.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: Vec<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// The key and then the answer.
    bytes: Box<[u8]>,
    key_length: usize,
    stored: Instant,
    /// In seconds.
    lifetime: u32,
}

impl Entry {
    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_length]
    }

    fn answer(&self) -> &[u8] {
        &self.bytes[self.key_length..]
    }

    fn left(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.stored);
        Duration::from_secs(self.lifetime.into()).saturating_sub(age)
    }
}

impl Cache {
    /// The answer to a question and its age in seconds.
    pub(super) fn get(&self, key: &[u8], now: Instant) -> Option<(&[u8], u32)> {
        let entry = self.entries.iter().find(|entry| entry.key() == key)?;
        if entry.left(now).is_zero() {
            return None;
        }
        let age = now.saturating_duration_since(entry.stored).as_secs();
        Some((entry.answer(), u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Remembers the checked and stripped answer to a query.
    pub(super) fn put(&mut self, query: &Query<'_>, answer: &[u8], now: Instant) {
        let Some(lifetime) = lifetime(query, answer).filter(|lifetime| *lifetime > 0) else {
            return;
        };
        if answer.len() > MAX_ANSWER {
            return;
        }
        let mut key = Vec::new();
        query.write_key(&mut key);
        if let Some(index) = self.entries.iter().position(|entry| entry.key() == key) {
            self.remove(index);
        }
        let bytes = [&key, answer].concat().into_boxed_slice();
        while self.entries.len() >= MAX_ENTRIES || self.bytes + bytes.len() > MAX_BYTES {
            // What ends soonest, or has ended.
            let entries = self.entries.iter().enumerate();
            let Some((index, _)) = entries.min_by_key(|(_, entry)| entry.left(now)) else {
                break;
            };
            self.remove(index);
        }
        self.bytes += bytes.len();
        self.entries.push(Entry {
            bytes,
            key_length: key.len(),
            stored: now,
            lifetime,
        });
    }

    fn remove(&mut self, index: usize) {
        self.bytes -= self.entries.swap_remove(index).bytes.len();
    }

    /// Forgets everything: other servers may say something else.
    pub(super) fn clear(&mut self) {
        *self = Cache::default();
    }
}

/// How many seconds an answer may be used; `None` for one that is not to be remembered.
fn lifetime(query: &Query<'_>, answer: &[u8]) -> Option<u32> {
    let (mut least, mut found, mut negative) = (u32::MAX, false, None);
    for entry in records(answer, HEADER + query.question.len()) {
        let (section, record) = entry?;
        // The upper bit is no part of the number (RFC 2181, section 8).
        let ttl = if record.ttl > i32::MAX as u32 {
            0
        } else {
            record.ttl
        };
        match section {
            Section::Answer => {
                found |= record.kind == query.kind || query.kind == kind::ANY;
                least = least.min(ttl);
            }
            Section::Authority if record.kind == kind::SOA => {
                // The last field of the record, `MINIMUM` (RFC 2308, section 4).
                let minimum = answer.get(record.data..record.end)?.last_chunk::<4>()?;
                negative = Some(ttl.min(u32::from_be_bytes(*minimum)));
            }
            Section::Authority | Section::Additional => {}
        }
    }
    match response_code(answer)? {
        code::NO_ERROR if found => Some(least.min(MAX_LIFETIME)),
        code::NO_ERROR | code::NAME_ERROR => Some(negative?.min(least).min(MAX_NEGATIVE_LIFETIME)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::{answer_to, question, record};

    fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
        let mut data = vec![0, 0];
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(&minimum.to_be_bytes());
        record(kind::SOA, ttl, &data)
    }

    #[test]
    fn lifetimes() {
        let asked = question("example.com", kind::A);
        let query = Query::parse(&asked).unwrap();
        let a = |ttl| record(kind::A, ttl, &[192, 0, 2, 1]);
        let cname = |ttl| record(5, ttl, &[0xc0, 12]);
        let none = || (vec![], vec![]);
        for (name, code, (answers, authorities), expected) in [
            ("address", 0, (vec![a(60)], vec![]), Some(60)),
            (
                "the least counts",
                0,
                (vec![cname(30), a(60)], vec![]),
                Some(30),
            ),
            ("bounded", 0, (vec![a(100_000)], vec![]), Some(3600)),
            ("upper bit", 0, (vec![a(1 << 31 | 5)], vec![]), Some(0)),
            ("nothing without SOA", 0, none(), None),
            ("no such name without SOA", 3, none(), None),
            ("nothing", 0, (vec![], vec![soa(90, 40)]), Some(40)),
            ("no such name", 3, (vec![], vec![soa(20, 40)]), Some(20)),
            (
                "bounded nothing",
                3,
                (vec![], vec![soa(9999, 9999)]),
                Some(300),
            ),
            (
                "alias of nothing",
                3,
                (vec![cname(10)], vec![soa(90, 40)]),
                Some(10),
            ),
            ("failure", 2, (vec![a(60)], vec![]), None),
            ("refusal", 5, (vec![], vec![soa(90, 40)]), None),
        ] {
            let answer = answer_to(&asked, code, &answers, &authorities);
            assert_eq!(lifetime(&query, &answer), expected, "{name}");
        }
    }

    #[test]
    fn entries_age_and_are_bounded() {
        let mut cache = Cache::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut key = Vec::new();
        for number in 0..2000u32 {
            let asked = question(&format!("host{number}.example"), kind::A);
            let query = Query::parse(&asked).unwrap();
            let data = vec![0; if number % 10 == 0 { 900 } else { 4 }];
            let answer = answer_to(&asked, 0, &[record(kind::A, 10 + number, &data)], &[]);
            cache.put(&query, &answer, start);
            assert!(cache.bytes <= MAX_BYTES && cache.entries.len() <= MAX_ENTRIES);
        }
        let counted: usize = cache.entries.iter().map(|entry| entry.bytes.len()).sum();
        assert_eq!(counted, cache.bytes);

        let asked = question("HOST1999.example", kind::A);
        let query = Query::parse(&asked).unwrap();
        query.write_key(&mut key);
        assert!(matches!(cache.get(&key, at(7)), Some((_, 7))));
        assert!(cache.get(&key, at(2009)).is_none());
        // Another type of the same name was never answered.
        let other = question("host1999.example", kind::AAAA);
        Query::parse(&other).unwrap().write_key(&mut key);
        assert!(cache.get(&key, start).is_none());
        cache.clear();
        assert_eq!(cache.bytes, 0);
    }
}
