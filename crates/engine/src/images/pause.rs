//! Containers that stand still while they are committed, and go on whatever becomes of the commit.

use std::fs;
use std::io::PipeWriter;
use std::path::PathBuf;
use std::thread::JoinHandle;

use gantry_runtime::cgroup::{Group, Layout};
use gantry_sys::signal::{self, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::ImageError;
use crate::Engine;
use crate::error::Error;
use crate::operation::frozen_mark;

/// What tells a command to end. Its default action leaves no time to let anybody go on.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// A container that goes on when this is dropped, and when a signal ends this process before.
///
/// Who kills the process otherwise leaves a mark, by which the next command lets it go on.
pub(super) struct Paused {
    watch: Option<Watch>,
}

/// The thread that holds the frozen container, and lets go of it.
struct Watch {
    thread: JoinHandle<()>,
    done: PipeWriter,
    held: Vec<i32>,
}

/// A frozen group; it goes on when this is dropped.
struct Frozen {
    group: Group,
    mark: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Nobody could be told. With the mark left, the next command tries again.
        if self.group.thaw().is_ok() {
            let _ = fs::remove_file(&self.mark);
        }
    }
}

impl Paused {
    /// Stops a container. The caller holds its operation.
    ///
    /// Signals that end the process are blocked in the calling thread and in those it starts
    /// from here on, until this is dropped.
    ///
    /// # Errors
    /// [`ImageError::Pause`], [`Error::Path`].
    pub(super) fn now(engine: &Engine, id: &str, name: &str) -> Result<Paused, Error> {
        let failed = |source| ImageError::Pause {
            action: "pause",
            container: name.into(),
            source,
        };
        let layout = Layout::detect().map_err(failed)?;
        let group = Group::open(&layout, &engine.roots().cgroup(id)).map_err(failed)?;
        // One that is frozen already is somebody else's to thaw.
        if group.is_frozen().map_err(failed)? {
            return Ok(Paused { watch: None });
        }
        let mark = frozen_mark(engine.roots(), id);
        let fail = |source| Error::Path {
            action: "make",
            path: mark.clone(),
            source,
        };
        // First the mark: who kills this process in between must not leave it frozen for ever.
        fs::write(&mark, b"").map_err(fail)?;
        let frozen = Frozen {
            group,
            mark: mark.clone(),
        };
        // A signal from here on waits for the thread, or for the end of this function.
        let held: Vec<i32> = ENDING.iter().map(|signal| signal.as_raw()).collect();
        let held: Vec<i32> = held
            .into_iter()
            .filter(|&signal| !signal::is_ignored(signal))
            .collect();
        let signals = SignalFd::new(&held).map_err(fail)?;
        let started = frozen.group.freeze().map_err(failed).map_err(Error::from);
        let started = started.and_then(|()| {
            let (ended, done) = std::io::pipe().map_err(fail)?;
            let thread = std::thread::Builder::new()
                .name("commit-pause".into())
                .spawn(move || {
                    if let Some(signal) = wait(&signals, &ended) {
                        drop(frozen);
                        end_by(signal);
                    }
                })
                .map_err(fail)?;
            Ok((thread, done))
        });
        match started {
            Ok((thread, done)) => Ok(Paused {
                watch: Some(Watch { thread, done, held }),
            }),
            Err(error) => {
                let _ = signal::unblock(&held);
                Err(error)
            }
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Some(Watch { thread, done, held }) = self.watch.take() {
            drop(done);
            let _ = thread.join();
            let _ = signal::unblock(&held);
        }
    }
}

/// Waits for a signal, or for the other end of the pipe to be closed.
fn wait(signals: &SignalFd, ended: &std::io::PipeReader) -> Option<Signal> {
    loop {
        let mut both = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        match poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let is_over = !both[1].revents().is_empty();
        if let Ok(Some(number)) = signals.read() {
            return Signal::from_named_raw(number);
        }
        if is_over {
            return None;
        }
    }
}

/// Ends the process as the signal would have.
fn end_by(signal: Signal) {
    let _ = signal::unblock(&[signal.as_raw()]);
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    // As PID 1 of a namespace it does not die of signals that it does not handle.
    std::process::exit(128 + signal.as_raw());
}
