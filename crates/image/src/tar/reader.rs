//! The stream of entries and their data.

use std::io::{self, Read};

use super::header::{BLOCK, Header, OldSparse, parse_header, parse_sparse_block};
use super::pax::{Records, SparseRecords, parse_global, parse_records};
use super::sparse::{MAX_SEGMENTS, MapParser, Segment, SparseError, validate};
use super::{Entry, EntryKind, MAX_EXTENSION, MAX_EXTENSIONS, TarError, Timestamp, escape_name};

/// Anything from 64 KiB to 1 MiB unpacks a Debian root file system in the same
/// time, within what one run differs from the next (6%).
const BUFFER: usize = 256 * 1024;

/// Reads an archive from a stream, entry by entry.
///
/// It reads ahead: what the stream gives after the archive's end may be lost.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    /// The bytes of `buffer` that are read but not taken.
    start: usize,
    end: usize,
    /// Bytes taken so far.
    offset: u64,
    state: State,
    data: Data,
    global: Global,
    extensions_left: u64,
    needs_end_marker: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

/// What of a global header outlives it.
#[derive(Debug, Default)]
struct Global {
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Timestamp>,
}

/// The current entry's data.
#[derive(Debug, Default)]
struct Data {
    /// Bytes in the archive that are not taken yet.
    remaining: u64,
    /// Padding after them.
    padding: u64,
    /// Size of the file with its holes.
    size: u64,
    /// Where in the file the next byte goes.
    position: u64,
    /// Where in the file a stream of its contents is: here or in a hole before.
    read: u64,
    /// Bytes that go there before the next hole.
    run: u64,
    /// Segments after the current run, last one first.
    segments: Vec<Segment>,
}

impl Data {
    fn next_segment(&mut self) {
        while self.run == 0
            && let Some(segment) = self.segments.pop()
        {
            self.position = segment.offset;
            self.run = segment.length;
        }
    }
}

/// Extended headers that wait for their entry.
#[derive(Debug, Default)]
struct Extensions {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn any(&self) -> bool {
        self.records.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }
}

/// A part of a file.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Where in the file it goes, in bytes.
    pub offset: u64,
    /// The bytes, at least one.
    pub bytes: &'a [u8],
}

impl<R: Read> Reader<R> {
    /// Reads an archive that must end with its end marker.
    pub fn new(input: R) -> Self {
        Self {
            input,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            offset: 0,
            state: State::Reading,
            data: Data::default(),
            global: Global::default(),
            extensions_left: MAX_EXTENSIONS,
            needs_end_marker: true,
        }
    }

    /// Takes the end of the stream for the archive's end where an entry could
    /// begin. Image layers come without an end marker (writers that never close
    /// their archive), and their digest tells whether they are whole.
    #[must_use]
    pub fn without_end_marker(mut self) -> Self {
        self.needs_end_marker = false;
        self
    }

