mod formats;
mod fuzz;
mod hostile;
mod mutations;

use std::io::Read;

use super::header::BLOCK;
use super::sparse::{MapParser, validate};
use super::testing::{Archive, Item, number, put, record, seal};
use super::*;

/// All entries with their contents.
fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    read_from(Reader::new(bytes))
}

fn read_from<R: Read>(mut reader: Reader<R>) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut contents = Vec::new();
        reader.contents().read_to_end(&mut contents).unwrap();
        entries.push((entry, contents));
    }
    Ok(entries)
}

fn only(archive: Archive) -> (Entry, Vec<u8>) {
    let mut entries = read(&archive.finish()).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn names(bytes: &[u8]) -> Result<Vec<String>, TarError> {
    Ok(read(bytes)?
        .into_iter()
        .map(|(entry, _)| escape_name(&entry.path))
        .collect())
}

/// Gives a few bytes at a time, in uneven parts.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 % 700 + 13;
        let length = self.1.min(buffer.len()).min(self.0.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

fn read_to_error(bytes: &[u8]) -> TarError {
    let mut reader = Reader::new(bytes);
    loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("accepted"),
            Err(error) => {
                assert!(matches!(reader.next_entry(), Err(TarError::Failed)));
                return error;
            }
        }
    }
}
