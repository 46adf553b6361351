//! The records of a PAX extended header (POSIX.1-2001, "pax Header Block").

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Timestamp;
use super::header::MAX_ID;
use super::sparse::{MAX_SEGMENTS, Segment};

/// What is wrong with an extended header's records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaxError {
    /// A record is not `length key=value\n`.
    #[error("record at byte {at} is malformed")]
    Record {
        /// Where in the header's data, in bytes.
        at: usize,
    },
    /// A value cannot be what its key says.
    #[error("value of {key} is malformed or out of range")]
    Value {
        /// The record's key, escaped.
        key: String,
    },
    /// A global header sets what belongs to one file. Readers disagree on what
    /// that means, so that no list of entries would be the right one.
    #[error("{key} in a global header")]
    NotGlobal {
        /// The record's key, escaped.
        key: String,
    },
}

/// What one extended header says. An empty value says nothing: the header's
/// own field counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Records {
    /// `path`.
    pub path: Option<Vec<u8>>,
    /// `linkpath`.
    pub link: Option<Vec<u8>>,
    /// `size`: bytes of data that follow the header, whatever its own field says.
    pub size: Option<u64>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `mtime`.
    pub mtime: Option<Timestamp>,
    /// `SCHILY.xattr.*` and `LIBARCHIVE.xattr.*`. A map, as a list searched for
    /// each record would take seconds on the 50,000 that fit into one header.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.*`.
    pub sparse: SparseRecords,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SparseRecords {
    /// The format's version; absent in 0.0 and 0.1.
    pub major: Option<u64>,
    /// The format's second number.
    pub minor: Option<u64>,
    /// `name`: the file's name; the header's is a made-up one.
    pub name: Option<Vec<u8>>,
    /// `size` (0.0, 0.1) or `realsize` (1.0): size with the holes, in bytes.
    pub real_size: Option<u64>,
    /// `offset` and `numbytes` pairs (0.0), or `map` (0.1).
    pub map: Option<Vec<Segment>>,
    /// An `offset` that waits for its `numbytes`.
    pending: Option<u64>,
}

impl SparseRecords {
    /// Any of the records was there.
    pub fn is_present(&self) -> bool {
        self != &Self::default()
    }
}

/// Reads the data of an extended header of type `x`.
///
/// # Errors
/// [`PaxError`] on the first record that is malformed. Unknown keys are
/// ignored, as the standard asks.
pub fn parse_records(data: &[u8]) -> Result<Records, PaxError> {
    let mut records = Records::default();
    let mut base64_xattrs = BTreeMap::new();
    let mut rest = data;
    while !rest.is_empty() {
        let at = data.len() - rest.len();
        let (record, tail) = split_record(rest).ok_or(PaxError::Record { at })?;
        rest = tail;
        let bad = || PaxError::Value {
            key: escape(record.key),
        };
        set(&mut records, &mut base64_xattrs, &record).ok_or_else(bad)?;
    }
    if records.sparse.pending.is_some() {
        return Err(PaxError::Value {
            key: "GNU.sparse.offset".to_owned(),
        });
    }
    // bsdtar writes each attribute both ways; the raw one needs no decoding.
    for (name, value) in base64_xattrs {
        records.xattrs.entry(name).or_insert(value);
    }
    Ok(records)
}

/// Reads the data of a global extended header, type `g`.
///
/// # Errors
/// [`PaxError::NotGlobal`] for what only makes sense for one file, besides
/// the errors of [`parse_records`].
pub fn parse_global(data: &[u8]) -> Result<Records, PaxError> {
    let records = parse_records(data)?;
    let refused = [
        (records.path.is_some(), "path"),
        (records.link.is_some(), "linkpath"),
        (records.size.is_some(), "size"),
        (records.sparse.is_present(), "GNU.sparse"),
        (!records.xattrs.is_empty(), "xattr"),
    ];
    match refused.iter().find(|(present, _)| *present) {
        Some((_, key)) => Err(PaxError::NotGlobal {
            key: (*key).to_owned(),
        }),
        None => Ok(records),
    }
}

struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

fn split_record(data: &[u8]) -> Option<(Record<'_>, &[u8])> {
    // The length counts itself; more than ten digits pass every cap.
    let space = data.iter().take(11).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    let body = data.get(space + 1..length)?;
    let (b'\n', body) = body.split_last()? else {
        return None;
    };
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return None;
    }
    Some((Record { key, value }, &data[length..]))
}

