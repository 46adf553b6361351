//! Sparse maps: which parts of a file the archive holds (GNU tar manual,
//! "Storing Sparse Files").

use super::header::BLOCK;
use super::pax;

/// Longest map that is read: 1 MiB of memory. GNU tar writes one segment per
/// run of data, so that this is a file with 65,536 holes.
pub const MAX_SEGMENTS: usize = 1 << 16;

/// A run of bytes that the archive holds; the bytes between two are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// What is wrong with a sparse map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SparseError {
    /// The map is not a list of decimal numbers.
    #[error("sparse map is malformed")]
    Malformed,
    /// The map has more than [`MAX_SEGMENTS`] segments.
    #[error("sparse map has more than {MAX_SEGMENTS} segments")]
    TooLong,
    /// The version is none of 0.0, 0.1 and 1.0.
    #[error("sparse format is unknown")]
    UnknownFormat,
    /// Map or size is missing.
    #[error("sparse map or size is missing")]
    Incomplete,
    /// Segments overlap, run backwards or pass the file's end.
    #[error("sparse segments overlap or pass the end of the file")]
    Disorder,
    /// The segments' lengths do not add up to the archived data.
    #[error("sparse segments do not add up to the archived data")]
    WrongTotal,
}

/// Checks a map against the file's size and the bytes that the archive holds.
///
/// # Errors
/// [`SparseError::Disorder`] or [`SparseError::WrongTotal`].
pub fn validate(map: &[Segment], real_size: u64, archived: u64) -> Result<(), SparseError> {
    let mut end = 0;
    let mut total = 0_u64;
    for segment in map {
        let next = segment
            .offset
            .checked_add(segment.length)
            .ok_or(SparseError::Disorder)?;
        if segment.offset < end || next > real_size {
            return Err(SparseError::Disorder);
        }
        // No overflow: segments do not overlap and all end below real_size.
        total += segment.length;
        end = next;
    }
    if total == archived {
        Ok(())
    } else {
        Err(SparseError::WrongTotal)
    }
}

/// Reads a map of format 1.0, which stands before the data in decimal lines:
/// the number of segments, then an offset and a length for each.
#[derive(Debug, Default)]
pub struct MapParser {
    expected: Option<usize>,
    numbers: usize,
    offset: u64,
    digits: Vec<u8>,
    map: Vec<Segment>,
}

impl MapParser {
    /// Takes the next block. `true` when the map is complete; the rest of that
    /// block is padding.
    ///
    /// # Errors
    /// [`SparseError::Malformed`] or [`SparseError::TooLong`].
    pub fn feed(&mut self, block: &[u8; BLOCK]) -> Result<bool, SparseError> {
        for &byte in block {
            if byte != b'\n' {
                self.digits.push(byte);
                if self.digits.len() > 20 {
                    return Err(SparseError::Malformed);
                }
                continue;
            }
            let number = pax::size(&self.digits).ok_or(SparseError::Malformed)?;
            self.digits.clear();
            if self.number(number)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The segments read.
    pub fn into_map(self) -> Vec<Segment> {
        self.map
    }

    fn number(&mut self, number: u64) -> Result<bool, SparseError> {
        let Some(expected) = self.expected else {
            let count = usize::try_from(number)
                .ok()
                .filter(|&count| count <= MAX_SEGMENTS);
            self.expected = Some(count.ok_or(SparseError::TooLong)?);
            return Ok(number == 0);
        };
        self.numbers += 1;
        if self.numbers % 2 == 1 {
            self.offset = number;
        } else {
            self.map.push(Segment {
                offset: self.offset,
                length: number,
            });
        }
        Ok(self.map.len() == expected)
    }
}
