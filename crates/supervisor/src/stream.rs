//! One output stream of a task: from the program to the log and to whoever watches.
//!
//! Nothing is lost and nothing is doubled by the death of a process at any point. Bytes
//! move by splice from the program's pipe (or terminal) into a holding pipe that both
//! processes of the supervisor have open; they are looked at by tee, and taken off only
//! when they are logged and sent. What is being logged is noted beforehand in memory
//! that both processes share: the successor finds the note, and the fill of the holding
//! pipe tells it how far its predecessor came.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_sys::shared::SharedWords;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::log::{self, Log};
use crate::protocol;

/// Most that is held, in bytes: the capacity of a pipe.
const HOLD: usize = 64 * 1024;

/// A line longer than this is logged in parts, as Docker does.
const LONGEST_LINE: usize = 16 * 1024;

/// Words that one stream has in the shared page.
const SLOT_WORDS: usize = 8;

/// The words of a slot.
#[derive(Clone, Copy)]
enum Word {
    /// Whether somebody has the slot.
    Taken,
    /// Bytes taken off the holding pipe since the beginning.
    Consumed,
    /// Whether the words below mean something.
    Intent,
    /// Bytes that are about to be taken off.
    Length,
    /// Fill of the holding pipe before that.
    Fill,
    /// Value of `Consumed` before that.
    Before,
    /// Length of the log file before that.
    LogSize,
}

/// One output stream.
#[derive(Debug)]
pub struct Output {
    /// Which one it is.
    pub stream: protocol::Stream,
    /// Where the program's bytes come from; absent once it has ended.
    pub source: Option<OwnedFd>,
    /// Reading end of the holding pipe.
    pub hold_reader: OwnedFd,
    /// Writing end of the holding pipe.
    pub hold_writer: OwnedFd,
    /// Number of its slot in the shared page.
    pub slot: u32,
}

/// What is in a holding pipe.
#[derive(Debug, Default)]
pub struct Held {
    /// Place of the first byte in the stream.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Held {
    /// Place behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// Finds a free slot and takes it.
#[must_use]
pub fn take_slot(page: &SharedWords) -> Option<u32> {
    let slots = gantry_sys::shared::WORDS / SLOT_WORDS;
    let slot = (0..slots as u32).find(|&slot| load(page, slot, Word::Taken) == 0)?;
    for word in 0..SLOT_WORDS {
        page.words()[slot as usize * SLOT_WORDS + word].store(0, Ordering::SeqCst);
    }
    store(page, slot, Word::Taken, 1);
    Some(slot)
}

/// Gives every slot back but these: their owner may have died before it told of the others.
pub fn keep_slots(page: &SharedWords, kept: impl Iterator<Item = u32>) {
    let kept: Vec<u32> = kept.collect();
    for slot in 0..(gantry_sys::shared::WORDS / SLOT_WORDS) as u32 {
        store(page, slot, Word::Taken, u64::from(kept.contains(&slot)));
    }
}

/// Gives a slot back.
pub fn free_slot(page: &SharedWords, slot: u32) {
    store(page, slot, Word::Taken, 0);
}

fn word(page: &SharedWords, slot: u32, word: Word) -> &AtomicU64 {
    &page.words()[slot as usize * SLOT_WORDS + word as usize]
}

fn load(page: &SharedWords, slot: u32, which: Word) -> u64 {
    word(page, slot, which).load(Ordering::SeqCst)
}

fn store(page: &SharedWords, slot: u32, which: Word, value: u64) {
    word(page, slot, which).store(value, Ordering::SeqCst);
}

impl Output {
    /// Makes the holding pipe of a stream.
    ///
    /// # Errors
    /// The kernel's; `QuotaExceeded` where the supervisor has no slot left.
    pub fn new(
        page: &SharedWords,
        stream: protocol::Stream,
        source: OwnedFd,
    ) -> io::Result<Output> {
        rustix::io::ioctl_fionbio(&source, true)?;
        let (hold_reader, hold_writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let slot = take_slot(page).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Output {
            stream,
            source: Some(source),
            hold_reader,
            hold_writer,
            slot,
        })
    }