/// Stores one record; `None` if its value is bad. A later record of the same
/// key replaces an earlier one.
fn set(
    records: &mut Records,
    base64_xattrs: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    record: &Record<'_>,
) -> Option<()> {
    let value = record.value;
    match record.key {
        b"path" => records.path = name(value)?,
        b"linkpath" => records.link = name(value)?,
        // No reader agrees with another on an empty size.
        b"size" => records.size = Some(size(value)?),
        b"uid" => records.uid = optional(value, id)?,
        b"gid" => records.gid = optional(value, id)?,
        b"mtime" => records.mtime = optional(value, timestamp)?,
        key => {
            if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                set_sparse(&mut records.sparse, key, value)?;
            } else if let Some(key) = key.strip_prefix(b"SCHILY.xattr.") {
                records.xattrs.insert(key.to_vec(), value.to_vec());
            } else if let Some(key) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                base64_xattrs.insert(percent_decode(key)?, base64_decode(value)?);
            }
        }
    }
    Some(())
}

fn set_sparse(sparse: &mut SparseRecords, key: &[u8], value: &[u8]) -> Option<()> {
    match key {
        b"major" => sparse.major = Some(decimal(value)?),
        b"minor" => sparse.minor = Some(decimal(value)?),
        b"name" => sparse.name = name(value)?,
        b"size" | b"realsize" => sparse.real_size = Some(size(value)?),
        // Each offset has its length before the next.
        b"offset" if sparse.pending.is_some() => return None,
        b"offset" => sparse.pending = Some(size(value)?),
        b"numbytes" => {
            let segment = Segment {
                offset: sparse.pending.take()?,
                length: size(value)?,
            };
            push(sparse.map.get_or_insert_default(), segment)?;
        }
        b"map" => {
            let mut map = Vec::new();
            let mut numbers = value
                .split(|&byte| byte == b',')
                .filter(|_| !value.is_empty());
            while let Some(offset) = numbers.next() {
                let segment = Segment {
                    offset: size(offset)?,
                    length: size(numbers.next()?)?,
                };
                push(&mut map, segment)?;
            }
            sparse.map = Some(map);
        }
        _ => {}
    }
    Some(())
}

fn push(map: &mut Vec<Segment>, segment: Segment) -> Option<()> {
    if map.len() >= MAX_SEGMENTS {
        return None;
    }
    map.push(segment);
    Some(())
}

#[expect(
    clippy::option_option,
    reason = "the outer one is the error, as in every value here"
)]
fn name(value: &[u8]) -> Option<Option<Vec<u8>>> {
    if value.contains(&0) {
        return None;
    }
    Some((!value.is_empty()).then(|| value.to_vec()))
}

#[expect(
    clippy::option_option,
    reason = "the outer one is the error, as in every value here"
)]
fn optional<T>(value: &[u8], parse: fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() {
        Some(None)
    } else {
        parse(value).map(Some)
    }
}

/// Digits only: no sign, no space, no other base.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A size that fits `off_t`.
pub(super) fn size(digits: &[u8]) -> Option<u64> {
    decimal(digits).filter(|&value| i64::try_from(value).is_ok())
}

fn id(digits: &[u8]) -> Option<u32> {
    u32::try_from(decimal(digits)?)
        .ok()
        .filter(|&id| id <= MAX_ID)
}

/// Decimal seconds with an optional sign and fraction. Digits after the ninth
/// are dropped.
fn timestamp(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let point = value.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0_u32, |sum, at| {
        sum * 10 + fraction.get(at).map_or(0, |d| u32::from(d - b'0'))
    });
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds,
        },
        // -1.25 s is 0.75 s after -2 s.
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            decoded.push(hexadecimal(digits[0])? << 4 | hexadecimal(digits[1])?);
            rest = tail;
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

fn base64_decode(value: &[u8]) -> Option<Vec<u8>> {
    // libarchive leaves the padding out; others do not.
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::STANDARD, config)
        .decode(value)
        .ok()
}

fn escape(key: &[u8]) -> String {
    key[..key.len().min(64)].escape_ascii().to_string()
}
