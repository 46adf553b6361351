//! Live connections to containers and execs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_supervisor::client::{Client, Event};
use gantry_supervisor::protocol::{Attach, Stream};
use rustix::termios::Winsize;

use crate::error::Error;
use crate::paths::Roots;
use crate::{Engine, names};

/// How to attach.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions {
    /// Feed standard input.
    pub stdin: bool,
    /// Get standard output.
    pub stdout: bool,
    /// Get standard error.
    pub stderr: bool,
    /// Initial size of the terminal: rows and columns.
    pub console_size: Option<(u16, u16)>,
}

/// What comes from a container or an exec.
#[derive(Debug, Eq, PartialEq)]
pub enum AttachEvent {
    /// Output.
    Output {
        /// Which stream.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// It has ended, and all of its output came before.
    Exited {
        /// Exit code by the shell's convention.
        code: i32,
    },
    /// Nothing to say; the descriptor to be polled may be another one from now on.
    Resumed,
    /// The connection is gone and nothing is known of the end.
    Closed,
}

/// A live connection to a container or an exec.
#[derive(Debug)]
pub struct Attachment {
    roots: Roots,
    container: String,
    client: Client,
    terminal: bool,
    stdin: Option<OwnedFd>,
    /// A second handle of the terminal, for its size.
    console: Option<OwnedFd>,
    ended: Option<i32>,
    settles: bool,
    exec: bool,
}

impl Attachment {
    pub(crate) fn new(
        roots: Roots,
        container: String,
        client: Client,
        terminal: bool,
        stdin: Option<OwnedFd>,
        settles: bool,
    ) -> Attachment {
        let console = if terminal {
            stdin.as_ref().and_then(|fd| fd.try_clone().ok())
        } else {
            None
        };
        Attachment {
            roots,
            container,
            client,
            terminal,
            stdin,
            console,
            ended: None,
            settles,
            exec: false,
        }
    }

    pub(crate) fn ended(
        roots: Roots,
        container: String,
        client: Client,
        code: i32,
        settles: bool,
    ) -> Attachment {
        Attachment {
            roots,
            container,
            client,
            terminal: false,
            stdin: None,
            console: None,
            ended: Some(code),
            settles,
            exec: false,
        }
    }

    pub(crate) fn of_exec(mut self) -> Attachment {
        self.exec = true;
        self
    }

    /// Id of the container.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.container
    }

    /// Whether there is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Where input goes: the writing end of the program's pipe, or its terminal. It may
    /// be non-blocking, so a write can take a part only, or say `WouldBlock`. Nothing of
    /// ours stands between, so nothing is lost when a process of ours dies.
    pub fn take_stdin(&mut self) -> Option<OwnedFd> {
        self.stdin.take()
    }

    /// Ends the program's standard input, once the descriptor of [`Attachment::take_stdin`]
    /// was dropped.
    ///
    /// # Errors
    /// None today.
    pub fn close_stdin(&mut self) -> Result<(), Error> {
        self.client.close_stdin();
        Ok(())
    }

    /// Readable when [`Attachment::next_event`] would not block; see also
    /// [`Attachment::has_buffered`].
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }

    /// Whether an event is there already, whatever the descriptor says.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        self.ended.is_some() || self.client.has_buffered()
    }

    /// Waits for the next event. The death of a supervisor process does not show.
    ///
    /// # Errors
    /// [`Error::Supervisor`].
    pub fn next_event(&mut self) -> Result<AttachEvent, Error> {
        if let Some(code) = self.ended.take() {
            return Ok(AttachEvent::Exited { code });
        }
        let event = self
            .client
            .next_event()
            .map_err(|source| Error::Supervisor {
                id: self.container.clone(),
                source,
            })?;
        Ok(match event {
            Event::Output { stream, bytes } => AttachEvent::Output { stream, bytes },
            Event::Exited { code } | Event::Failed { code, .. } => AttachEvent::Exited { code },
            Event::Started { .. } | Event::Resumed => AttachEvent::Resumed,
            Event::Lost => self.find_end(),
        })
    }

    /// The supervisor is gone: the record tells how the container ended.
    fn find_end(&self) -> AttachEvent {
        if self.exec {
            return AttachEvent::Closed;
        }
        match gantry_supervisor::record::read_state(&self.roots.container_run(&self.container)) {
            Ok(Some(state)) if state.status == gantry_supervisor::order::RunStatus::Exited => {
                AttachEvent::Exited {
                    code: state.exit_code,
                }
            }
            _ => AttachEvent::Closed,
        }
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// None today.
    pub fn signal(&mut self, signal: i32) -> Result<(), Error> {
        self.client.signal(signal);
        Ok(())
    }

    /// Tells the terminal its size.
    ///
    /// # Errors
    /// None today: a terminal that is gone has no size.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<(), Error> {
        if let Some(console) = &self.console {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let _ = rustix::termios::tcsetwinsize(console, size);
        }
        Ok(())
    }

    /// To be called after the end: waits until nothing is left of a container that is
    /// removed at its end.
    ///
    /// # Errors
    /// What the removal says.
    pub fn finish(self, engine: &Engine) -> Result<(), Error> {
        if self.exec || !self.settles {
            return Ok(());
        }
        self.client.wait_for_hangup();
        engine.settle(&self.container)
    }
}

impl Engine {
    /// Attaches to a running container.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NotRunning`], [`Error::Supervisor`].
    pub fn attach(&self, name: &str, options: AttachOptions) -> Result<Attachment, Error> {
        let known = self.known(name)?;
        if !self.is_running(&known.id) {
            return Err(Error::NotRunning { id: known.id });
        }
        let lost = |source| Error::Supervisor {
            id: known.id.clone(),
            source,
        };
        let directory = self.roots.sandbox(&self.sandbox_of(&known.id));
        let attach = Attach {
            client: names::random_id(),
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            resume: None,
            settles: false,
        };
        let mut client = Client::attach(&directory, &known.id, attach).map_err(lost)?;
        match client.next_event().map_err(lost)? {
            Event::Started {
                terminal, stdin, ..
            } => {
                let mut attachment = Attachment::new(
                    self.roots.clone(),
                    known.id.clone(),
                    client,
                    terminal,
                    stdin,
                    false,
                );
                if let Some((rows, columns)) = options.console_size {
                    attachment.resize(rows, columns)?;
                }
                Ok(attachment)
            }
            Event::Exited { code } => Ok(Attachment::ended(
                self.roots.clone(),
                known.id.clone(),
                client,
                code,
                false,
            )),
            _ => Err(Error::NotRunning { id: known.id }),
        }
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}
