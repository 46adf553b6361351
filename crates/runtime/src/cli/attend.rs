//! Waiting for a program in the foreground: its terminal is copied, signals are passed on,
//! and its exit code is returned.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use gantry_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions};
use rustix::termios::{OptionalActions, Termios};

use super::error::{CliError, Context as _};
use super::notify::Listener;

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;

/// Blocks the signals that are passed on, so that none is lost from now on. Those of a
/// fault of this process, and those by which a terminal stops it, keep their action.
///
/// # Errors
/// [`CliError::Step`].
pub fn hold_signals() -> Result<SignalFd, CliError> {
    const KEPT: [i32; 12] = [4, 5, 6, 7, 8, 9, 11, 13, 19, 21, 22, 23];
    let passed: Vec<i32> = (1..=31).filter(|signal| !KEPT.contains(signal)).collect();
    SignalFd::new(&passed).step("cannot take over signals")
}

/// A program in the foreground.
#[derive(Debug)]
pub struct Attended<'a> {
    /// Its handle.
    pub process: BorrowedFd<'a>,
    /// Its id on the host.
    pub pid: i32,
    /// The signals that were held.
    pub signals: SignalFd,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Where it reports its readiness.
    pub listener: Option<Listener>,
}

impl Attended<'_> {
    /// Waits for the program's end; returns its exit code, or 128 and its last signal.
    ///
    /// # Errors
    /// [`CliError::Step`].
    pub fn wait(mut self) -> Result<u8, CliError> {
        let mut console = self.terminal.take().map(Console::new);
        loop {
            let ended = self.step(console.as_mut())?;
            if ended {
                break;
            }
        }
        if let Some(console) = &mut console {
            console.drain();
        }
        let status = rustix::process::waitid(WaitId::PidFd(self.process), WaitIdOptions::EXITED)
            .step("cannot wait for the program")?;
        let code = status.map_or(255, |status| {
            match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                (None, None) => 255,
            }
        });
        Ok(code as u8)
    }

    /// Does what there is to do; returns whether the program has ended.
    fn step(&mut self, console: Option<&mut Console>) -> Result<bool, CliError> {
        let mut events = vec![
            PollFd::from_borrowed_fd(self.process, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        let stdin = rustix::stdio::stdin();
        if let Some(console) = &console {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, !console.output_ended);
            wanted.set(PollFlags::OUT, !console.input.is_empty());
            events.push(PollFd::from_borrowed_fd(console.master.as_fd(), wanted));
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, console.input.is_empty());
            // One that hung up would be reported although nothing is asked for.
            if !console.input_ended {
                events.push(PollFd::from_borrowed_fd(stdin, wanted));
            }
        }
        let listened = self.listener.as_ref().map(|listener| {
            events.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
            events.len() - 1
        });
        match poll(&mut events, None) {
            Err(Errno::INTR) => return Ok(false),
            other => other.step("cannot wait for the program")?,
        };
        let happened: Vec<PollFlags> = events.iter().map(PollFd::revents).collect();
        drop(events);
        if let Some(index) = listened
            && !happened[index].is_empty()
            && let Some(listener) = &self.listener
            && listener.pass_on(self.pid).unwrap_or(true)
        {
            self.listener = None;
        }
        let mut size_changed = false;
        if !happened[1].is_empty() {
            while let Ok(Some(signal)) = self.signals.read() {
                match signal {
                    SIGCHLD => self.reap(),
                    SIGWINCH => size_changed = true,
                    other => self.pass_on(other),
                }
            }
        }
        if let Some(console) = console {
            if size_changed {
                console.fit();
            }
            if !happened[2].is_empty() {
                console.move_output();
                console.write_input();
            }
            if listened != Some(3) && happened.get(3).is_some_and(|flags| !flags.is_empty()) {
                console.read_input();
            }
        }
        Ok(!happened[0].is_empty())
    }

    fn pass_on(&self, number: i32) {
        let _ = gantry_sys::signal::send(self.process, number);
    }

    /// Takes leave of orphans that this process has adopted.
    fn reap(&self) {
        while let Ok(Some(pid)) = gantry_sys::process::ended_child() {
            if pid == self.pid {
                return;
            }
            let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
        }
    }
}

/// The terminal of the program, copied from and to this process's own.
#[derive(Debug)]
struct Console {
    master: OwnedFd,
    before: Option<Termios>,
    input: Vec<u8>,
    input_ended: bool,
    output_ended: bool,
}

impl Console {
    fn new(master: OwnedFd) -> Console {
        // A program that does not read must not keep its output from being copied.
        let _ = rustix::io::ioctl_fionbio(&master, true);
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        let console = Console {
            master,
            before,
            input: Vec::new(),
            input_ended: false,
            output_ended: false,
        };
        console.fit();
        console
    }

    /// Gives the terminal the size of this process's own.
    fn fit(&self) {
        let own = [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ];
        let size = own
            .into_iter()
            .find_map(|fd| rustix::termios::tcgetwinsize(fd).ok());
        if let Some(size) = size.filter(|size| size.ws_row > 0 && size.ws_col > 0) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn read_input(&mut self) {
        let mut buffer = [0u8; 8192];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(0) => self.input_ended = true,
            Ok(length) => {
                self.input.extend_from_slice(&buffer[..length]);
                self.write_input();
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input_ended = true,
        }
    }

    fn write_input(&mut self) {
        if self.input.is_empty() {
            return;
        }
        match rustix::io::write(&self.master, &self.input) {
            Ok(length) => drop(self.input.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input.clear(),
        }
    }

    /// Copies what there is; returns whether there was something.
    fn move_output(&mut self) -> bool {
        let mut buffer = [0u8; 8192];
        match rustix::io::read(&self.master, &mut buffer[..]) {
            Ok(0) => self.output_ended = true,
            Ok(length) => {
                let mut rest = &buffer[..length];
                while !rest.is_empty() {
                    match rustix::io::write(rustix::stdio::stdout(), rest) {
                        Ok(length) => rest = &rest[length..],
                        Err(Errno::INTR) => {}
                        Err(_) => return true,
                    }
                }
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => {}
            // EIO: nobody has the other side open.
            Err(_) => self.output_ended = true,
        }
        false
    }

    /// Copies what the program has left in its terminal.
    fn drain(&mut self) {
        while self.move_output() {}
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let stdin = rustix::stdio::stdin();
            let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Now, before);
        }
    }
}
