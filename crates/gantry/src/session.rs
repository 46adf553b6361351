//! An attached session: this process's standard streams and signals on one side, a
//! container's on the other, until one of them ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use gantry_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::api::{AttachEvent, Attachment, Error, Stream};
use crate::error::CliError;
use crate::parse::detach_keys::DetachFilter;
use crate::terminal;

/// A pipe that polls as writable takes this much without blocking (`PIPE_BUF`).
const PIPE_CHUNK: usize = 4096;
/// A terminal's input queue is smaller, and a blocked write would hold up signals.
const TERMINAL_CHUNK: usize = 256;
/// Largest read of standard input.
const INPUT: usize = 32 << 10;

/// How long a program may take to accept what was typed before the detach keys.
const LAST_INPUT: Duration = Duration::from_millis(200);

/// The far side of a session.
pub trait Peer {
    /// Becomes readable when [`Peer::next_event`] would not block.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Whether an event is there already, whatever the descriptor says.
    fn has_buffered(&self) -> bool;
    /// What happened next.
    fn next_event(&mut self) -> Result<AttachEvent, Error>;
    /// Sends a signal to the process.
    fn signal(&mut self, signal: i32) -> Result<(), Error>;
    /// Tells the process's terminal its size.
    fn resize(&mut self, rows: u16, columns: u16) -> Result<(), Error>;
    /// The way into the process's standard input.
    fn take_stdin(&mut self) -> Option<OwnedFd>;
    /// Ends the process's standard input.
    fn close_stdin(&mut self) -> Result<(), Error>;
}

impl Peer for Attachment {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
    fn has_buffered(&self) -> bool {
        Attachment::has_buffered(self)
    }
    fn next_event(&mut self) -> Result<AttachEvent, Error> {
        Attachment::next_event(self)
    }
    fn signal(&mut self, signal: i32) -> Result<(), Error> {
        Attachment::signal(self, signal)
    }
    fn resize(&mut self, rows: u16, columns: u16) -> Result<(), Error> {
        Attachment::resize(self, rows, columns)
    }
    fn take_stdin(&mut self) -> Option<OwnedFd> {
        Attachment::take_stdin(self)
    }
    fn close_stdin(&mut self) -> Result<(), Error> {
        Attachment::close_stdin(self)
    }
}

/// How a session behaves.
#[derive(Debug, Default)]
pub struct Options {
    /// Copy standard input to the process.
    pub stdin: bool,
    /// The process has a terminal: its size follows ours.
    pub terminal: bool,
    /// Key sequence that detaches; looked for only when the process has a terminal.
    pub detach_keys: Vec<u8>,
    /// Hand signals on to the process.
    pub signal_proxy: bool,
}

/// The near side of a session.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// Where input comes from.
    pub stdin: BorrowedFd<'a>,
    /// Where output goes.
    pub stdout: BorrowedFd<'a>,
    /// Where errors go.
    pub stderr: BorrowedFd<'a>,
}

impl Local<'static> {
    /// The streams of this process.
    pub fn own() -> Local<'static> {
        Local {
            stdin: rustix::stdio::stdin(),
            stdout: rustix::stdio::stdout(),
            stderr: rustix::stdio::stderr(),
        }
    }
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The process exited.
    Exited(i32),
    /// The person typed the detach keys.
    Detached,
    /// The streams ended before the process did.
    Closed,
    /// Nobody reads our output any more.
    BrokenPipe,
    /// A signal that is not handed on told this process to go.
    Signalled(i32),
}

/// Signals that a session takes over: all that are handed on, or those that end it.
///
/// SIGTSTP and its kin keep their meaning: they stop the client and not the container.
pub fn signals(proxy: bool) -> &'static [i32] {
    use rustix::process::Signal;
    const ALL: &[i32] = &[
        Signal::HUP.as_raw(),
        Signal::INT.as_raw(),
        Signal::QUIT.as_raw(),
        Signal::TERM.as_raw(),
        Signal::WINCH.as_raw(),
        Signal::USR1.as_raw(),
        Signal::USR2.as_raw(),
        Signal::ALARM.as_raw(),
        Signal::CONT.as_raw(),
    ];
    if proxy { ALL } else { &ALL[..5] }
}