    /// The next entry, or `None` at the archive's end. Data of the last entry
    /// that was not read is skipped.
    ///
    /// # Errors
    /// [`TarError`]; from then on every call fails.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        match self.state {
            State::Ended => return Ok(None),
            State::Failed => return Err(TarError::Failed),
            State::Reading => {}
        }
        let entry = self.read_entry();
        match &entry {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        entry
    }

    /// The next part of the current entry's data that the archive holds, or
    /// `None` after the last. Holes of a sparse file lie between two parts, and
    /// between the last part and [`Entry::size`].
    ///
    /// # Errors
    /// [`TarError::Read`] and [`TarError::Truncated`].
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, TarError> {
        self.take_chunk(usize::MAX)
    }

    /// The current entry's data as a stream, with zeros for holes.
    pub fn contents(&mut self) -> Contents<'_, R> {
        Contents { reader: self }
    }

    /// Reads the stream to its end, at most `limit` bytes of it, and drops what
    /// it gives. Returns `false` if there is more.
    ///
    /// # Errors
    /// [`TarError::Read`].
    pub fn drain(&mut self, limit: u64) -> Result<bool, TarError> {
        let mut left = limit;
        loop {
            let available = (self.end - self.start) as u64;
            if available > left {
                return Ok(false);
            }
            left -= available;
            self.consume(self.end - self.start);
            if self.fill(1)? == 0 {
                return Ok(true);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn limit_extensions(&mut self, bytes: u64) {
        self.extensions_left = bytes;
    }

    fn read_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let offset = self.offset;
            let Some(header) = self.read_header()? else {
                if extensions.any() {
                    return Err(TarError::DanglingExtension { offset });
                }
                return Ok(None);
            };
            let again = || TarError::DuplicateExtension { offset };
            let pax = |source| TarError::Pax { offset, source };
            match header.type_flag {
                b'x' => {
                    let data = self.read_extension(offset, header.size)?;
                    let records = parse_records(&data).map_err(pax)?;
                    if extensions.records.replace(records).is_some() {
                        return Err(again());
                    }
                }
                b'g' => {
                    let data = self.read_extension(offset, header.size)?;
                    let records = parse_global(&data).map_err(pax)?;
                    self.global.uid = records.uid.or(self.global.uid);
                    self.global.gid = records.gid.or(self.global.gid);
                    self.global.mtime = records.mtime.or(self.global.mtime);
                }
                b'L' => {
                    let name = self.read_long_name(offset, header.size)?;
                    if extensions.long_name.replace(name).is_some() {
                        return Err(again());
                    }
                }
                b'K' => {
                    let link = self.read_long_name(offset, header.size)?;
                    if extensions.long_link.replace(link).is_some() {
                        return Err(again());
                    }
                }
                _ => return self.entry(header, extensions).map(Some),
            }
        }
    }

    /// The next header block, or `None` at the archive's end.
    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let offset = self.offset;
        let Some(block) = self.read_block()? else {
            return if self.needs_end_marker {
                Err(TarError::Truncated { offset })
            } else {
                Ok(None)
            };
        };
        if block != [0; BLOCK] {
            return parse_header(&block)
                .map(Some)
                .map_err(|source| TarError::Header { offset, source });
        }
        // Enough archives end with one zero block, but in the middle it would
        // hide the rest from readers that stop there.
        match self.read_block()? {
            Some(block) if block != [0; BLOCK] => Err(TarError::LoneZeroBlock { offset }),
            _ => Ok(None),
        }
    }

    fn read_extension(&mut self, offset: u64, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::ExtensionTooLarge { offset, size });
        }
        let cost = BLOCK as u64 + size + padding(size);
        self.extensions_left = self
            .extensions_left
            .checked_sub(cost)
            .ok_or(TarError::ExtensionsTooLarge)?;
        let mut data = Vec::new();
        self.data = Data {
            remaining: size,
            padding: padding(size),
            run: size,
            ..Data::default()
        };
        while let Some(chunk) = self.next_chunk()? {
            data.extend_from_slice(chunk.bytes);
        }
        self.skip_data()?;
        Ok(data)
    }

    fn read_long_name(&mut self, offset: u64, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.read_extension(offset, size)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// Puts header and extended headers together, and prepares the data.
    fn entry(&mut self, header: Header, extensions: Extensions) -> Result<Entry, TarError> {
        let records = extensions.records.unwrap_or_default();
        // Format 1.0 keeps the real name apart from `path`, which it makes up.
        let pax_path = records.sparse.name.clone().or(records.path);
        let path = one_name(extensions.long_name, pax_path)?.unwrap_or(header.path);
        let link = one_name(extensions.long_link, records.link)?.unwrap_or(header.link);
        // The one size for data and skipping alike (CVE-2025-62518, CVE-2026-33055).
        let archived = records.size.unwrap_or(header.size);

        let kind = entry_kind(header.type_flag, &path)?;
        let is_file = kind == EntryKind::File;
        if !is_file && archived != 0 {
            return Err(TarError::UnexpectedData {
                entry: escape_name(&path),
                size: archived,
            });
        }
        self.data = Data {
            remaining: archived,
            padding: padding(archived),
            size: archived,
            run: archived,
            ..Data::default()
        };
        let is_sparse = is_file && (header.type_flag == b'S' || records.sparse.is_present());
        if is_sparse {
            self.read_sparse_map(&path, header.sparse, records.sparse)?;
        }
        let is_link = matches!(kind, EntryKind::HardLink | EntryKind::Symlink);
        Ok(Entry {
            kind,
            link: if is_link { link } else { Vec::new() },
            mode: header.mode,
            uid: records.uid.or(self.global.uid).unwrap_or(header.uid),
            gid: records.gid.or(self.global.gid).unwrap_or(header.gid),
            size: self.data.size,
            mtime: records.mtime.or(self.global.mtime).unwrap_or(Timestamp {
                seconds: header.mtime,
                nanoseconds: 0,
            }),
            device: header.device,
            xattrs: records.xattrs.into_iter().collect(),
            sparse: is_sparse,
            path,
        })
    }

    fn read_sparse_map(
        &mut self,
        path: &[u8],
        old: Option<OldSparse>,
        records: SparseRecords,
    ) -> Result<(), TarError> {
        let bad = |source| TarError::Sparse {
            entry: escape_name(path),
            source,
        };
        let (map, real_size) = match (old, (records.major, records.minor)) {
            (Some(_), _) if records.is_present() => return Err(bad(SparseError::UnknownFormat)),
            (Some(old), _) => (
                self.read_old_map(path, old.segments, old.extended)?,
                old.real_size,
            ),
            (None, (None | Some(0), _)) => {
                let (Some(map), Some(size)) = (records.map, records.real_size) else {
                    return Err(bad(SparseError::Incomplete));
                };
                (map, size)
            }
            (None, (Some(1), Some(0))) => {
                let size = records
                    .real_size
                    .ok_or_else(|| bad(SparseError::Incomplete))?;
                (self.read_new_map(path)?, size)
            }
            (None, _) => return Err(bad(SparseError::UnknownFormat)),
        };
        validate(&map, real_size, self.data.remaining).map_err(bad)?;
        self.data.size = real_size;
        self.data.run = 0;
        self.data.segments = map;
        self.data.segments.reverse();
        self.data.next_segment();
        Ok(())
    }

    /// Blocks of an old map follow the header and are no part of the data.
    fn read_old_map(
        &mut self,
        path: &[u8],
        mut map: Vec<Segment>,
        mut extended: bool,
    ) -> Result<Vec<Segment>, TarError> {
        while extended {
            let offset = self.offset;
            let block = self.read_block()?.ok_or(TarError::Truncated { offset })?;
            let (more, next) =
                parse_sparse_block(&block).map_err(|source| TarError::Header { offset, source })?;
            // An empty block that announces another would never end.
            if map.len() + more.len() > MAX_SEGMENTS || (next && more.is_empty()) {
                let source = SparseError::TooLong;
                return Err(TarError::Sparse {
                    entry: escape_name(path),
                    source,
                });
            }
            map.extend(more);
            extended = next;
        }
        Ok(map)
    }

    /// Blocks of a map in format 1.0 are the first part of the data.
    fn read_new_map(&mut self, path: &[u8]) -> Result<Vec<Segment>, TarError> {
        let bad = |source| TarError::Sparse {
            entry: escape_name(path),
            source,
        };
        let mut parser = MapParser::default();
        loop {
            let offset = self.offset;
            let rest = self.data.remaining.checked_sub(BLOCK as u64);
            self.data.remaining = rest.ok_or_else(|| bad(SparseError::Incomplete))?;
            let block = self.read_block()?.ok_or(TarError::Truncated { offset })?;
            if parser.feed(&block).map_err(bad)? {
                return Ok(parser.into_map());
            }
        }
    }

    fn take_chunk(&mut self, limit: usize) -> Result<Option<Chunk<'_>>, TarError> {
        if self.state == State::Failed {
            return Err(TarError::Failed);
        }
        if self.data.remaining == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.data.run)
            .unwrap_or(usize::MAX)
            .min(limit);
        let filled = match self.end - self.start {
            // Larger writes are cheaper: wait for half a buffer, not for the
            // 8 or 32 KiB that a decompressor hands out at a time.
            0 => self.fill(wanted.min(BUFFER / 2)),
            available => Ok(available),
        };
        let offset = self.offset;
        let available = match filled {
            Ok(0) => Err(TarError::Truncated { offset }),
            other => other,
        }
        .inspect_err(|_| self.state = State::Failed)?;
        let length = available.min(wanted);
        let start = self.start;
        let position = self.data.position;
        self.consume(length);
        self.data.remaining -= length as u64;
        self.data.run -= length as u64;
        self.data.position += length as u64;
        self.data.read = self.data.position;
        self.data.next_segment();
        Ok(Some(Chunk {
            offset: position,
            bytes: &self.buffer[start..start + length],
        }))
    }

    /// Passes what is left of the current entry's data, and its padding.
    fn skip_data(&mut self) -> Result<(), TarError> {
        // Neither exceeds i64::MAX.
        let mut left = self.data.remaining + self.data.padding;
        self.data = Data::default();
        while left > 0 {
            let offset = self.offset;
            let available = match self.end - self.start {
                0 => self.fill(1)?,
                available => available,
            };
            if available == 0 {
                return Err(TarError::Truncated { offset });
            }
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.consume(length);
            left -= length as u64;
        }
        Ok(())
    }

    /// The next block, or `None` if the stream ends before it.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let available = match self.end - self.start {
            available @ BLOCK.. => available,
            _ => self.fill(BLOCK)?,
        };
        if available == 0 {
            return Ok(None);
        }
        match self.buffer[self.start..self.end].first_chunk::<BLOCK>() {
            Some(&block) => {
                self.consume(BLOCK);
                Ok(Some(block))
            }
            None => Err(TarError::Truncated {
                offset: self.offset + available as u64,
            }),
        }
    }

    /// Reads until `wanted` bytes (at most the buffer's size) are there or the
    /// stream ends. Returns how many there are.
    fn fill(&mut self, wanted: usize) -> Result<usize, TarError> {
        if self.start > 0 {
            // At most a part of a block is left when more is needed.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end < wanted {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(length) => self.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read {
                        offset: self.offset + self.end as u64,
                        source,
                    });
                }
            }
        }
        Ok(self.end)
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }
}

