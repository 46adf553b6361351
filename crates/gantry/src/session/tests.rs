use super::*;
use std::collections::VecDeque;
use std::io::{Read, Write};

/// A far side made of pipes: one byte of `ready` stands for one event.
struct Fake {
    ready: OwnedFd,
    _writer: OwnedFd,
    events: VecDeque<AttachEvent>,
    stdin: Option<OwnedFd>,
    closed: bool,
    buffered: bool,
}

impl Fake {
    fn new(events: Vec<AttachEvent>, stdin: Option<OwnedFd>) -> Fake {
        let (ready, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, &vec![b'.'; events.len()]).unwrap();
        Fake {
            ready,
            _writer: writer,
            events: events.into(),
            stdin,
            closed: false,
            buffered: false,
        }
    }
}

impl Peer for Fake {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
    fn has_buffered(&self) -> bool {
        self.buffered && !self.events.is_empty()
    }
    fn next_event(&mut self) -> Result<AttachEvent, Error> {
        if !self.buffered {
            rustix::io::read(&self.ready, &mut [0u8; 1]).unwrap();
        }
        Ok(self.events.pop_front().unwrap())
    }
    fn signal(&mut self, _signal: i32) -> Result<(), Error> {
        Ok(())
    }
    fn resize(&mut self, _rows: u16, _columns: u16) -> Result<(), Error> {
        Ok(())
    }
    fn take_stdin(&mut self) -> Option<OwnedFd> {
        self.stdin.take()
    }
    fn close_stdin(&mut self) -> Result<(), Error> {
        self.closed = true;
        // The process sees the end of its input and exits.
        rustix::io::write(&self._writer, b".").unwrap();
        self.events.push_back(AttachEvent::Exited { code: 7 });
        Ok(())
    }
}

fn output(stream: Stream, text: &[u8]) -> AttachEvent {
    AttachEvent::Output {
        stream,
        bytes: text.to_vec(),
    }
}

struct Pipes {
    stdin: (OwnedFd, OwnedFd),
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
}

impl Pipes {
    fn new() -> Pipes {
        Pipes {
            stdin: rustix::pipe::pipe().unwrap(),
            stdout: rustix::pipe::pipe().unwrap(),
            stderr: rustix::pipe::pipe().unwrap(),
        }
    }
    fn local(&self) -> Local<'_> {
        Local {
            stdin: self.stdin.0.as_fd(),
            stdout: self.stdout.1.as_fd(),
            stderr: self.stderr.1.as_fd(),
        }
    }
    fn collect(self) -> (String, String) {
        let read = |(reader, writer): (OwnedFd, OwnedFd)| {
            drop(writer);
            let mut text = String::new();
            std::fs::File::from(reader)
                .read_to_string(&mut text)
                .unwrap();
            text
        };
        (read(self.stdout), read(self.stderr))
    }
}

/// No signal of a session's is taken: the test's threads share the process.
fn no_signals() -> SignalFd {
    SignalFd::new(&[]).unwrap()
}

#[test]
fn streams_stay_apart_and_the_exit_code_arrives() {
    let pipes = Pipes::new();
    let mut fake = Fake::new(
        vec![
            output(Stream::Stdout, b"out\n"),
            output(Stream::Stderr, b"err\n"),
            output(Stream::Stdout, b"more\n"),
            AttachEvent::Exited { code: 3 },
        ],
        None,
    );
    let end = run(&mut fake, &Options::default(), &no_signals(), pipes.local()).unwrap();
    assert_eq!(end, End::Exited(3));
    assert_eq!(pipes.collect(), ("out\nmore\n".into(), "err\n".into()));
}

#[test]
fn what_was_read_ahead_is_not_waited_for() {
    let pipes = Pipes::new();
    let events = vec![
        output(Stream::Stdout, b"a"),
        output(Stream::Stdout, b"b"),
        AttachEvent::Exited { code: 0 },
    ];
    let mut fake = Fake::new(events, None);
    // Nothing shows at the descriptor any more.
    rustix::io::read(&fake.ready, &mut [0u8; 8]).unwrap();
    fake.buffered = true;
    let end = run(&mut fake, &Options::default(), &no_signals(), pipes.local()).unwrap();
    assert_eq!(end, End::Exited(0));
    assert_eq!(pipes.collect().0, "ab");
}