    /// Moves what the program has written into the holding pipe; whether anything moved.
    pub fn fill(&mut self) -> bool {
        let Some(source) = &self.source else {
            return false;
        };
        let mut moved = false;
        loop {
            match rustix::pipe::splice(
                source,
                None,
                &self.hold_writer,
                None,
                HOLD,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
            ) {
                Ok(0) => {
                    self.source = None;
                    return true;
                }
                Ok(_) => moved = true,
                Err(Errno::AGAIN) => return moved,
                Err(Errno::INTR) => {}
                // EIO is how a terminal says that nobody has it open any more.
                Err(_) => {
                    self.source = None;
                    return true;
                }
            }
        }
    }

    /// Bytes in the holding pipe.
    fn level(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.hold_reader).unwrap_or(0)
    }

    /// Looks at all that is held, without taking it off.
    ///
    /// # Errors
    /// The kernel's.
    pub fn look(&self, page: &SharedWords, scratch: &Scratch) -> io::Result<Held> {
        let offset = load(page, self.slot, Word::Consumed);
        let level = self.level() as usize;
        let mut bytes = vec![0u8; level];
        let mut have = 0;
        if level > 0 {
            // Into an empty pipe, so everything arrives in one piece.
            let copied = rustix::pipe::tee(
                &self.hold_reader,
                &scratch.writer,
                level,
                SpliceFlags::NONBLOCK,
            )?;
            while have < copied {
                match rustix::io::read(&scratch.reader, &mut bytes[have..copied])? {
                    0 => break,
                    read => have += read,
                }
            }
        }
        bytes.truncate(have);
        Ok(Held { offset, bytes })
    }