/// The data of one entry as a stream; see [`Reader::contents`].
#[derive(Debug)]
pub struct Contents<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let data = &mut self.reader.data;
        let hole_end = if data.remaining > 0 {
            data.position
        } else {
            data.size
        };
        let hole = hole_end.saturating_sub(data.read);
        if hole > 0 {
            let length = usize::try_from(hole)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            buffer[..length].fill(0);
            data.read += length as u64;
            return Ok(length);
        }
        let chunk = self
            .reader
            .take_chunk(buffer.len())
            .map_err(io::Error::other)?;
        let bytes = chunk.map_or(&[][..], |chunk| chunk.bytes);
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// The one name of an entry, where a long name may come in two ways. Go and GNU
/// tar choose differently if they differ.
fn one_name(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, TarError> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => Err(TarError::ConflictingNames {
            entry: escape_name(&gnu),
        }),
        (gnu, pax) => Ok(gnu.or(pax)),
    }
}

fn entry_kind(type_flag: u8, path: &[u8]) -> Result<EntryKind, TarError> {
    let named_as_directory = path.ends_with(b"/");
    match type_flag {
        // v7 had no type for directories.
        0 if named_as_directory => Ok(EntryKind::Directory),
        0 | b'0' | b'7' | b'S' if named_as_directory => Err(TarError::FileNamedAsDirectory {
            entry: escape_name(path),
        }),
        0 | b'0' | b'7' | b'S' => Ok(EntryKind::File),
        b'1' => Ok(EntryKind::HardLink),
        b'2' => Ok(EntryKind::Symlink),
        b'3' => Ok(EntryKind::CharacterDevice),
        b'4' => Ok(EntryKind::BlockDevice),
        b'5' => Ok(EntryKind::Directory),
        b'6' => Ok(EntryKind::Fifo),
        _ => Err(TarError::UnsupportedType {
            entry: escape_name(path),
            type_flag: type_flag.escape_ascii().to_string(),
        }),
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