/// Bytes on their way to a descriptor that may not take them yet.
#[derive(Debug)]
struct Pending<'a> {
    fd: BorrowedFd<'a>,
    bytes: Vec<u8>,
    done: usize,
    chunk: usize,
}

impl<'a> Pending<'a> {
    fn new(fd: BorrowedFd<'a>) -> Self {
        let regular = rustix::fs::fstat(fd)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file());
        Pending {
            fd,
            bytes: Vec::new(),
            done: 0,
            // A file never makes us wait for a reader.
            chunk: if regular { usize::MAX } else { PIPE_CHUNK },
        }
    }

    fn is_empty(&self) -> bool {
        self.done == self.bytes.len()
    }

    fn write_some(&mut self) -> Result<(), Errno> {
        write_some(self.fd, &self.bytes, &mut self.done, self.chunk)
    }
}

/// Writes at most `chunk` bytes of what is left after `done`.
fn write_some(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    done: &mut usize,
    chunk: usize,
) -> Result<(), Errno> {
    let end = bytes.len().min(done.saturating_add(chunk));
    match rustix::io::write(fd, &bytes[*done..end]) {
        Ok(count) => {
            *done += count;
            Ok(())
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Standard input on its way to the process.
struct Input {
    /// Dropped once our own input has ended or the process's has.
    sink: Option<OwnedFd>,
    filter: DetachFilter,
    bytes: Vec<u8>,
    done: usize,
    chunk: usize,
    ended: bool,
}

impl Input {
    fn wants_more(&self) -> bool {
        self.sink.is_some() && !self.ended && self.done == self.bytes.len()
    }

    fn has_more(&self) -> bool {
        self.sink.is_some() && self.done < self.bytes.len()
    }

    /// Reads from `stdin`; true when the detach keys were typed.
    fn read(&mut self, stdin: BorrowedFd<'_>, buffer: &mut [u8]) -> bool {
        match rustix::io::read(stdin, &mut *buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.bytes.clear();
                self.done = 0;
                return self.filter.filter(&buffer[..count], &mut self.bytes);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that hung up, or a descriptor that was closed: the input is over.
            Err(_) => self.ended = true,
        }
        false
    }

    /// Writes to the process; an error means that it reads no more.
    fn write(&mut self) {
        let Some(sink) = &self.sink else { return };
        if write_some(sink.as_fd(), &self.bytes, &mut self.done, self.chunk).is_err() {
            self.ended = true;
            self.done = self.bytes.len();
        }
    }

    /// Whether the process's input is to be ended now.
    fn is_over(&self) -> bool {
        self.sink.is_some() && self.ended && self.done == self.bytes.len()
    }
}

/// Runs a session to its end.
///
/// # Errors
/// The engine's, and those of the host's streams other than a reader that went away.
pub fn run<P: Peer>(
    peer: &mut P,
    options: &Options,
    signals: &SignalFd,
    local: Local<'_>,
) -> Result<End, CliError> {
    let mut input = Input {
        sink: if options.stdin {
            peer.take_stdin()
        } else {
            None
        },
        filter: DetachFilter::new(if options.terminal {
            options.detach_keys.clone()
        } else {
            Vec::new()
        }),
        bytes: Vec::new(),
        done: 0,
        chunk: if options.terminal {
            TERMINAL_CHUNK
        } else {
            PIPE_CHUNK
        },
        ended: false,
    };
    let mut outputs = [Pending::new(local.stdout), Pending::new(local.stderr)];
    let mut buffer = vec![0; INPUT];
    loop {
        let ready = wait(peer, &input, &outputs, signals, local)?;
        if ready.signal
            && let Some(end) = take_signals(peer, options, signals, local)?
        {
            return Ok(end);
        }
        for (output, ready) in outputs.iter_mut().zip(ready.outputs) {
            if ready && output.write_some().is_err() {
                return Ok(End::BrokenPipe);
            }
        }
        if ready.sink {
            input.write();
        }
        if ready.stdin && input.read(local.stdin, &mut buffer) {
            // What was typed just before the keys is the program's all the same.
            let until = Instant::now() + LAST_INPUT;
            while input.has_more() && !input.ended && Instant::now() < until {
                input.write();
                if input.has_more() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            return Ok(End::Detached);
        }
        if input.is_over() {
            input.sink = None;
            // The process may be gone already; then nobody waits for the end of its input.
            let _ = peer.close_stdin();
        }
        if ready.peer {
            match peer.next_event()? {
                AttachEvent::Output { stream, bytes } => {
                    let output = match stream {
                        Stream::Stdout => &mut outputs[0],
                        Stream::Stderr => &mut outputs[1],
                    };
                    (output.bytes, output.done) = (bytes, 0);
                }
                AttachEvent::Exited { code } => return Ok(End::Exited(code)),
                AttachEvent::Resumed => {}
                AttachEvent::Closed => return Ok(End::Closed),
            }
        }
    }
}

/// What may be done without waiting.
#[derive(Debug, Default)]
struct Ready {
    peer: bool,
    signal: bool,
    stdin: bool,
    sink: bool,
    outputs: [bool; 2],
}

/// Waits until something can be done.
fn wait<P: Peer>(
    peer: &P,
    input: &Input,
    outputs: &[Pending<'_>; 2],
    signals: &SignalFd,
    local: Local<'_>,
) -> Result<Ready, CliError> {
    let descriptor = peer.descriptor();
    let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
    let mut roles = vec![Role::Signal];
    let mut add = |fd, flags, role| {
        polled.push(PollFd::from_borrowed_fd(fd, flags));
        roles.push(role);
    };
    // What came last goes out before more is asked for: a slow reader slows the process
    // down and does not fill our memory.
    let mut drained = true;
    for (index, output) in outputs.iter().enumerate() {
        if !output.is_empty() {
            drained = false;
            add(output.fd, PollFlags::OUT, Role::Output(index));
        }
    }
    if drained {
        add(descriptor, PollFlags::IN, Role::Peer);
    }
    match &input.sink {
        Some(sink) if input.has_more() => add(sink.as_fd(), PollFlags::OUT, Role::Sink),
        _ if input.wants_more() => add(local.stdin, PollFlags::IN, Role::Stdin),
        _ => {}
    }
    // What was read ahead shows at no descriptor; the others still get their turn.
    let buffered = drained && peer.has_buffered();
    let no_wait = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut polled, buffered.then_some(&no_wait)) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(error.into()),
    }
    let mut ready = Ready::default();
    for (polled, role) in polled.iter().zip(roles) {
        let is_ready = !polled.revents().is_empty();
        match role {
            Role::Signal => ready.signal = is_ready,
            Role::Peer => ready.peer = is_ready || buffered,
            Role::Stdin => ready.stdin = is_ready,
            Role::Sink => ready.sink = is_ready,
            Role::Output(index) => ready.outputs[index] = is_ready,
        }
    }
    Ok(ready)
}

/// What a polled descriptor stands for.
#[derive(Clone, Copy)]
enum Role {
    Signal,
    Peer,
    Stdin,
    Sink,
    Output(usize),
}

/// Hands on the signals that came; an end when one of them is for us.
fn take_signals<P: Peer>(
    peer: &mut P,
    options: &Options,
    signals: &SignalFd,
    local: Local<'_>,
) -> Result<Option<End>, CliError> {
    let window = rustix::process::Signal::WINCH.as_raw();
    let read = || {
        signals.read().map_err(|source| CliError::System {
            action: "cannot read signals",
            source,
        })
    };
    while let Some(signal) = read()? {
        if options.terminal && signal == window {
            let size = terminal::size(local.stdout).or_else(|| terminal::size(local.stdin));
            if let Some((rows, columns)) = size {
                // The process may have exited meanwhile: its exit is what counts.
                let _ = peer.resize(rows, columns);
            }
        } else if options.signal_proxy {
            let _ = peer.signal(signal);
        } else if signal != window {
            return Ok(Some(End::Signalled(signal)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