#[test]
fn input_is_copied_and_its_end_passed_on() {
    let mut pipes = Pipes::new();
    let (reader, sink) = rustix::pipe::pipe().unwrap();
    // More than a pipe holds, so that the sink must be waited for.
    let text: Vec<u8> = (0..300_000).map(|index| (index % 251) as u8).collect();
    let (stdin, writer) = rustix::pipe::pipe().unwrap();
    pipes.stdin.0 = stdin;
    let sent = text.clone();
    let feeder = std::thread::spawn(move || {
        std::fs::File::from(writer).write_all(&sent).unwrap();
    });
    let drain = std::thread::spawn(move || {
        let mut received = Vec::new();
        std::fs::File::from(reader)
            .read_to_end(&mut received)
            .unwrap();
        received
    });
    let mut fake = Fake::new(Vec::new(), Some(sink));
    let options = Options {
        stdin: true,
        // Without a terminal the keys are plain bytes.
        detach_keys: vec![16, 17],
        ..Options::default()
    };
    let end = run(&mut fake, &options, &no_signals(), pipes.local()).unwrap();
    assert_eq!(end, End::Exited(7));
    assert!(fake.closed);
    feeder.join().unwrap();
    assert_eq!(drain.join().unwrap(), text);
}

#[test]
fn a_process_that_reads_no_more_does_not_end_the_session() {
    let pipes = Pipes::new();
    let (reader, sink) = rustix::pipe::pipe().unwrap();
    drop(reader);
    rustix::io::write(&pipes.stdin.1, b"text").unwrap();
    let mut fake = Fake::new(Vec::new(), Some(sink));
    let options = Options {
        stdin: true,
        ..Options::default()
    };
    let end = run(&mut fake, &options, &no_signals(), pipes.local()).unwrap();
    assert_eq!(end, End::Exited(7));
}

#[test]
fn detach_keys_leave_the_process_alone() {
    let pipes = Pipes::new();
    let (reader, sink) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&pipes.stdin.1, b"ls\x10").unwrap();
    let stdin = rustix::io::dup(&pipes.stdin.1).unwrap();
    let typist = std::thread::spawn(move || {
        // Only once the first keys have arrived: the sequence comes in two reads.
        let mut seen = [0; 2];
        std::fs::File::from(reader).read_exact(&mut seen).unwrap();
        rustix::io::write(&stdin, b"\x11").unwrap();
        seen
    });
    let mut fake = Fake::new(Vec::new(), Some(sink));
    let options = Options {
        stdin: true,
        terminal: true,
        detach_keys: vec![16, 17],
        signal_proxy: false,
    };
    let end = run(&mut fake, &options, &no_signals(), pipes.local()).unwrap();
    assert_eq!(end, End::Detached);
    assert!(!fake.closed);
    assert_eq!(&typist.join().unwrap(), b"ls");
}

#[test]
fn a_reader_that_went_away_ends_the_session_quietly() {
    let mut pipes = Pipes::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    pipes.stdout.1 = writer;
    let mut fake = Fake::new(vec![output(Stream::Stdout, b"x")], None);
    let end = run(&mut fake, &Options::default(), &no_signals(), pipes.local()).unwrap();
    assert_eq!(end, End::BrokenPipe);
}

#[test]
fn a_slow_reader_gets_everything() {
    let pipes = Pipes::new();
    let text = vec![b'x'; 200_000];
    let mut fake = Fake::new(
        vec![
            output(Stream::Stdout, &text),
            AttachEvent::Exited { code: 0 },
        ],
        None,
    );
    let reader = rustix::io::dup(&pipes.stdout.0).unwrap();
    let drain = std::thread::spawn(move || {
        let mut received = vec![0; 200_000];
        std::fs::File::from(reader)
            .read_exact(&mut received)
            .unwrap();
        received
    });
    let end = run(&mut fake, &Options::default(), &no_signals(), pipes.local()).unwrap();
    assert_eq!(end, End::Exited(0));
    assert_eq!(drain.join().unwrap(), text);
}
