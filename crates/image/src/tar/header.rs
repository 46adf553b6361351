//! One 512-byte header block, as a value.
//!
//! Layouts: POSIX.1-1988 ustar, the v7 header before it, and the old GNU
//! header, which reuses the prefix field (GNU tar manual, "Basic Tar Format").

use super::sparse::Segment;

/// Size of a block, in bytes. Headers fill one; data is padded to a multiple.
pub const BLOCK: usize = 512;

/// Largest user or group id. The next one is `(uid_t)-1`, which chown(2) reads as "keep".
pub const MAX_ID: u32 = u32::MAX - 1;

/// Largest device major number: 12 bits in the kernel's `dev_t`.
pub const MAX_MAJOR: u32 = (1 << 12) - 1;

/// Largest device minor number: 20 bits in the kernel's `dev_t`.
pub const MAX_MINOR: u32 = (1 << 20) - 1;

/// What is wrong with a header block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The stored sum is not the block's.
    #[error("checksum is {stored}, the block sums to {computed}")]
    Checksum {
        /// The sum in the header.
        stored: i64,
        /// The sum over the block's unsigned bytes.
        computed: i64,
    },
    /// A field holds no number.
    #[error("field {field} is not a number")]
    NotANumber {
        /// The field's name in POSIX ustar.
        field: &'static str,
    },
    /// A number is outside what its field can mean.
    #[error("field {field} is out of range")]
    OutOfRange {
        /// The field's name in POSIX ustar.
        field: &'static str,
    },
}

/// The fields of one header block, range-checked but not interpreted: an
/// extended header before it may still replace any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Type of the entry, as stored.
    pub type_flag: u8,
    /// Name, with the ustar prefix joined on.
    pub path: Vec<u8>,
    /// Link target, empty where there is none.
    pub link: Vec<u8>,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner, at most [`MAX_ID`].
    pub uid: u32,
    /// Group, at most [`MAX_ID`].
    pub gid: u32,
    /// Bytes of data that follow, in bytes.
    pub size: u64,
    /// Modification time, in seconds since 1970.
    pub mtime: i64,
    /// Device numbers; zero unless the type is a device.
    pub device: (u32, u32),
    /// The sparse map's first part, for type `S` of old GNU headers.
    pub sparse: Option<OldSparse>,
}

/// The sparse part of an old GNU header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldSparse {
    /// Up to four segments.
    pub segments: Vec<Segment>,
    /// Another block of segments follows.
    pub extended: bool,
    /// Size of the file with its holes, in bytes.
    pub real_size: u64,
}

/// Reads one header block.
///
/// # Errors
/// [`HeaderError`] if the checksum does not match or a number is malformed or
/// out of range.
pub fn parse_header(block: &[u8; BLOCK]) -> Result<Header, HeaderError> {
    verify_checksum(block)?;
    let is_ustar = &block[257..263] == b"ustar\0";
    let is_gnu = &block[257..265] == b"ustar  \0";
    let type_flag = block[156];

    let mut path = text(&block[..100]).to_vec();
    if is_ustar {
        // star keeps its access and change times in the prefix's last 24 bytes.
        let prefix_end = if &block[508..] == b"tar\0" { 476 } else { 500 };
        let prefix = text(&block[345..prefix_end]);
        if !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
    }
    let device = if matches!(type_flag, b'3' | b'4') && (is_ustar || is_gnu) {
        (
            in_range(&block[329..337], "devmajor", MAX_MAJOR)?,
            in_range(&block[337..345], "devminor", MAX_MINOR)?,
        )
    } else {
        (0, 0)
    };
    let sparse = if type_flag == b'S' && is_gnu {
        Some(OldSparse {
            segments: segments(&block[386..482])?,
            extended: block[482] != 0,
            real_size: size(&block[483..495], "realsize")?,
        })
    } else {
        None
    };
    Ok(Header {
        type_flag,
        path,
        link: text(&block[157..257]).to_vec(),
        // Some writers put the file's type above the permission bits.
        mode: in_range(&block[100..108], "mode", u32::MAX)? & 0o7777,
        uid: in_range(&block[108..116], "uid", MAX_ID)?,
        gid: in_range(&block[116..124], "gid", MAX_ID)?,
        size: size(&block[124..136], "size")?,
        mtime: number(&block[136..148], "mtime")?,
        device,
        sparse,
    })
}

/// Reads a block that continues an old GNU sparse map: its segments, and
/// whether yet another block follows.
///
/// # Errors
/// [`HeaderError`] if a number is malformed.
pub fn parse_sparse_block(block: &[u8; BLOCK]) -> Result<(Vec<Segment>, bool), HeaderError> {
    Ok((segments(&block[..504])?, block[504] != 0))
}

fn segments(slots: &[u8]) -> Result<Vec<Segment>, HeaderError> {
    slots
        .chunks_exact(24)
        .take_while(|slot| slot[0] != 0 && slot[12] != 0)
        .map(|slot| {
            Ok(Segment {
                offset: size(&slot[..12], "sparse offset")?,
                length: size(&slot[12..], "sparse length")?,
            })
        })
        .collect()
}

fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), HeaderError> {
    let (before, rest) = block.split_at(148);
    let (field, after) = rest.split_at(8);
    let stored = number(field, "chksum")?;
    // The field itself counts as eight spaces.
    let spaces = 8 * i64::from(b' ');
    // 512 bytes sum to less than 2^17; the narrow type lets the compiler use
    // vectors: with i64 this was 3% of the time to unpack a root file system.
    let unsigned = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let computed = spaces + i64::from(unsigned(before) + unsigned(after));
    if stored == computed {
        return Ok(());
    }
    // Old writers summed signed chars; it differs only with bytes above 127.
    let signed = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| i64::from(byte.cast_signed()))
            .sum::<i64>()
    };
    if stored == spaces + signed(before) + signed(after) {
        return Ok(());
    }
    Err(HeaderError::Checksum { stored, computed })
}

/// The field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

fn size(field: &[u8], name: &'static str) -> Result<u64, HeaderError> {
    u64::try_from(number(field, name)?).map_err(|_| HeaderError::OutOfRange { field: name })
}

fn in_range(field: &[u8], name: &'static str, max: u32) -> Result<u32, HeaderError> {
    u32::try_from(number(field, name)?)
        .ok()
        .filter(|&value| value <= max)
        .ok_or(HeaderError::OutOfRange { field: name })
}

/// A number in octal, or in GNU's base 256 when the first bit is set. An empty
/// field is zero.
fn number(field: &[u8], name: &'static str) -> Result<i64, HeaderError> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        return base_256(field).ok_or(HeaderError::OutOfRange { field: name });
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_i64, |value, byte| match byte {
        // Twelve octal digits are 36 bits: no overflow.
        b'0'..=b'7' => Ok(value << 3 | i64::from(byte - b'0')),
        _ => Err(HeaderError::NotANumber { field: name }),
    })
}

/// Two's complement, big-endian, with the first bit as the mark.
fn base_256(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    // Bit 6 is the sign; it is copied over the mark.
    let lead = if first & 0x40 == 0 {
        first & 0x7f
    } else {
        first
    };
    rest.iter()
        .try_fold(i64::from(lead.cast_signed()), |value, &byte| {
            Some(value.checked_mul(256)? | i64::from(byte))
        })
}
