//! Bounded pipes of buffers between the threads of a pipeline.
//!
//! Buffers travel to the reader and come back to the writer, so a pipe allocates each of its few
//! buffers once and no byte is copied on the way.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Size of one buffer in bytes.
pub(crate) const BUFFER: usize = 256 << 10;

/// The reading end is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReaderGone;

/// The writing end. Dropping it without [`PipeWriter::finish`] is a failure for the reader.
pub(crate) struct PipeWriter {
    full: SyncSender<Message>,
    empty: Receiver<Box<[u8]>>,
    unallocated: usize,
}

enum Message {
    Data(Box<[u8]>, usize),
    End,
}

/// The reading end.
pub(crate) struct PipeReader {
    full: Receiver<Message>,
    empty: SyncSender<Box<[u8]>>,
    current: Box<[u8]>,
    position: usize,
    length: usize,
    ended: bool,
}

/// A pipe with at most `buffers` buffers in flight.
pub(crate) fn pipe(buffers: usize) -> (PipeWriter, PipeReader) {
    // One place more for the end, so that announcing it never waits.
    let (full_sender, full) = sync_channel(buffers + 1);
    let (empty_sender, empty) = sync_channel(buffers);
    let writer = PipeWriter {
        full: full_sender,
        empty,
        unallocated: buffers,
    };
    let current = Box::default();
    (
        writer,
        PipeReader {
            full,
            empty: empty_sender,
            current,
            position: 0,
            length: 0,
            ended: false,
        },
    )
}

impl PipeWriter {
    /// A buffer to write into; waits for the reader if all are in flight.
    pub(crate) fn buffer(&mut self) -> Result<Box<[u8]>, ReaderGone> {
        if let Ok(buffer) = self.empty.try_recv() {
            return Ok(buffer);
        }
        if self.unallocated > 0 {
            self.unallocated -= 1;
            return Ok(vec![0; BUFFER].into_boxed_slice());
        }
        self.empty.recv().map_err(|_| ReaderGone)
    }

    /// Passes the first `length` bytes of a buffer to the reader.
    pub(crate) fn send(&mut self, buffer: Box<[u8]>, length: usize) -> Result<(), ReaderGone> {
        self.full
            .send(Message::Data(buffer, length))
            .map_err(|_| ReaderGone)
    }

    /// Tells the reader that everything was written.
    pub(crate) fn finish(self) -> Result<(), ReaderGone> {
        self.full.send(Message::End).map_err(|_| ReaderGone)
    }
}

impl PipeReader {
    /// Takes the next full buffer with its length and gives the writer `empty` for it, or `None`
    /// after the last. For stages that pass on what they get; not to be mixed with [`Read`].
    pub(crate) fn exchange(&mut self, empty: Box<[u8]>) -> io::Result<Option<(Box<[u8]>, usize)>> {
        if self.ended {
            return Ok(None);
        }
        match self.full.recv() {
            Ok(Message::Data(buffer, length)) => {
                // As in `fill_buf`.
                let _ = self.empty.try_send(empty);
                Ok(Some((buffer, length)))
            }
            Ok(Message::End) => {
                self.ended = true;
                Ok(None)
            }
            Err(_) => Err(io::Error::new(io::ErrorKind::BrokenPipe, UpstreamFailed)),
        }
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.length && !self.ended {
            let spent = std::mem::take(&mut self.current);
            (self.position, self.length) = (0, 0);
            if !spent.is_empty() {
                // Never full, since there are as many places as buffers; the writer may be done.
                let _ = self.empty.try_send(spent);
            }
            match self.full.recv() {
                Ok(Message::Data(buffer, length)) => (self.current, self.length) = (buffer, length),
                Ok(Message::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::BrokenPipe, UpstreamFailed)),
            }
        }
        Ok(&self.current[self.position..self.length])
    }

    fn consume(&mut self, count: usize) {
        self.position = (self.position + count).min(self.length);
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// What a reader sees when the stage before it gave up; the reason is with that stage.
#[derive(Debug, thiserror::Error)]
#[error("the stage before this one failed")]
pub(crate) struct UpstreamFailed;

/// Reads until `buffer` is full or `reader` ends; returns the number of bytes, which is less than
/// the buffer's length only at the end.
pub(crate) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_everything_in_order_within_its_buffers() {
        let (mut writer, mut reader) = pipe(2);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut source = sent.as_slice();
                loop {
                    let mut buffer = writer.buffer().unwrap();
                    let length = fill(&mut source, &mut buffer).unwrap();
                    let ended = length < buffer.len();
                    writer.send(buffer, length).unwrap();
                    if ended {
                        break;
                    }
                }
                assert_eq!(writer.unallocated, 0);
                writer.finish().unwrap();
            });
            let mut received = Vec::new();
            reader.read_to_end(&mut received).unwrap();
            assert!(received == sent);
            assert_eq!(reader.read(&mut [0]).unwrap(), 0, "stays at its end");
        });
    }

    /// A stage in between passes buffers on and neither copies them nor makes more.
    #[test]
    fn a_stage_in_between_exchanges_buffers() {
        let (mut writer, mut middle_reader) = pipe(2);
        let (mut middle_writer, mut reader) = pipe(2);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..100 {
                    let mut buffer = writer.buffer().unwrap();
                    buffer[..4].copy_from_slice(&[number; 4]);
                    writer.send(buffer, 4).unwrap();
                }
                writer.finish().unwrap();
            });
            scope.spawn(move || {
                loop {
                    let empty = middle_writer.buffer().unwrap();
                    assert_eq!(empty.len(), BUFFER);
                    let Some((full, length)) = middle_reader.exchange(empty).unwrap() else {
                        break;
                    };
                    middle_writer.send(full, length).unwrap();
                }
                assert!(middle_reader.exchange(Box::default()).unwrap().is_none());
                middle_writer.finish().unwrap();
            });
            let mut received = Vec::new();
            reader.read_to_end(&mut received).unwrap();
            let expected: Vec<u8> = (0..100).flat_map(|number| [number; 4]).collect();
            assert_eq!(received, expected);
        });
    }

    #[test]
    fn failure_is_not_an_end() {
        let (mut writer, mut reader) = pipe(2);
        writer.send(Box::new([1, 2]), 1).unwrap();
        drop(writer);
        let mut received = Vec::new();
        let error = reader.read_to_end(&mut received).unwrap_err();
        assert!(error.get_ref().is_some_and(|e| e.is::<UpstreamFailed>()));
        assert_eq!(received, [1]);
    }

    #[test]
    fn writer_learns_that_the_reader_is_gone() {
        let (mut writer, reader) = pipe(1);
        let buffer = writer.buffer().unwrap();
        drop(reader);
        assert_eq!(writer.send(buffer, 1), Err(ReaderGone));
        assert_eq!(writer.buffer().map(drop), Err(ReaderGone));
    }
}