    /// How many of the held bytes can be logged now.
    ///
    /// Whole lines; all of it once the program has ended, where a line is too long, or
    /// where the holding pipe takes nothing more (many small writes fill its slots).
    #[must_use]
    pub fn ripe(&self, held: &Held) -> usize {
        let all = held.bytes.len();
        // Nothing will wake the worker for a rest that is left now.
        if self.source.is_none() {
            return all;
        }
        match held.bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => last + 1,
            None if all >= LONGEST_LINE || self.is_full() => all,
            None => 0,
        }
    }

    fn is_full(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.hold_writer, PollFlags::OUT)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready == 0)
    }

    /// Logs the first `length` held bytes and takes them off.
    ///
    /// A log that cannot be written loses the entry and not the container.
    pub fn commit(&self, page: &SharedWords, held: &Held, length: usize, log: Option<&mut Log>) {
        if length == 0 {
            return;
        }
        let slot = self.slot;
        store(page, slot, Word::Length, length as u64);
        store(page, slot, Word::Fill, self.level());
        store(page, slot, Word::Before, held.offset);
        store(
            page,
            slot,
            Word::LogSize,
            log.as_ref().map_or(u64::MAX, |log| log.size()),
        );
        store(page, slot, Word::Intent, 1);
        if let Some(log) = log {
            let lines = entries(self.stream, &held.bytes[..length]);
            let _ = log.append(&lines);
            self.take_off(length);
            store(page, slot, Word::Consumed, held.offset + length as u64);
            store(page, slot, Word::Intent, 0);
            let _ = log.rotate_if_full();
        } else {
            self.take_off(length);
            store(page, slot, Word::Consumed, held.offset + length as u64);
            store(page, slot, Word::Intent, 0);
        }
    }

    fn take_off(&self, length: usize) {
        let mut buffer = [0u8; 4096];
        let mut left = length;
        while left > 0 {
            let part = left.min(buffer.len());
            match rustix::io::read(&self.hold_reader, &mut buffer[..part]) {
                Ok(0) | Err(Errno::AGAIN) => return,
                Ok(read) => left -= read,
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Finishes or undoes what a predecessor was about when it died.
    pub fn recover(&self, page: &SharedWords, log: Option<&mut Log>) {
        let slot = self.slot;
        if load(page, slot, Word::Intent) == 0 {
            return;
        }
        let (length, fill) = (load(page, slot, Word::Length), load(page, slot, Word::Fill));
        let level = self.level();
        if level < fill {
            // The entry is in the log. The last bytes may still have to be taken off: one
            // read takes at most a page.
            let taken = fill - level;
            self.take_off(length.saturating_sub(taken) as usize);
            store(
                page,
                slot,
                Word::Consumed,
                load(page, slot, Word::Before) + length,
            );
        } else if let Some(log) = log {
            // Written in part or in whole, but not taken off: it will be written again.
            let size = load(page, slot, Word::LogSize);
            if size != u64::MAX {
                let _ = log.cut(size);
            }
        }
        store(page, slot, Word::Intent, 0);
    }
}

/// One log entry per line.
fn entries(stream: protocol::Stream, bytes: &[u8]) -> Vec<u8> {
    let time = log::format_time(crate::record::now());
    let mut lines = Vec::with_capacity(bytes.len() + bytes.len() / 4 + 128);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        for part in line.chunks(LONGEST_LINE) {
            log::format_entry(&mut lines, stream, &time, part);
        }
    }
    lines
}

/// A pipe of the process's own, empty between uses: what tee copies into.
#[derive(Debug)]
pub struct Scratch {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Scratch {
    /// Makes the pipe.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Scratch> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Scratch { reader, writer })
    }
}

/// A pipe for a program's standard stream; the birth gives it to the program's user.
///
/// # Errors
/// The kernel's.
pub fn program_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (SharedWords, Scratch, Output, OwnedFd) {
        let page = SharedWords::new().unwrap();
        let (reader, writer) = program_pipe().unwrap();
        let output = Output::new(&page, protocol::Stream::Stdout, reader).unwrap();
        (page, Scratch::new().unwrap(), output, writer)
    }

    #[test]
    fn only_whole_lines_are_ripe_until_the_end() {
        let (page, scratch, mut output, writer) = setup();
        rustix::io::write(&writer, b"one\ntwo\nthr").unwrap();
        assert!(output.fill());
        let held = output.look(&page, &scratch).unwrap();
        assert_eq!((held.offset, &held.bytes[..]), (0, &b"one\ntwo\nthr"[..]));
        assert_eq!(output.ripe(&held), 8);
        output.commit(&page, &held, 8, None);
        rustix::io::write(&writer, b"ee\nfour").unwrap();
        drop(writer);
        output.fill();
        let held = output.look(&page, &scratch).unwrap();
        assert_eq!((held.offset, &held.bytes[..]), (8, &b"three\nfour"[..]));
        assert_eq!(output.ripe(&held), 10);
    }

    #[test]
    fn many_small_writes_without_a_line_end_do_not_jam() {
        let (page, scratch, mut output, writer) = setup();
        for _ in 0..40 {
            rustix::io::write(&writer, b".").unwrap();
            output.fill();
            let held = output.look(&page, &scratch).unwrap();
            let ripe = output.ripe(&held);
            output.commit(&page, &held, ripe, None);
        }
        assert!(load(&page, output.slot, Word::Consumed) > 0);
    }

    /// A death before, between and after the three steps of a commit.
    #[test]
    fn a_successor_neither_loses_nor_doubles() {
        let directory = std::env::temp_dir().join(format!("gantry-stream-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for point in 0..3 {
            let path = directory.join(format!("{point}.log"));
            let order = crate::order::LogOrder {
                path: path.clone(),
                max_size: 0,
                max_files: 1,
            };
            let mut log = Log::open(&order).unwrap();
            let (page, scratch, mut output, writer) = setup();
            rustix::io::write(&writer, b"a\nb\n").unwrap();
            output.fill();
            let held = output.look(&page, &scratch).unwrap();
            store(&page, output.slot, Word::Length, 4);
            store(&page, output.slot, Word::Fill, 4);
            store(&page, output.slot, Word::LogSize, log.size());
            store(&page, output.slot, Word::Intent, 1);
            if point >= 1 {
                log.append(&entries(protocol::Stream::Stdout, &held.bytes))
                    .unwrap();
            }
            if point >= 2 {
                output.take_off(4);
            }
            let mut log = Log::open(&order).unwrap();
            output.recover(&page, Some(&mut log));
            let held = output.look(&page, &scratch).unwrap();
            let ripe = output.ripe(&held);
            output.commit(&page, &held, ripe, Some(&mut log));
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), 2, "death at point {point}: {text}");
            assert_eq!(load(&page, output.slot, Word::Consumed), 4);
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
